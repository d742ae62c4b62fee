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

// DestinationKey identifies the records of a destination in the data directory.
type DestinationKey struct {
	// Identity does not depend on the spelling of the destination's URL.
	Identity string
	// ID is the id in the destination's own records, or "" if the destination keeps no records. The
	// position is recorded under the ID if there is one, else under Identity.
	ID string
	// Masked is the current spelling of the URL, without secrets. Spelled is the part of Masked by
	// which earlier versions of eds identify the destination.
	Masked, Spelled string
	// Same reports whether a URL that an earlier version recorded is a URL of this destination. The
	// recorded text is either a whole masked URL or only the Spelled part of one. If Same is nil,
	// no recorded URL matches.
	Same func(recorded string) bool
}

// Owns reports whether a record with the given key and spelling belongs to the destination. The key
// is an identity or an id. It is "" in records of earlier versions, which have only a spelling.
func (at DestinationKey) Owns(key, spelled string) bool {
	if key != "" {
		return key == at.ID || key == at.Identity
	}
	return spelled != "" && at.Same != nil && at.Same(spelled)
}

func (at DestinationKey) key() string { return cmp.Or(at.ID, at.Identity) }

// otherKey returns the key of the given destination's record about name, if that record is not the
// current one. The key of the current record is the name itself.
func otherKey(name, destination string) string { return name + "\x00" + destination }

// eachOther decodes each record about name that is stored under an otherKey, and calls the callback
// with the key and the record.
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

// Prefixes of the keys in bucketValues that concern one destination.
const (
	destinationPrefix = "destination "
	heldPrefix        = "held "
	epochPrefix       = "epoch "
	workedPrefix      = "worked "
)

// DestinationID returns the id of the destination with the given identity. If no id is recorded, it
// generates and records one, unless the directory is read-only: then it returns "".
func (d *Dir) DestinationID(identity string) (id string, err error) {
	if id, err = d.Value(destinationPrefix + identity); id != "" || err != nil || d.readOnly {
		return id, err
	}
	id = uuid.NewString()
	return id, d.RecordDestinationID(identity, id)
}

// RecordDestinationID records an id for the destination with the given identity. The id is from the
// destination's own records.
func (d *Dir) RecordDestinationID(identity, id string) error {
	return d.SetValue(destinationPrefix+identity, id)
}

// HeldID returns the id that RecordHeldID recorded for the destination, or "" if there is none.
func (d *Dir) HeldID(identity string) (string, error) { return d.Value(heldPrefix + identity) }

// RecordHeldID records that the destination with the given identity stores the id in its own
// records.
func (d *Dir) RecordHeldID(identity, id string) error {
	return d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketValues)
		return errors.Join(b.Put([]byte(destinationPrefix+identity), []byte(id)), b.Put([]byte(heldPrefix+identity), []byte(id)))
	})
}

// Worked reports whether the destination with the given identity has ever accepted a connection
// from eds. Only connections of processes with this data directory count.
func (d *Dir) Worked(identity string) (bool, error) {
	worked, err := d.Value(workedPrefix + identity)
	return worked != "", err
}

// RecordWorked records that the destination with the given identity has accepted a connection.
func (d *Dir) RecordWorked(identity string) error {
	if worked, err := d.Worked(identity); worked || err != nil {
		return err
	}
	return d.SetValue(workedPrefix+identity, "yes")
}

// Epoch returns the last epoch with which eds wrote to the destination with the given id, or 0 if
// there is none.
func (d *Dir) Epoch(id string) (epoch int64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketValues, epochPrefix+id, &epoch)
		return err
	})
	return epoch, err
}

// RecordEpoch records the epoch with which eds writes to the destination with the given id.
func (d *Dir) RecordEpoch(id string, epoch int64) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketValues, epochPrefix+id, epoch) })
}

// MarkRecorded records that the destination with the given id has stored the snapshots of the given
// tables in its own records.
func (d *Dir) MarkRecorded(id string, tables ...string) error {
	if id == "" || len(tables) == 0 {
		return nil
	}
	return d.update(func(tx *bbolt.Tx) error {
		var failed error
		for _, table := range tables {
			var s ImportRecord
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
