package state

import (
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

// Desired is the part of the desired state that survives the server's end: pending requests
// of HQ and the operator.
type Desired struct {
	Paused time.Time `json:"paused,omitzero"` // when the pause began; zero: no pause
	// NeedsImport are the identities of configured destinations that need an import before
	// the stream is followed.
	NeedsImport []string `json:"needsImport,omitempty"`
	// Import is the requested import that has not ended; nil: there is none.
	Import *RequestedImport `json:"import,omitempty"`
	// Outcomes are those that HQ has yet to receive, oldest first.
	Outcomes []ImportOutcome `json:"answers,omitempty"`
	// Healed are the imports of the last day that the server requested itself, one per
	// table.
	Healed []Healing `json:"healed,omitempty"`
}

// Healing is an import of a table that the server requested itself.
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
	// Beside reports whether the import runs beside the followed stream.
	Beside  bool            `json:"beside,omitempty"`
	Options json.RawMessage `json:"options"`
}

// ImportOutcome is the outcome of an import that HQ requested.
type ImportOutcome struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"` // "" if it succeeded
	Note  string `json:"note,omitempty"`  // a remark about one that succeeded
}

const desiredKey = "desired"

// Desired returns the value that SetDesired recorded last; the zero value if there is none.
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

// SetDesired replaces the recorded desired state.
func (d *Dir) SetDesired(desired Desired) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, desiredKey, desired) })
}

// Filled reports whether the destination holds a snapshot and no interrupted import into it
// remains.
func (d *Dir) Filled(at Destination) (bool, error) {
	known, err := d.Snapshots(at)
	unfinished, interrupted, e := d.Import()
	return len(known) > 0 && !(interrupted && at.Owns(unfinished.Identity, unfinished.Destination)), errors.Join(err, e)
}
