package state

import (
	"errors"
	"slices"
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
	// Exact reports whether Position is that of a message of this consumer. Earlier
	// versions also recorded acknowledgement floors, with the time of an earlier
	// message.
	Exact bool `json:"exact,omitempty"`
	// Filter is what the consumer was filtered by; "" if it is not known.
	Filter string `json:"filter,omitempty"`
	// Key is that of the destination to which the changes went, and Destination its
	// spelling, by which earlier versions know it; both are "" if it is not known.
	Key         string `json:"key,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Elsewhere is set when the record is read if the consumer's changes have gone to
	// another destination since.
	Elsewhere bool `json:"-"`
}

func (s *Settled) of(at Destination) bool {
	return s.Key == "" && s.Destination == "" || at.Owns(s.Key, s.Destination)
}

// Settled returns how far the named consumer had come in the destination when it was last
// recorded. The consumer may be further. If it was never recorded for this destination,
// own is false, and the record is that of the destination to which the changes went last;
// zero if there is none.
func (d *Dir) Settled(consumer string, at Destination) (s Settled, own bool, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		found, err := get(tx, bucketPositions, consumer, &s)
		if own = found && s.of(at); own || err != nil {
			return err
		}
		return eachAside(tx, bucketPositions, consumer, func(_ string, other Settled) {
			if other.of(at) && (!own || other.At.After(s.At)) {
				s, own = other, true
				s.Elsewhere = true
			}
		})
	})
	return s, own, err
}

// RecordSettled records how far the named consumer has come in the destination.
func (d *Dir) RecordSettled(consumer string, at Destination, s Settled) error {
	s.Key, s.Destination = at.key(), at.Spelled
	return d.update(func(tx *bbolt.Tx) error {
		return errors.Join(setAside(tx, consumer, at), put(tx, bucketPositions, consumer, s))
	})
}

// setAside keeps the consumer's record if it is of another destination, also where
// earlier versions look for it.
func setAside(tx *bbolt.Tx, consumer string, at Destination) error {
	var last Settled
	ok, err := get(tx, bucketPositions, consumer, &last)
	if err != nil || !ok || last.of(at) {
		return err
	}
	for _, key := range []string{last.Key, last.Destination} {
		if key != "" {
			err = errors.Join(err, put(tx, bucketPositions, aside(consumer, key), last))
		}
	}
	return err
}

// Ends returns what RecordEnds recorded last for the consumer and the destination.
func (d *Dir) Ends(consumer string, at Destination) (ends []uint64, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		if _, err := get(tx, bucketEnds, aside(consumer, at.key()), &ends); err != nil {
			return err
		}
		var last []uint64
		earlier, err := get(tx, bucketEnds, consumer, &last)
		if err != nil || !earlier {
			return err
		}
		// This version records them for a destination, too.
		err = eachAside(tx, bucketEnds, consumer, func(_ string, known []uint64) { earlier = earlier && !slices.Equal(known, last) })
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

// RecordEnds records the sequences of messages that ended batches which may come
// again, for the destination, and where earlier versions look for them.
func (d *Dir) RecordEnds(consumer string, at Destination, ends []uint64) error {
	return d.update(func(tx *bbolt.Tx) error {
		return errors.Join(put(tx, bucketEnds, consumer, ends), put(tx, bucketEnds, aside(consumer, at.key()), ends))
	})
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
