package value

import (
	"bytes"
	"errors"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

var errNotTruth = errors.New("it is neither true nor false")

// Truth reads a truth value: true, t or 1, false, f or 0, as JSON or as a string.
func Truth(raw []byte) (bool, error) {
	switch string(rawjson.Text(raw)) {
	case "true", "t", "1":
		return true, nil
	case "false", "f", "0":
		return false, nil
	}
	return false, errNotTruth
}

// Number returns the text of a number: of a JSON number, of a string that holds
// one, and, where the source's column is one of truth values, 1 or 0 for these.
func Number(raw []byte, truth bool) ([]byte, error) {
	switch raw[0] {
	case 't', 'f':
		if !truth {
			return nil, ErrNotNumber
		}
		if raw[0] == 't' {
			return one, nil
		}
		return zero, nil
	case '"':
		text := rawjson.Text(raw)
		if end, err := rawjson.Skip(text, 0); err != nil || end != len(text) || rawjson.IsString(text) {
			return nil, ErrNotNumber
		}
		raw = text
	}
	if c := raw[0]; c != '-' && c-'0' > 9 {
		return nil, ErrNotNumber
	}
	return raw, nil
}

var one, zero = []byte("1"), []byte("0")

// Numbers calls check with the text of every number in a JSON value, and returns
// its first error.
func Numbers(raw []byte, check func(number []byte) error) error {
	for i := 0; i < len(raw); {
		switch b := raw[i]; {
		case b == '"':
			end, err := rawjson.Skip(raw, i)
			if err != nil {
				return err
			}
			i = end
		case b == '-' || b-'0' <= 9:
			start := i
			for i < len(raw) && (raw[i]-'0' <= 9 || bytes.IndexByte(numberBytes, raw[i]) >= 0) {
				i++
			}
			if err := check(raw[start:i]); err != nil {
				return err
			}
		default:
			i++
		}
	}
	return nil
}

var numberBytes = []byte("+-.eE")

// Room is memory for the digits of one number at a time.
type Room struct{ digits []byte }

// For returns memory for the digits of raw, for ParseDecimal and its like. It is
// used again by the next call.
func (r *Room) For(raw []byte) []byte {
	if cap(r.digits) < len(raw) {
		r.digits = make([]byte, 0, 2*len(raw)+32)
	}
	return r.digits[:0]
}
