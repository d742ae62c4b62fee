package state

import (
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

// Desired is what HQ and the operator have asked of the server and is not done yet. It
// survives the server's end.
type Desired struct {
	Paused time.Time `json:"paused,omitzero"` // since when changes are not applied; zero: they are
	// NeedsImport are the identities of the destinations that were configured and have
	// to be imported into before the stream is followed.
	NeedsImport []string `json:"needsImport,omitempty"`
	// Import was requested and has not ended; nil: there is none.
	Import *RequestedImport `json:"import,omitempty"`
	// Answers are the outcomes that HQ has yet to receive, oldest first.
	Answers []ImportOutcome `json:"answers,omitempty"`
	// Healed are the imports of the last day that the server requested by itself, one
	// per table.
	Healed []Healing `json:"healed,omitempty"`
}

// Healing is an import of a table that the server requested by itself.
type Healing struct {
	Destination string    `json:"destination"` // its identity
	Table       string    `json:"table"`
	At          time.Time `json:"at"`
}

// RequestedImport is a request for an import.
type RequestedImport struct {
	ID          string `json:"id"`
	Destination string `json:"destination"` // its identity
	HQ          bool   `json:"hq,omitempty"`
	// Beside reports whether the stream is followed meanwhile.
	Beside  bool            `json:"beside,omitempty"`
	Options json.RawMessage `json:"options"`
}

// ImportOutcome is how an import that HQ requested has ended.
type ImportOutcome struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"` // "" if it succeeded
	Note  string `json:"note,omitempty"`  // what there is to say about one that succeeded
}

const desiredKey = "desired"

// Desired returns what SetDesired recorded last; the zero value if it never did.
func (d *Dir) Desired() (desired Desired, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketValues) == nil {
			return nil
		}
		_, err := get(tx, bucketValues, desiredKey, &desired)
		return err
	})
	return desired, err
}

// SetDesired records what is desired, in the place of what was.
func (d *Dir) SetDesired(desired Desired) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, desiredKey, desired) })
}

// Filled reports whether the destination holds a snapshot, and no import into it has yet
// to be resumed.
func (d *Dir) Filled(at Destination) (bool, error) {
	known, err := d.Snapshots(at)
	unfinished, interrupted, e := d.Import()
	return len(known) > 0 && !(interrupted && at.Owns(unfinished.Identity, unfinished.Destination)), errors.Join(err, e)
}
