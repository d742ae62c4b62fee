package state

import (
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Settled is how far a consumer of the stream has come.
type Settled struct {
	Position cdc.Position `json:"position"` // of the last message that was settled
	// Scanned is the sequence up to which nothing else was for this consumer; it
	// may be less than Position's.
	Scanned uint64    `json:"scanned,omitempty"`
	At      time.Time `json:"at"` // when this was recorded
}

// Settled returns how far the named consumer had come when it was last
// recorded, and whether it ever was. The consumer may be further.
func (d *Dir) Settled(consumer string) (Settled, bool, error) {
	var s Settled
	var ok bool
	err := d.view(func(tx *bbolt.Tx) error {
		var err error
		ok, err = get(tx, bucketPositions, consumer, &s)
		return err
	})
	return s, ok, err
}

// RecordSettled records how far the named consumer has come.
func (d *Dir) RecordSettled(consumer string, s Settled) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketPositions, consumer, s) })
}

// ForgetSettled forgets how far the named consumer had come.
func (d *Dir) ForgetSettled(consumer string) error {
	return d.update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketPositions).Delete([]byte(consumer)), tx.Bucket(bucketEnds).Delete([]byte(consumer)))
	})
}

// Ends returns what RecordEnds recorded last for the named consumer.
func (d *Dir) Ends(consumer string) ([]uint64, error) {
	var ends []uint64
	err := d.view(func(tx *bbolt.Tx) error {
		_, err := get(tx, bucketEnds, consumer, &ends)
		return err
	})
	return ends, err
}

// RecordEnds records the sequences of messages that ended batches which may come
// again.
func (d *Dir) RecordEnds(consumer string, ends []uint64) error {
	return d.update(func(tx *bbolt.Tx) error { return put(tx, bucketEnds, consumer, ends) })
}

// Value returns the value that SetValue kept for key; "" where there is none.
func (d *Dir) Value(key string) (string, error) {
	var value string
	err := d.view(func(tx *bbolt.Tx) error {
		value = string(tx.Bucket(bucketValues).Get([]byte(key)))
		return nil
	})
	return value, err
}

// SetValue keeps a small value for key; "" forgets it. Secrets belong into
// config.toml, not here.
func (d *Dir) SetValue(key, value string) error {
	return d.update(func(tx *bbolt.Tx) error {
		if value == "" {
			return tx.Bucket(bucketValues).Delete([]byte(key))
		}
		return tx.Bucket(bucketValues).Put([]byte(key), []byte(value))
	})
}
