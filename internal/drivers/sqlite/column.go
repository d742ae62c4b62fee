package sqlite

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// affinity is a column's type affinity, which decides how SQLite converts values that are stored in
// the column.
type affinity uint8

const (
	asText    affinity = iota + 1 // numbers become text
	asIs                          // no conversion
	asInteger                     // text that looks like a number becomes a number
	asNumeric                     // like asInteger
	asReal                        // like asInteger, and integers become floats
)

// affinityOf returns the affinity of a column with the given declared type, according to
// https://sqlite.org/datatype3.html, section 3.1.
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

// The variable rules has the names and descriptions of the adjustments that eds makes to values
// that a column cannot store.
var rules = sqlsink.ValueRules{
	sqlsink.ReplaceSurrogate: {
		Name: "sqlite_surrogate",
		Help: "half of a surrogate pair becomes U+FFFD; in JSON it stays as it was escaped",
	},
	sqlsink.ReplaceUTF8: {Name: "sqlite_invalid_utf8", Help: "bytes that are not UTF-8 become U+FFFD"},
	sqlsink.CutSecond:   {Name: "sqlite_time_precision", Help: "digits of a second beyond microseconds are cut off"},
	sqlsink.RoundFloat:  {Name: "sqlite_float_precision", Help: "eds stores the nearest number if a REAL has too few digits"},
}

// rowEncoder encodes rows of a layout as values that SQLite stores unchanged. The error for a value
// that a column cannot store is poison. An encoder is used by one goroutine at a time.
type rowEncoder struct {
	layout  *sqlsink.Layout
	columns []columnEncoder // encoders of the layout's columns, in the same order
	scratch []byte
}

func newRowEncoder(l *sqlsink.Layout, adjusted func(table, column, rule string)) *rowEncoder {
	e := &rowEncoder{layout: l, columns: make([]columnEncoder, len(l.Columns))}
	for i := range e.columns {
		e.columns[i] = newColumnEncoder(l, &l.Columns[i], adjusted)
	}
	return e
}

// row encodes a row's values and appends them to args. The parameter columns selects the
// columns by index.
func (e *rowEncoder) row(args *capi.Args, columns []int, row *change.Row, synced time.Time) error {
	e.scratch = e.scratch[:0]
	for _, i := range columns {
		var raw []byte
		if raw, e.scratch = e.layout.Columns[i].Raw(row, synced, e.scratch); raw == nil {
			args.Null()
			continue
		}
		c := &e.columns[i]
		if err := c.encode(args, raw); err != nil {
			return c.Refuse(err)
		}
	}
	return nil
}

// columnEncoder encodes the values of one column.
type columnEncoder struct {
	sqlsink.ValueDecoder
	kind     schema.Type // the type of the source's column
	affinity affinity
}

func newColumnEncoder(l *sqlsink.Layout, t *sqlsink.Target, adjusted func(table, column, rule string)) columnEncoder {
	c := columnEncoder{
		ValueDecoder: sqlsink.NewValueDecoder(l, t, rules, adjusted),
		kind:         t.Type,
		affinity:     t.Real.Native.(*attribute).affinity,
	}
	c.Type = cmp.Or(c.Type, "no type")
	return c
}

// encode appends the value of raw, a JSON value other than null, to args.
func (c *columnEncoder) encode(args *capi.Args, raw []byte) error {
	switch c.kind {
	case schema.DateTime:
		return c.encodeInstant(args, raw)
	case schema.Integer:
		return c.encodeInteger(args, raw)
	case schema.Number:
		return c.encodeNumber(args, raw)
	case schema.Boolean:
		return c.encodeBoolean(args, raw)
	case schema.Object, schema.Array:
		return c.encodeJSON(args, raw)
	default:
		return c.encodeString(args, raw)
	}
}

// convertsText reports whether SQLite converts text in the column to a number if the text looks
// like a number.
func (c *columnEncoder) convertsText() bool { return c.affinity != asText && c.affinity != asIs }

// encodeInstant appends an instant as text. No column affinity converts that text to a number.
func (c *columnEncoder) encodeInstant(args *capi.Args, raw []byte) error {
	t, err := c.Instant(raw, microDigits)
	if err != nil {
		return err
	}
	buffer, err := appendInstant(args.Begin(), t)
	if err != nil {
		return err
	}
	args.End(buffer)
	return nil
}

// microDigits is the number of fractional digits of the second in an instant.
const microDigits = 6

// appendInstant appends the instant in the format sqlsink.TimeFormat.
func appendInstant(dst []byte, t value.Instant) ([]byte, error) {
	dst, err := t.AppendText(dst, 'T')
	return append(dst, 'Z'), err
}

