package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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
	kindBool
	kindInt2
	kindInt4
	kindInt8
	kindFloat4
	kindFloat8
	kindNumeric
	kindTimestampTZ
	kindTimestamp
	kindDate
	kindJSON
	kindJSONB
	kindUUID
	kindBytea
	kindArray // an array literal, which the server casts to the array type
)

// columnEncoder encodes the values of one real column. It is used by one goroutine at a time.
type columnEncoder struct {
	sqlsink.ValueDecoder
	name      string // the real column's name
	kind      kind
	length    int // for text: the maximum number of characters, or 0 for no limit
	scale     int // for numeric: the number of decimal places, or negative for no limit
	precision int // for timestamps: the number of fractional digits of the second
}

// The variable rules has the names and descriptions of the adjustments that eds makes to values
// that a column cannot store.
var rules = sqlsink.ValueRules{
	sqlsink.ReplaceNUL:       {Name: "postgres_nul", Help: "U+0000, which PostgreSQL cannot store, becomes U+FFFD, in text and in JSON"},
	sqlsink.ReplaceSurrogate: {Name: "postgres_surrogate", Help: "half of a surrogate pair becomes U+FFFD"},
	sqlsink.ReplaceUTF8:      {Name: "postgres_utf8", Help: "bytes that are not UTF-8 become U+FFFD"},
	sqlsink.CutSecond: {
		Name: "postgres_time_precision",
		Help: "digits of a second beyond microseconds, or the column's own precision, are cut off",
	},
	sqlsink.DropTime: {Name: "postgres_date_only", Help: "a column of type date drops the time of day"},
	sqlsink.RoundFloat: {
		Name: "postgres_float_precision",
		Help: "eds stores the nearest number if the column's floating-point type has too few digits",
	},
	sqlsink.RoundDecimal: {
		Name: "postgres_numeric_scale",
		Help: "a number with more decimal places than the column's numeric type is rounded to them",
	},
}

// newColumnEncoder returns the encoder for a target of a layout. The encoder calls the function
// adjusted for each value that the encoder adjusts.
func newColumnEncoder(l *sqlsink.Layout, t *sqlsink.Target, adjusted func(table, column, rule string)) columnEncoder {
	a := t.Real.Native.(*attribute)
	c := columnEncoder{
		ValueDecoder: sqlsink.NewValueDecoder(l, t, rules, adjusted), name: t.Real.Name, kind: a.kind,
		scale: -1, precision: microDigits,
	}
	switch {
	case a.kind == kindNumeric && a.typmod >= 4:
		// Since PostgreSQL 15 the scale is a signed number of eleven bits. Older versions have no
		// negative scales.
		c.scale = int(int16(uint16(a.typmod-4)<<5)) >> 5
	case a.kind == kindText && a.typmod >= 4:
		c.length = int(a.typmod - 4)
	case (a.kind == kindTimestamp || a.kind == kindTimestampTZ) && a.typmod >= 0:
		c.precision = int(a.typmod)
	}
	return c
}

// microDigits is the maximum number of fractional digits of the second in a timestamp.
const microDigits = 6

// append appends the length and the binary form of the raw JSON value, as COPY and array parameters
// expect them. If raw is nil, append appends NULL. An error is poison; its text names the column
// and never contains the value.
func (c *columnEncoder) append(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	if raw == nil || rawjson.IsNull(raw) {
		return append(dst, 0xff, 0xff, 0xff, 0xff), nil
	}
	dst, err := c.appendValue(append(dst, 0, 0, 0, 0), raw)
	if err != nil {
		return dst[:start], c.Refuse(err)
	}
	size := len(dst) - start - 4
	if size > maxField {
		return dst[:start], c.Refuse(errors.New("it is larger than 1 GB"))
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(size))
	return dst, nil
}

// maxField is the maximum size of an encoded value, in bytes.
const maxField = 1<<30 - 1<<16

func (c *columnEncoder) appendValue(dst, raw []byte) ([]byte, error) {
	switch c.kind {
	case kindText:
		return c.appendText(dst, raw)
	case kindBool:
		return appendBool(dst, raw)
	case kindInt2, kindInt4, kindInt8:
		return c.appendInt(dst, raw)
	case kindFloat4, kindFloat8:
		return c.appendFloat(dst, raw)
	case kindNumeric:
		return c.appendNumeric(dst, raw)
	case kindTimestampTZ, kindTimestamp, kindDate:
		return c.appendInstant(dst, raw)
	case kindJSON, kindJSONB:
		if c.kind == kindJSONB {
			if err := c.checkNumbers(raw); err != nil {
				return dst, err
			}
			dst = append(dst, 1) // the version of the binary form
		}
		dst, flaws := value.AppendJSON(dst, raw, 0)
		return dst, c.Replaced(flaws)
	case kindUUID:
		return appendUUID(dst, raw)
	case kindBytea:
		return value.AppendBytes(dst, raw), nil
	case kindArray:
		if raw[0] == '[' {
			dst, flaws, err := appendArray(dst, raw, 0)
			return dst, errors.Join(err, c.Replaced(flaws))
		}
	}
	dst, flaws := value.AppendText(dst, raw, 0)
	return dst, c.Replaced(flaws)
}

