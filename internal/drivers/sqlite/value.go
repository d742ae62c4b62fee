package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// affinity is what SQLite does to a value that is stored in a column.
type affinity uint8

const (
	asText    affinity = iota + 1 // numbers become text
	asIs                          // everything stays as it is
	asInteger                     // text that looks like a number becomes one
	asNumeric                     // the same
	asReal                        // the same, and integers become floats
)

// affinityOf follows https://sqlite.org/datatype3.html, 3.1.
func affinityOf(declared string) affinity {
	declared = strings.ToUpper(declared)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(declared, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("INT"):
		return asInteger
	case has("CHAR", "CLOB", "TEXT"):
		return asText
	case declared == "" || has("BLOB"):
		return asIs
	case has("REAL", "FLOA", "DOUB"):
		return asReal
	default:
		return asNumeric
	}
}

// encoder turns raw JSON values into values that a column stores without
// changing them. What the column can not hold is poison.
type encoder struct {
	table    string
	adjusted func(table, column, rule string)
	scratch  []byte
}

// row appends a value for each target to args.
func (e *encoder) row(args *capi.Args, targets []sqlsink.Target, row *change.Row, synced time.Time) error {
	e.scratch = e.scratch[:0]
	for i := range targets {
		t := &targets[i]
		var raw []byte
		if raw, e.scratch = t.Raw(row, synced, e.scratch); raw == nil {
			args.Null()
			continue
		}
		rule, err := encode(args, t.Type, t.Real.Native.(*column).affinity, raw)
		if err == nil && rule != "" && t.Key {
			err = sqlsink.ErrKeyChanged
		}
		if err != nil {
			return fault.Mark(fault.Poison, fmt.Errorf("column %q of table %q: %w", t.Real.Name, e.table, err))
		}
		if rule != "" {
			e.adjusted(e.table, t.Real.Name, rule)
		}
	}
	return nil
}

// encode appends the value of raw, which is not null, of a column of type kind in
// the source and of the given affinity here. It returns the rule by which the
// value was changed, or "".
func encode(args *capi.Args, kind schema.Type, a affinity, raw []byte) (rule string, err error) {
	switch kind {
	case schema.DateTime:
		return encodeInstant(args, raw)
	case schema.Integer:
		return encodeInteger(args, a, raw)
	case schema.Number:
		return encodeNumber(args, a, raw)
	case schema.Boolean:
		return "", encodeBoolean(args, a, raw)
	case schema.Object, schema.Array:
		return encodeJSON(args, a, raw)
	default:
		return encodeString(args, a, raw)
	}
}

// encodeInstant stores text under every affinity: an instant does not look like
// a number.
func encodeInstant(args *capi.Args, raw []byte) (rule string, err error) {
	if raw[0] != '"' {
		return "", value.ErrNotInstant
	}
	t, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil {
		return "", err
	}
	buffer, err := appendInstant(args.Begun(), t)
	if err != nil {
		return "", err
	}
	args.Ended(buffer)
	if t.Cut {
		rule = ruleTimePrecision
	}
	return rule, nil
}

// appendInstant appends the instant as sqlsink.TimeFormat has it.
func appendInstant(dst []byte, t value.Instant) ([]byte, error) {
	dst, err := t.AppendText(dst, 'T')
	return append(dst, 'Z'), err
}

// encodeInteger stores an integer of 64 bits, and a larger one where text keeps it.
func encodeInteger(args *capi.Args, a affinity, raw []byte) (rule string, err error) {
	text, err := numberText(raw)
	if err != nil {
		return "", value.ErrNotInteger
	}
	n, err := value.ParseInt(nil, text)
	switch {
	case errors.Is(err, value.ErrRange) && (a == asText || a == asIs):
		args.Text(text)
	case err != nil:
		return "", err
	case a == asText:
		args.Ended(appendInt(args.Begun(), n))
	case a == asReal && !exactFloat(n):
		return "", value.ErrRange
	default:
		args.Int(n)
	}
	return "", nil
}

// encodeNumber stores a number as the nearest REAL, or exactly where the column
// keeps it so.
func encodeNumber(args *capi.Args, a affinity, raw []byte) (rule string, err error) {
	text, err := numberText(raw)
	if err != nil {
		return "", err
	}
	if a == asText {
		args.Text(text)
		return "", nil
	}
	var room [64]byte
	f, exact, err := value.ParseFloat(room[:], text, 64)
	if a != asReal && (err != nil || !exact) {
		if n, e := value.ParseInt(nil, text); e == nil {
			args.Int(n)
			return "", nil
		}
		if a == asIs {
			args.Text(text)
			return "", nil
		}
	}
	if err != nil {
		return "", err
	}
	if !exact {
		rule = ruleFloat
	}
	args.Float(f)
	return rule, nil
}

func encodeBoolean(args *capi.Args, a affinity, raw []byte) error {
	var truth int64
	switch string(raw) {
	case `true`, `1`, `"true"`, `"1"`:
		truth = 1
	case `false`, `0`, `"false"`, `"0"`:
	default:
		return errors.New("the value is not a boolean")
	}
	switch {
	case a != asText:
		args.Int(truth)
	case truth == 1:
		args.String("true")
	default:
		args.String("false")
	}
	return nil
}

// encodeString stores a text. A column that would take it for a number gets the
// number where that has just this text, and nothing else.
func encodeString(args *capi.Args, a affinity, raw []byte) (rule string, err error) {
	buffer, rule := appendText(args.Begun(), raw)
	if a != asText && a != asIs {
		if text := buffer[len(args.Begun()):]; looksNumeric(text) {
			return "", encodeNumeral(args, a, text)
		}
	}
	args.Ended(buffer)
	return rule, nil
}

// encodeNumeral stores text, which looks like a number, as the number whose own
// text it is.
func encodeNumeral(args *capi.Args, a affinity, text []byte) error {
	raw, err := numberText(text)
	if err != nil {
		return errNumeral
	}
	var buffer [32]byte
	var room [64]byte
	if n, err := value.ParseInt(nil, raw); err == nil && a != asReal && string(appendInt(buffer[:0], n)) == string(text) {
		args.Int(n)
		return nil
	}
	// SQLite keeps no sign of a zero.
	if f, _, err := value.ParseFloat(room[:], raw, 64); err == nil && (f != 0 || string(text) == "0") && string(appendFloat(buffer[:0], f)) == string(text) {
		args.Float(f)
		return nil
	}
	return errNumeral
}

var errNumeral = errors.New("the column would take the text for a number, and change it")

// encodeJSON stores JSON text as it stands. A column that would take a bare
// number for one gets it, where that is exact.
func encodeJSON(args *capi.Args, a affinity, raw []byte) (rule string, err error) {
	if a != asText && a != asIs && (raw[0] == '-' || raw[0]-'0' <= 9) {
		if rule, err = encodeNumber(args, a, raw); rule != "" {
			return "", value.ErrRange
		}
		return "", err
	}
	buffer, flaws := value.AppendValid(args.Begun(), raw)
	if flaws != 0 {
		rule = ruleUTF8
	}
	args.Ended(buffer)
	return rule, nil
}