// encodeInteger appends an integer that fits into 64 bits. A larger integer is appended as text if
// the column does not convert text to numbers. For any other column, encodeInteger returns
// value.ErrRange.
func (c *columnEncoder) encodeInteger(args *capi.Args, raw []byte) error {
	text, err := value.Number(raw, false)
	if err != nil {
		return value.ErrNotInteger
	}
	n, err := value.ParseInt(c.Digits(text), text)
	switch {
	case errors.Is(err, value.ErrRange) && !c.convertsText():
		args.Text(text)
	case err != nil:
		return err
	case c.affinity == asText:
		args.End(appendInt(args.Begin(), n))
	case c.affinity == asReal && !exactFloat(n):
		return value.ErrRange
	default:
		args.Int(n)
	}
	return nil
}

// encodeNumber appends a number. If the column cannot store the number exactly, encodeNumber
// appends the nearest REAL.
func (c *columnEncoder) encodeNumber(args *capi.Args, raw []byte) error {
	text, err := value.Number(raw, false)
	if err != nil {
		return err
	}
	if c.affinity == asText {
		args.Text(text)
		return nil
	}
	exact, err := c.encodeExact(args, text)
	if exact || err != nil {
		return err
	}
	if c.affinity == asIs {
		args.Text(text)
		return nil
	}
	f, err := c.Float(raw, 64)
	if err != nil {
		return err
	}
	args.Float(f)
	return nil
}

// encodeExact appends a number as a REAL if the REAL is exact. Otherwise it appends the number as
// an INTEGER if the INTEGER is exact and the column keeps integers. If neither is possible, it
// returns false and appends nothing.
func (c *columnEncoder) encodeExact(args *capi.Args, text []byte) (bool, error) {
	f, exact, err := value.ParseFloat(c.Digits(text), text, 64)
	if err == nil && exact {
		args.Float(f)
		return true, nil
	}
	if n, e := value.ParseInt(c.Digits(text), text); e == nil && c.affinity != asReal {
		args.Int(n)
		return true, nil
	}
	if c.affinity == asIs {
		err = nil
	}
	return false, err
}

func (c *columnEncoder) encodeBoolean(args *capi.Args, raw []byte) error {
	b, err := value.Boolean(raw)
	switch {
	case err != nil:
		return err
	case c.affinity == asText && b:
		args.String("true")
	case c.affinity == asText:
		args.String("false")
	case b:
		args.Int(1)
	default:
		args.Int(0)
	}
	return nil
}

// encodeString appends a string as text. If the column would convert the text to a number,
// encodeString appends the number instead, provided that formatting the number gives the same text.
func (c *columnEncoder) encodeString(args *capi.Args, raw []byte) error {
	// SQLite stores the length of a text, so the text can contain U+0000.
	buffer, flaws := value.AppendText(args.Begin(), raw, value.NUL)
	if c.convertsText() {
		if text := buffer[len(args.Begin()):]; looksNumeric(text) {
			return c.encodeNumeral(args, text)
		}
	}
	if err := c.Replaced(flaws); err != nil {
		return err
	}
	args.End(buffer)
	return nil
}

// encodeNumeral appends the number that text looks like. If formatting the number does not give the
// same text, encodeNumeral returns errNumeral.
func (c *columnEncoder) encodeNumeral(args *capi.Args, text []byte) error {
	raw, err := value.Number(text, false)
	if err != nil {
		return errNumeral
	}
	var buffer [32]byte
	n, err := value.ParseInt(c.Digits(raw), raw)
	if err == nil && c.affinity != asReal && string(appendInt(buffer[:0], n)) == string(text) {
		args.Int(n)
		return nil
	}
	// SQLite does not keep the sign of a zero.
	f, _, err := value.ParseFloat(c.Digits(raw), raw, 64)
	if err == nil && (f != 0 || string(text) == "0") && string(appendFloat(buffer[:0], f)) == string(text) {
		args.Float(f)
		return nil
	}
	return errNumeral
}

var errNumeral = errors.New("the column would convert the text to a number, and change it")

// encodeJSON appends a JSON value verbatim as text. If the value is a number that the column would
// convert, encodeJSON appends the number instead. If the column cannot store that number exactly,
// encodeJSON returns value.ErrRange.
func (c *columnEncoder) encodeJSON(args *capi.Args, raw []byte) error {
	if c.convertsText() && (raw[0] == '-' || raw[0]-'0' <= 9) {
		exact, err := c.encodeExact(args, raw)
		if !exact && err == nil {
			err = value.ErrRange
		}
		return err
	}
	buffer, flaws := value.AppendValid(args.Begin(), raw)
	if err := c.Replaced(flaws); err != nil {
		return err
	}
	args.End(buffer)
	return nil
}
