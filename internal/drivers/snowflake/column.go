package snowflake

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// kind is the encoding in which eds sends a value to the server.
type kind uint8

const (
	kindCast kind = iota // text, which the server casts to the type
	kindText
	kindFixed
	kindFloat
	kindBool
	kindTZ
	kindLTZ
	kindNTZ
	kindDate
	kindVariant
	kindObject
	kindArray
)

// columnEncoder encodes the values of one real column as JSON. It is used by one goroutine at a
// time.
type columnEncoder struct {
	sqlsink.ValueDecoder
	attribute
	text []byte // reused to encode one text
}

// The variable rules has the names and descriptions of the adjustments that eds makes to values
// that a column cannot store.
var rules = sqlsink.ValueRules{
	sqlsink.ReplaceNUL:       {Name: "snowflake_nul", Help: "U+0000 becomes U+FFFD, in text and in JSON"},
	sqlsink.ReplaceSurrogate: {Name: "snowflake_surrogate", Help: "half of a surrogate pair becomes U+FFFD"},
	sqlsink.ReplaceUTF8:      {Name: "snowflake_utf8", Help: "bytes that are not UTF-8 become U+FFFD"},
	sqlsink.CutSecond: {
		Name: "snowflake_time_precision",
		Help: "digits of a second beyond microseconds, or the column's own precision, are cut off",
	},
	sqlsink.DropTime:   {Name: "snowflake_date_only", Help: "a column of type DATE drops the time of day"},
	sqlsink.RoundFloat: {Name: "snowflake_float_precision", Help: "eds stores the nearest number if FLOAT has too few digits"},
	sqlsink.RoundDecimal: {
		Name: "snowflake_number_scale",
		Help: "a number with more decimal places than the column's NUMBER type is rounded to them",
	},
	sqlsink.RoundJSON: {
		Name: "snowflake_json_number",
		Help: "a number inside JSON with more than 38 digits becomes the nearest FLOAT",
	},
}

// newColumnEncoder returns the encoder for a target of a layout. The encoder calls the function
// adjusted for each value that the encoder adjusts.
func newColumnEncoder(l *sqlsink.Layout, t *sqlsink.Target, adjusted func(table, column, rule string)) columnEncoder {
	return columnEncoder{ValueDecoder: sqlsink.NewValueDecoder(l, t, rules, adjusted), attribute: *t.Real.Native.(*attribute)}
}

// append appends the raw JSON value as a JSON string or, for VARIANT, OBJECT and ARRAY, as JSON. An
// error is poison; its text names the column and never contains the value.
func (c *columnEncoder) append(dst, raw []byte) ([]byte, error) {
	out, err := c.appendValue(dst, raw)
	if err != nil {
		return dst, c.Refuse(err)
	}
	return out, nil
}

func (c *columnEncoder) appendValue(dst, raw []byte) ([]byte, error) {
	var err error
	text := c.text[:0]
	switch c.kind {
	case kindVariant, kindObject, kindArray:
		return c.appendJSON(dst, raw)
	case kindFixed:
		text, err = c.appendFixed(text, raw)
	case kindFloat:
		text, err = c.appendFloat(text, raw)
	case kindBool:
		text, err = appendBool(text, raw)
	case kindTZ, kindLTZ, kindNTZ, kindDate:
		text, err = c.appendInstant(text, raw)
	default:
		var flaws value.Flaw
		if text, flaws = value.AppendText(text, raw, 0); flaws != 0 {
			err = c.Replaced(flaws)
		}
		if err == nil && c.length > 0 && len(text) > c.length && utf8.RuneCount(text) > c.length {
			err = fmt.Errorf("it is longer than %d characters", c.length)
		}
	}
	if cap(text) <= keepBuffer {
		c.text = text
	}
	if err != nil {
		return dst, err
	}
	return rawjson.AppendQuoted(dst, text), nil
}

func appendBool(dst, raw []byte) ([]byte, error) {
	b, err := value.Boolean(raw)
	return strconv.AppendBool(dst, b), err
}

// appendFixed appends a number that fits the column's precision, rounded to the column's scale. If
// the column has no decimal places and the number has a fraction, it returns value.ErrNotInteger.
func (c *columnEncoder) appendFixed(dst, raw []byte) ([]byte, error) {
	d, err := c.Decimal(raw)
	if err != nil {
		return dst, err
	}
	if c.scale == 0 && len(d.Significant()) > d.Point {
		return dst, value.ErrNotInteger
	}
	if d, err = c.Fit(d, c.precision-c.scale, c.scale); err != nil {
		return dst, err
	}
	return d.AppendText(dst, 0), nil
}

func (c *columnEncoder) appendFloat(dst, raw []byte) ([]byte, error) {
	switch string(raw) {
	case `"NaN"`:
		return append(dst, "NaN"...), nil
	case `"Infinity"`:
		return append(dst, "inf"...), nil
	case `"-Infinity"`:
		return append(dst, "-inf"...), nil
	}
	f, err := c.Float(raw, 64)
	if f == 0 {
		return append(dst, '0'), err
	}
	return strconv.AppendFloat(dst, f, 'e', -1, 64), err
}

// appendInstant appends an instant in the format that tableStatements.value parses.
func (c *columnEncoder) appendInstant(dst, raw []byte) ([]byte, error) {
	if c.kind == kindDate {
		t, err := c.Date(raw)
		if err != nil {
			return dst, err
		}
		start := len(dst)
		if dst, err = t.AppendText(dst, 'T'); err != nil {
			return dst, err
		}
		return dst[:start+len("2006-01-02")], nil
	}
	t, err := c.Instant(raw, c.precision)
	if err != nil {
		return dst, err
	}
	if dst, err = t.AppendText(dst, 'T'); err != nil {
		return dst, err
	}
	if c.kind == kindTZ || c.kind == kindLTZ {
		dst = append(dst, "+00:00"...)
	}
	return dst, nil
}

// appendJSON appends a JSON value, with its line breaks replaced by spaces. For an OBJECT column,
// it returns an error if the value is not an object. For an ARRAY column, it returns an error if
// the value is not an array.
func (c *columnEncoder) appendJSON(dst, raw []byte) ([]byte, error) {
	switch {
	case c.kind == kindObject && raw[0] != '{':
		return dst, errors.New("it is not an object")
	case c.kind == kindArray && raw[0] != '[':
		return dst, errors.New("it is not an array")
	}
	if err := value.Numbers(raw, c.checkNumber); err != nil {
		return dst, err
	}
	start := len(dst)
	dst, flaws := value.AppendJSON(dst, raw, 0)
	for i, b := range dst[start:] { // a line break would end the row
		if b == '\n' || b == '\r' {
			dst[start+i] = ' '
		}
	}
	return dst, c.Replaced(flaws)
}

// exactDigits is the maximum number of digits of a number inside JSON that Snowflake stores
// exactly. Snowflake converts a longer number to a floating-point number.
const exactDigits = 38

// checkNumber checks a number in JSON text. If a VARIANT cannot store the number exactly,
// checkNumber counts the adjustment.
func (c *columnEncoder) checkNumber(text []byte) error {
	if len(text) <= 15 && bytes.IndexByte(text, 'e') < 0 && bytes.IndexByte(text, 'E') < 0 {
		return nil
	}
	d, err := value.ParseDecimal(c.Digits(text), text)
	if err != nil {
		return err
	}
	if digits := len(d.Significant()); digits == 0 || max(d.Point, digits) <= exactDigits && digits-d.Point <= exactDigits-1 {
		return nil
	}
	return c.JSONFloat(text)
}
