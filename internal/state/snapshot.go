package state

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// ImportRecord is the record of an import of one table.
type ImportRecord struct {
	Table string `json:"table"`
	// Clock is the time of the snapshot. The snapshot holds every change up to and including this
	// time, and no later change.
	Clock Clock `json:"clock"`
	// Job is the id of the export that the rows came from, or "" if only the schema was imported.
	Job string `json:"job,omitempty"`
	// Identity is the identity of the destination. Destination is its masked URL, for earlier
	// versions.
	Identity    string `json:"identity,omitempty"`
	Destination string `json:"destination"`
	// ID is the id of the destination if the destination has stored the snapshot in its own
	// records, else "".
	ID string `json:"id,omitempty"`
	// Rows is the number of imported rows.
	Rows       int64     `json:"rows"`
	ImportedAt time.Time `json:"importedAt"`
	// Begun is true if the server has started to follow the stream from this snapshot.
	Begun bool `json:"begun"`
	// Partial reports whether the import loaded only some of the rows, or kept rows that the
	// source may have deleted.
	Partial bool `json:"partial,omitempty"`
	// Whole reports whether the import loaded every table of the source.
	Whole bool `json:"whole,omitempty"`
	// Reference reports whether the reference server imported the snapshot. Clock is then the
	// newest time of the table's files, so rows from older files may lack earlier changes.
	Reference bool `json:"reference,omitempty"`
	// Earlier is the clock of the last earlier import that replaced every row of the table. It is
	// set only if this import did not replace every row. It is zero if there was no such import.
	Earlier Clock `json:"earlier,omitzero"`
}

// Replaced returns the clock of the last import that replaced every row of the table in the
// destination, or zero if there was no such import.
func (s *ImportRecord) Replaced() cdc.Timestamp {
	if s.replaces() {
		return s.Clock.Timestamp
	}
	return s.Earlier.Timestamp
}

// replaces reports whether the import replaced every row of the table.
func (s *ImportRecord) replaces() bool {
	schemaOnly := s.Job == "" && s.Rows == 0
	return !s.Partial && !s.Reference && !schemaOnly
}

// merge merges an earlier snapshot of the table into s, which is a partial snapshot. The stream
// must not have been followed from the earlier snapshot yet, so that the changes since the older
// clock are still to be read.
func (s *ImportRecord) merge(before *ImportRecord) {
	if before.Clock.Compare(s.Clock.Timestamp) < 0 {
		s.Clock = before.Clock
	}
	if before.replaces() {
		s.Partial, s.Whole = false, before.Whole
	}
}

// Clock is a cdc.Timestamp that is stored as text.
type Clock struct{ cdc.Timestamp }

// MarshalText returns c in the form that cdc.ParseTimestamp parses.
func (c Clock) MarshalText() ([]byte, error) { return c.Append(nil), nil }

// UnmarshalText parses text with cdc.ParseTimestamp.
func (c *Clock) UnmarshalText(text []byte) error {
	t, err := cdc.ParseTimestamp(string(text))
	c.Timestamp = t
	return err
}

func (s *ImportRecord) of(at DestinationKey) bool { return at.Owns(s.Identity, s.Destination) }

// Snapshots returns the latest snapshot of every table that was imported into the destination, by
// table name.
func (d *Dir) Snapshots(at DestinationKey) (map[string]ImportRecord, error) {
	all := make(map[string]ImportRecord)
	err := d.view(func(tx *bbolt.Tx) (err error) {
		all, err = snapshots(tx, at)
		return err
	})
	return all, err
}

func snapshots(tx *bbolt.Tx, at DestinationKey) (map[string]ImportRecord, error) {
	all := make(map[string]ImportRecord)
	use := func(key, text []byte) error {
		var s ImportRecord
		if err := json.Unmarshal(text, &s); err != nil {
			return fmt.Errorf("decode the snapshot of %q: %w", key, err)
		}
		if known, ok := all[s.Table]; s.of(at) && (!ok || !s.ImportedAt.Before(known.ImportedAt)) {
			all[s.Table] = s
		}
		return nil
	}
	if others := tx.Bucket(bucketOthers); others != nil { // nil: the database is from an earlier version
		if err := others.ForEach(use); err != nil {
			return nil, err
		}
	}
	return all, tx.Bucket(bucketSnapshots).ForEach(use)
}

// RecordSnapshots records snapshots of the destination, either all of them or none. They replace
// the destination's earlier snapshots of the same tables.
func (d *Dir) RecordSnapshots(at DestinationKey, all ...ImportRecord) error {
	if len(all) == 0 {
		return nil
	}
	return d.update(func(tx *bbolt.Tx) error {
		for _, s := range all {
			if err := record(tx, at, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func record(tx *bbolt.Tx, at DestinationKey, s ImportRecord) error {
	before, err := current(tx, at, s.Table)
	if err != nil {
		return err
	}
	if s.Partial && before.Table != "" && !before.Begun && !before.Reference {
		s.merge(&before)
	}
	if s.Replaced().IsZero() {
		s.Earlier.Timestamp = before.Replaced()
	}
	return putSnapshot(tx, at, s)
}

func putSnapshot(tx *bbolt.Tx, at DestinationKey, s ImportRecord) error {
	s.Identity, s.Destination = at.Identity, at.Masked
	return put(tx, bucketSnapshots, s.Table, s)
}

// current returns the destination's snapshot of the table, or zero if there is none. If the record
// in bucketSnapshots belongs to another destination, current copies that record to bucketOthers,
// under otherKey. It removes the destination's own records from bucketOthers; the caller then
// stores the result in bucketSnapshots.
func current(tx *bbolt.Tx, at DestinationKey, table string) (own ImportRecord, err error) {
	var last ImportRecord
	switch ok, err := get(tx, bucketSnapshots, table, &last); {
	case err != nil:
		return own, err
	case last.of(at):
		own = last
	case ok:
		if err := put(tx, bucketOthers, otherKey(table, cmp.Or(last.Identity, last.Destination)), last); err != nil {
			return own, err
		}
	}
	var stale []string
	err = eachOther(tx, bucketOthers, table, func(key string, s ImportRecord) {
		if !s.of(at) {
			return
		}
		stale = append(stale, key)
		if own.Table == "" || s.ImportedAt.After(own.ImportedAt) {
			own = s
		}
	})
	for _, key := range stale {
		err = errors.Join(err, tx.Bucket(bucketOthers).Delete([]byte(key)))
	}
	return own, err
}

// Adopt stores the destination's snapshots in bucketSnapshots, with the current spelling of its
// URL. Earlier versions of eds read only these records.
func (d *Dir) Adopt(at DestinationKey) error {
	return d.update(func(tx *bbolt.Tx) error { return adopt(tx, at) })
}

func adopt(tx *bbolt.Tx, at DestinationKey) error {
	all, err := snapshots(tx, at)
	for table := range all {
		own, e := current(tx, at, table)
		if e == nil {
			e = putSnapshot(tx, at, own)
		}
		err = errors.Join(err, e)
	}
	return err
}

// MarkBegun records that the server has started to follow the stream from the recorded snapshots of
// the given tables. It skips tables without a snapshot.
func (d *Dir) MarkBegun(tables ...string) error {
	return d.update(func(tx *bbolt.Tx) error {
		for _, table := range tables {
			var s ImportRecord
			ok, err := get(tx, bucketSnapshots, table, &s)
			if err != nil {
				return err
			}
			if !ok || s.Begun {
				continue
			}
			s.Begun = true
			if err := put(tx, bucketSnapshots, table, s); err != nil {
				return err
			}
		}
		return nil
	})
}
