package value

import (
	"bytes"
	"errors"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

var errNotBoolean = errors.New("it is neither true nor false")

// Boolean parses a boolean. It accepts true, t and 1, and false, f and 0, each as a JSON value or
// as the text of a JSON string.
func Boolean(raw []byte) (bool, error) {
	switch string(rawjson.Text(raw)) {
	case "true", "t", "1":
		return true, nil
	case "false", "f", "0":
		return false, nil
	}
	return false, errNotBoolean
}

// Number returns the text of a JSON number, or of a JSON string that contains a number. If the
// parameter boolean is true, Number also accepts booleans, and returns 1 for true and 0 for false.
func Number(raw []byte, boolean bool) ([]byte, error) {
	switch raw[0] {
	case 't', 'f':
		if !boolean {
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

// Numbers calls the function check with the text of every number in a JSON value, including nested
// ones. It stops at the first error and returns it.
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

// DigitBuffer provides reusable memory for the digits of one number at a time.
type DigitBuffer struct{ digits []byte }

// For returns memory that is large enough for the digits of raw. Pass the memory as the argument
// buf to ParseDecimal and similar functions. The next call of For may return the same memory.
func (b *DigitBuffer) For(raw []byte) []byte {
	if cap(b.digits) < len(raw) {
		b.digits = make([]byte, 0, 2*len(raw)+32)
	}
	return b.digits[:0]
}
