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

// Destination says which records of the data directory are those of a destination.
type Destination struct {
	// Identity is the same however the destination's URL is spelled.
	Identity string
	// ID is by which the destination records itself what is known about it; "" if it
	// does not. Its position is then recorded under the id.
	ID string
	// Masked is the URL as it is spelled now, without secrets, and Spelled the part of it
	// by which earlier versions know the destination.
	Masked, Spelled string
	// Same reports whether a URL that an earlier version recorded, masked or only the
	// part of it, names the destination; nil: none does.
	Same func(recorded string) bool
}

// Owns reports whether a record is of the destination. Earlier versions recorded no key,
// which is an identity or an id, but a spelling.
func (at Destination) Owns(key, spelled string) bool {
	if key != "" {
		return key == at.ID || key == at.Identity
	}
	return spelled != "" && at.Same != nil && at.Same(spelled)
}

func (at Destination) key() string { return cmp.Or(at.ID, at.Identity) }

// aside is the key of a record about name that is not of the destination which name is
// recorded for at present.
func aside(name, destination string) string { return name + "\x00" + destination }

// eachAside decodes the records about name that are kept aside.
func eachAside[V any](tx *bbolt.Tx, bucket []byte, name string, use func(key string, v V)) error {
	if tx.Bucket(bucket) == nil { // an earlier version made the database, and it is only looked at
		return nil
	}
	prefix := []byte(aside(name, ""))
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

// The prefixes of what is kept about destinations in bucketValues.
const (
	destinationPrefix = "destination "
	heldPrefix        = "held "
	epochPrefix       = "epoch "
	workedPrefix      = "worked "
)

// DestinationID returns the id of the destination with the given identity. If none is
// known, it makes one up and remembers it.
func (d *Dir) DestinationID(identity string) (id string, err error) {
	if id, err = d.Value(destinationPrefix + identity); id != "" || err != nil || d.looks {
		return id, err
	}
	id = uuid.NewString()
	return id, d.RecordDestinationID(identity, id)
}

// RecordDestinationID remembers the id that a destination has by its own records.
func (d *Dir) RecordDestinationID(identity, id string) error {
	return d.SetValue(destinationPrefix+identity, id)
}

// HeldID returns the id that the destination with the given identity was found to hold,
// "" if it was never found to hold one.
func (d *Dir) HeldID(identity string) (string, error) { return d.Value(heldPrefix + identity) }

// RecordHeldID remembers that the destination holds the id.
func (d *Dir) RecordHeldID(identity, id string) error {
	return d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketValues)
		return errors.Join(b.Put([]byte(destinationPrefix+identity), []byte(id)), b.Put([]byte(heldPrefix+identity), []byte(id)))
	})
}

// Worked reports whether the destination with the given identity has ever let this data
// directory's eds in.
func (d *Dir) Worked(identity string) (bool, error) {
	worked, err := d.Value(workedPrefix + identity)
	return worked != "", err
}

// RecordWorked remembers that the destination has let eds in.
func (d *Dir) RecordWorked(identity string) error {
	if worked, err := d.Worked(identity); worked || err != nil {
		return err
	}
	return d.SetValue(workedPrefix+identity, "yes")
}

// Epoch returns the last epoch with which this data directory wrote to a destination, 0
// if it never did.
func (d *Dir) Epoch(id string) (epoch int64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketValues, epochPrefix+id, &epoch)
		return err
	})
	return epoch, err
}

// RecordEpoch remembers the epoch.
func (d *Dir) RecordEpoch(id string, epoch int64) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, epochPrefix+id, epoch) })
}

// MarkRecorded notes that the destination with the given id has recorded the snapshots
// of the given tables.
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
