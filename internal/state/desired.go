package state

import (
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

// DesiredRecord is the part of the desired state that outlives the server process: the pending
// requests of HQ and of the operator.
type DesiredRecord struct {
	Paused time.Time `json:"paused,omitzero"` // start of the pause; zero if not paused
	// NeedsImport are the identities of configured destinations that need an import before
	// the stream is followed.
	NeedsImport []string `json:"needsImport,omitempty"`
	// Import is the requested import that has not ended, or nil if there is none.
	Import *RequestedImport `json:"import,omitempty"`
	// Outcomes are the import outcomes that HQ has not received yet, oldest first.
	Outcomes []ImportOutcome `json:"answers,omitempty"`
	// Healed are the imports that the server itself requested within the last day, one per table.
	Healed []Healing `json:"healed,omitempty"`
}

// Healing is an import of one table that the server itself requested.
type Healing struct {
	Destination string    `json:"destination"` // identity of the destination
	Table       string    `json:"table"`
	At          time.Time `json:"at"`
}

// RequestedImport is a request for an import.
type RequestedImport struct {
	ID          string `json:"id"`
	Destination string `json:"destination"` // identity of the destination
	HQ          bool   `json:"hq,omitempty"`
	// Beside reports whether the server follows the stream while the import runs.
	Beside  bool            `json:"beside,omitempty"`
	Options json.RawMessage `json:"options"`
}

// ImportOutcome is the outcome of an import that HQ requested.
type ImportOutcome struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"` // "" if it succeeded
	Note  string `json:"note,omitempty"`  // a remark about an import that succeeded
}

const desiredKey = "desired"

// Desired returns the value that SetDesired recorded last, or the zero value if there is none.
func (d *Dir) Desired() (desired DesiredRecord, err error) {
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
func (d *Dir) SetDesired(desired DesiredRecord) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, desiredKey, desired) })
}

// Filled reports whether both of these are true: the destination has a recorded snapshot, and no
// interrupted import into the destination remains.
func (d *Dir) Filled(at DestinationKey) (bool, error) {
	known, err := d.Snapshots(at)
	unfinished, interrupted, e := d.Import()
	return len(known) > 0 && !(interrupted && at.Owns(unfinished.Identity, unfinished.Destination)), errors.Join(err, e)
}