func (c *columnEncoder) appendText(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	dst, flaws := value.AppendText(dst, raw, 0)
	if c.length > 0 && len(dst)-start > c.length && utf8.RuneCount(dst[start:]) > c.length {
		return dst, fmt.Errorf("it is longer than %d characters", c.length)
	}
	return dst, c.Replaced(flaws)
}

func appendBool(dst, raw []byte) ([]byte, error) {
	b, err := value.Boolean(raw)
	switch {
	case err != nil:
		return dst, err
	case b:
		return append(dst, 1), nil
	default:
		return append(dst, 0), nil
	}
}

// checkNumbers returns an error if the JSON text contains a number that is out of range for
// numeric, the type in which jsonb stores numbers. A short number can be out of range only if it
// has an exponent.
func (c *columnEncoder) checkNumbers(raw []byte) error {
	return value.Numbers(raw, func(number []byte) error {
		if !bytes.ContainsAny(number, "eE") && len(number) <= maxNumericScale {
			return nil
		}
		d, err := value.ParseDecimal(c.Digits(number), number)
		if err == nil && (d.Point > maxNumericWhole || d.Scale > maxNumericScale) {
			err = fmt.Errorf("a number in it: %w", value.ErrRange)
		}
		return err
	})
}

func (c *columnEncoder) appendInt(dst, raw []byte) ([]byte, error) {
	switch c.kind {
	case kindInt2:
		n, err := c.Int(raw, 16)
		return binary.BigEndian.AppendUint16(dst, uint16(n)), err
	case kindInt4:
		n, err := c.Int(raw, 32)
		return binary.BigEndian.AppendUint32(dst, uint32(n)), err
	default:
		n, err := c.Int(raw, 64)
		return binary.BigEndian.AppendUint64(dst, uint64(n)), err
	}
}

func (c *columnEncoder) appendFloat(dst, raw []byte) ([]byte, error) {
	bits := 64
	if c.kind == kindFloat4 {
		bits = 32
	}
	f, ok := value.NonFinite(raw)
	if !ok {
		var err error
		if f, err = c.Float(raw, bits); err != nil {
			return dst, err
		}
	}
	if bits == 32 {
		return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(f))), nil
	}
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(f)), nil
}

func (c *columnEncoder) appendNumeric(dst, raw []byte) ([]byte, error) {
	if f, ok := value.NonFinite(raw); ok {
		return appendNonFinite(dst, f), nil
	}
	var d value.Decimal
	var err error
	if c.scale < 0 {
		d, err = c.Decimal(raw)
	} else {
		d, err = c.Fixed(raw, maxNumericWhole, c.scale)
	}
	if err != nil {
		return dst, err
	}
	return appendNumeric(dst, d)
}

func (c *columnEncoder) appendInstant(dst, raw []byte) ([]byte, error) {
	if c.kind == kindDate {
		t, err := c.Date(raw)
		if err != nil {
			return dst, err
		}
		days, err := date(t)
		return binary.BigEndian.AppendUint32(dst, uint32(days)), err
	}
	t, err := c.Instant(raw, c.precision)
	if err != nil {
		return dst, err
	}
	micros, err := timestamp(t)
	return binary.BigEndian.AppendUint64(dst, uint64(micros)), err
}

func appendUUID(dst, raw []byte) ([]byte, error) {
	bad := errors.New("it is not a uuid")
	if !rawjson.IsString(raw) {
		return dst, bad
	}
	start, high := len(dst), true
	for _, c := range bytes.Trim(rawjson.Text(raw), "{}") {
		if c == '-' {
			continue
		}
		n, ok := hexDigit(c)
		if !ok || len(dst)-start > 16 {
			return dst, bad
		}
		if high {
			dst = append(dst, n<<4)
		} else {
			dst[len(dst)-1] |= n
		}
		high = !high
	}
	if len(dst)-start != 16 || !high {
		return dst, bad
	}
	return dst, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c-'0' <= 9:
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// maxArrayDepth is the maximum number of dimensions of an array in PostgreSQL.
const maxArrayDepth = 6

// appendArray appends a JSON array as an array literal: {"1","a, b",NULL,{"2"}}. The parameter
// depth is the number of enclosing arrays.
func appendArray(dst, raw []byte, depth int) ([]byte, value.Flaw, error) {
	if depth == maxArrayDepth {
		return dst, 0, errors.New("its arrays are nested too deeply")
	}
	var flaws value.Flaw
	dst = append(dst, '{')
	first := true
	err := rawjson.Elements(raw, func(s rawjson.Span) error {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		var f value.Flaw
		var err error
		switch el := raw[s.Start:s.End]; {
		case rawjson.IsNull(el):
			dst = append(dst, "NULL"...)
		case el[0] == '[':
			dst, f, err = appendArray(dst, el, depth+1)
		default:
			dst, f = appendElement(dst, el)
		}
		flaws |= f
		return err
	})
	return append(dst, '}'), flaws, err
}

// appendElement appends one element of an array literal in quotes.
func appendElement(dst, raw []byte) ([]byte, value.Flaw) {
	text, flaws := value.AppendText(nil, raw, 0)
	dst = append(dst, '"')
	for _, c := range text {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"'), flaws
}
