package state

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Settled is the progress of a consumer of the stream.
type Settled struct {
	Position cdc.Position `json:"position"` // position of the last settled message
	// Scanned is the sequence up to which every message for this consumer is settled. It may be
	// less than Position.Sequence.
	Scanned uint64    `json:"scanned,omitempty"`
	At      time.Time `json:"at"` // when the record was written
	// Exact reports whether Position is the position of a message of this consumer. Earlier
	// versions also recorded acknowledgement floors, with the storage time of an earlier message.
	Exact bool `json:"exact,omitempty"`
	// Filter is the name of the consumer's filters, or "" if it is unknown.
	Filter string `json:"filter,omitempty"`
	// Key is the key of the destination to which the changes were applied. Destination is the
	// spelling of its URL, for earlier versions. Both are "" if the destination is unknown.
	Key         string `json:"key,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Elsewhere is true if later changes of the consumer were applied to another destination.
	// Dir.Settled sets it; it is not stored.
	Elsewhere bool `json:"-"`
}

func (s *Settled) of(at DestinationKey) bool {
	return s.Key == "" && s.Destination == "" || at.Owns(s.Key, s.Destination)
}

// Settled returns the last recorded progress of the named consumer in the destination. The consumer
// may have progressed further since. If there is no record for this destination, the result own is
// false. In that case, the result s is the record of the destination that eds wrote to most
// recently, or zero if there is none.
func (d *Dir) Settled(consumer string, at DestinationKey) (s Settled, own bool, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		found, err := get(tx, bucketPositions, consumer, &s)
		if own = found && s.of(at); own || err != nil {
			return err
		}
		return eachOther(tx, bucketPositions, consumer, func(_ string, other Settled) {
			if other.of(at) && (!own || other.At.After(s.At)) {
				s, own = other, true
				s.Elsewhere = true
			}
		})
	})
	return s, own, err
}

// RecordSettled records the progress of the named consumer in the destination.
func (d *Dir) RecordSettled(consumer string, at DestinationKey, s Settled) error {
	s.Key, s.Destination = at.key(), at.Spelled
	return d.update(func(tx *bbolt.Tx) error {
		return errors.Join(keepOther(tx, consumer, at), put(tx, bucketPositions, consumer, s))
	})
}

// keepOther keeps a copy of the consumer's record if that record belongs to another destination. It
// stores a second copy under a key that earlier versions look up.
func keepOther(tx *bbolt.Tx, consumer string, at DestinationKey) error {
	var last Settled
	ok, err := get(tx, bucketPositions, consumer, &last)
	if err != nil || !ok || last.of(at) {
		return err
	}
	for _, key := range []string{last.Key, last.Destination} {
		if key != "" {
			err = errors.Join(err, put(tx, bucketPositions, otherKey(consumer, key), last))
		}
	}
	return err
}

// BatchBoundaries returns the sequences that RecordBatchBoundaries recorded last for the consumer
// and the destination.
func (d *Dir) BatchBoundaries(consumer string, at DestinationKey) (ends []uint64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		if _, err := get(tx, bucketEnds, otherKey(consumer, at.key()), &ends); err != nil {
			return err
		}
		var last []uint64
		earlier, err := get(tx, bucketEnds, consumer, &last)
		if err != nil || !earlier {
			return err
		}
		// If the same boundaries are also recorded for a destination, this version wrote them.
		err = eachOther(tx, bucketEnds, consumer, func(_ string, known []uint64) { earlier = earlier && !slices.Equal(known, last) })
		if err != nil || !earlier {
			return err
		}
		var s Settled
		if ok, err := get(tx, bucketPositions, consumer, &s); err != nil || ok && !s.of(at) {
			return err
		}
		ends = last
		return nil
	})
	return ends, err
}

// RecordBatchBoundaries records the given sequences for BatchBoundaries. They are the sequences of
// the last messages of batches that may be delivered again. A second copy is stored for earlier
// versions.
func (d *Dir) RecordBatchBoundaries(consumer string, at DestinationKey, ends []uint64) error {
	return d.update(func(tx *bbolt.Tx) error {
		return errors.Join(put(tx, bucketEnds, consumer, ends), put(tx, bucketEnds, otherKey(consumer, at.key()), ends))
	})
}

// Value returns the value that SetValue saved for key, or "" if there is none.
func (d *Dir) Value(key string) (string, error) {
	var value string
	err := d.view(func(tx *bbolt.Tx) error {
		value = string(tx.Bucket(bucketValues).Get([]byte(key)))
		return nil
	})
	return value, err
}

// SetValue saves a small value for key. The value "" deletes the key. Secrets belong in
// config.toml, not here.
func (d *Dir) SetValue(key, value string) error {
	return d.update(func(tx *bbolt.Tx) error {
		if value == "" {
			return tx.Bucket(bucketValues).Delete([]byte(key))
		}
		return tx.Bucket(bucketValues).Put([]byte(key), []byte(value))
	})
}
