package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
)

// Destination identifies the records of a destination in the data directory.
type Destination struct {
	// Identity does not depend on the spelling of the destination's URL.
	Identity string
	// ID is the id in the destination's own records; "" if it keeps none. If there is an ID,
	// the position is recorded under it.
	ID string
	// Masked is the current spelling of the URL, without secrets. Spelled is the part of it
	// by which earlier versions identify the destination.
	Masked, Spelled string
	// Same reports whether a URL that an earlier version recorded names the destination. The
	// URL is masked, or only its Spelled part. Nil: none does.
	Same func(recorded string) bool
}

// Owns reports whether a record belongs to the destination. The key is an identity or an id.
// Earlier versions recorded only a spelling.
func (at Destination) Owns(key, spelled string) bool {
	if key != "" {
		return key == at.ID || key == at.Identity
	}
	return spelled != "" && at.Same != nil && at.Same(spelled)
}

func (at Destination) key() string { return cmp.Or(at.ID, at.Identity) }

// otherKey returns the key of a record about name that belongs to another destination than
// the current record about name.
func otherKey(name, destination string) string { return name + "\x00" + destination }

// eachOther decodes the records about name of other destinations.
func eachOther[V any](tx *bbolt.Tx, bucket []byte, name string, use func(key string, v V)) error {
	if tx.Bucket(bucket) == nil { // the database is from an earlier version and opened read-only
		return nil
	}
	prefix := []byte(otherKey(name, ""))
	c := tx.Bucket(bucket).Cursor()
	for key, text := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, text = c.Next() {
		var v V
		if err := json.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("decode %s %q: %w", bucket, key, err)
		}
		use(string(key), v)
	}
	return nil
}

// The prefixes of keys about destinations in bucketValues.
const (
	destinationPrefix = "destination "
	heldPrefix        = "held "
	epochPrefix       = "epoch "
	workedPrefix      = "worked "
)

// DestinationID returns the id of the destination with the given identity. If there is none, it
// generates one and records it.
func (d *Dir) DestinationID(identity string) (id string, err error) {
	if id, err = d.Value(destinationPrefix + identity); id != "" || err != nil || d.readOnly {
		return id, err
	}
	id = uuid.NewString()
	return id, d.RecordDestinationID(identity, id)
}

// RecordDestinationID records the id from the destination's own records.
func (d *Dir) RecordDestinationID(identity, id string) error {
	return d.SetValue(destinationPrefix+identity, id)
}

// HeldID returns the id that RecordHeldID recorded; "" if there is none.
func (d *Dir) HeldID(identity string) (string, error) { return d.Value(heldPrefix + identity) }

// RecordHeldID records that the destination with the given identity holds the id.
func (d *Dir) RecordHeldID(identity, id string) error {
	return d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketValues)
		return errors.Join(b.Put([]byte(destinationPrefix+identity), []byte(id)), b.Put([]byte(heldPrefix+identity), []byte(id)))
	})
}

// Worked reports whether the destination with the given identity has ever accepted a
// connection of an eds with this data directory.
func (d *Dir) Worked(identity string) (bool, error) {
	worked, err := d.Value(workedPrefix + identity)
	return worked != "", err
}

// RecordWorked records that the destination has accepted a connection.
func (d *Dir) RecordWorked(identity string) error {
	if worked, err := d.Worked(identity); worked || err != nil {
		return err
	}
	return d.SetValue(workedPrefix+identity, "yes")
}

// Epoch returns the last epoch with which eds wrote to a destination; 0 if there is none.
func (d *Dir) Epoch(id string) (epoch int64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketValues, epochPrefix+id, &epoch)
		return err
	})
	return epoch, err
}

// RecordEpoch records the epoch.
func (d *Dir) RecordEpoch(id string, epoch int64) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, epochPrefix+id, epoch) })
}

// MarkRecorded records that the destination with the given id has recorded the snapshots of the
// given tables.
func (d *Dir) MarkRecorded(id string, tables ...string) error {
	if id == "" || len(tables) == 0 {
		return nil
	}
	return d.update(func(tx *bbolt.Tx) error {
		var failed error
		for _, table := range tables {
			var s Snapshot
			ok, err := get(tx, bucketSnapshots, table, &s)
			if ok && err == nil {
				s.ID = id
				err = put(tx, bucketSnapshots, table, s)
			}
			failed = errors.Join(failed, err)
		}
		return failed
	})
}
