package sqlserver

import (
	"encoding/hex"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// kind is the encoding in which eds sends a value to the server.
type kind uint8

const (
	kindCast     kind = iota // text, which the server casts to the type
	kindNVarChar             // UTF-16
	kindVarChar              // text in a code page or in UTF-8
	kindBit
	kindTinyInt
	kindSmallInt
	kindInt
	kindBigInt
	kindReal
	kindFloat
	kindDecimal
	kindDateTimeOffset
	kindDateTime2
	kindDateTime
	kindDate
	kindBinary
)

// columnEncoder encodes the values of one real column. It is used by one goroutine at a time.
type columnEncoder struct {
	sqlsink.ValueDecoder
	attribute
	name string // the real column's quoted name
	text []byte // reused to encode one text
}

// The variable rules has the names and descriptions of the adjustments that eds makes to values
// that a column cannot store.
var rules = sqlsink.ValueRules{
	sqlsink.ReplaceSurrogate: {Name: "sqlserver_surrogate", Help: "half of a surrogate pair becomes U+FFFD"},
	sqlsink.ReplaceUTF8:      {Name: "sqlserver_utf8", Help: "bytes that are not UTF-8 become U+FFFD"},
	sqlsink.CutSecond: {
		Name: "sqlserver_time_precision",
		Help: "digits of a second beyond microseconds, or the column's own precision, are cut off",
	},
	sqlsink.DropTime: {Name: "sqlserver_date_only", Help: "a column of type DATE drops the time of day"},
	sqlsink.RoundFloat: {
		Name: "sqlserver_float_precision",
		Help: "eds stores the nearest number if the column's floating-point type has too few digits",
	},
	sqlsink.RoundDecimal: {
		Name: "sqlserver_decimal_scale",
		Help: "a number with more decimal places than the column's DECIMAL is rounded to them",
	},
}

// newColumnEncoder returns the encoder for a target of a layout. The encoder calls the function
// adjusted for each value that the encoder adjusts.
func newColumnEncoder(l *sqlsink.Layout, t *sqlsink.Target, adjusted func(table, column, rule string)) columnEncoder {
	return columnEncoder{
		ValueDecoder: sqlsink.NewValueDecoder(l, t, rules, adjusted), attribute: *t.Real.Native.(*attribute), name: quote(t.Real.Name),
	}
}

// value converts a raw JSON value to a type that the driver can bind: nil for NULL, or a string,
// []byte, bool, int64, float64 or time.Time. An error is poison; its text names the column and
// never contains the value.
func (c *columnEncoder) value(raw []byte) (any, error) {
	if raw == nil || rawjson.IsNull(raw) {
		return nil, nil
	}
	v, err := c.encode(raw)
	if err != nil {
		return nil, c.Refuse(err)
	}
	return v, nil
}

func (c *columnEncoder) encode(raw []byte) (any, error) {
	switch c.kind {
	case kindBit:
		return value.Boolean(raw)
	case kindTinyInt:
		n, err := c.Uint(raw, 8)
		return int64(n), err
	case kindSmallInt:
		return c.Int(raw, 16)
	case kindInt:
		return c.Int(raw, 32)
	case kindBigInt:
		return c.Int(raw, 64)
	case kindReal:
		return c.Float(raw, 32)
	case kindFloat:
		return c.Float(raw, 64)
	case kindDecimal:
		return c.decimal(raw)
	case kindDateTimeOffset, kindDateTime2, kindDateTime, kindDate:
		return c.instant(raw)
	case kindBinary:
		return c.binary(raw)
	default:
		return c.string(raw)
	}
}

// maxText is the maximum size of a value of a MAX type, in bytes.
const maxText = 1<<31 - 1

var (
	errTooLong  = errors.New("it is longer than the column")
	errTooLarge = errors.New("it is larger than 2 GB")
	errBlank    = errors.New("it is part of the key and ends in a blank, which SQL Server ignores in keys")
	errCodePage = errors.New("it has characters that a VARCHAR may not store; make the column NVARCHAR")
)

// string returns the value as valid UTF-8. It returns an error if the text does not fit the column.
func (c *columnEncoder) string(raw []byte) (any, error) {
	var flaws value.Flaw
	if c.JSON {
		c.text, flaws = value.AppendJSON(c.text[:0], raw, value.NUL|value.Surrogate)
	} else {
		c.text, flaws = value.AppendText(c.text[:0], raw, value.NUL)
	}
	text := c.text
	if cap(c.text) > keepBuffer {
		c.text = nil
	}
	if err := c.Replaced(flaws); err != nil {
		return nil, err
	}
	if c.Key && len(text) > 0 && text[len(text)-1] == ' ' {
		return nil, errBlank
	}
	if err := c.fits(text); err != nil {
		return nil, err
	}
	return string(text), nil
}

// keepBuffer is the maximum capacity, in bytes, of a buffer that is kept for reuse.
const keepBuffer = 1 << 20

// fits returns an error if text is longer than the column allows, or if text has
// characters that a VARCHAR column may be unable to store. Only ASCII is the same in all code
// pages.
func (c *columnEncoder) fits(text []byte) error {
	if c.kind == kindVarChar {
		if !c.utf8 && !isASCII(text) {
			return errCodePage
		}
		if c.length > 0 && c.base != "text" && len(text) > c.length {
			return errTooLong
		}
	}
	if c.kind == kindNVarChar && c.length > 0 && c.base != "ntext" && len(text) > c.length && units(text) > c.length {
		return errTooLong
	}
	if len(text) > maxText/2 && 2*units(text) > maxText {
		return errTooLarge
	}
	return nil
}

func isASCII(text []byte) bool {
	for _, b := range text {
		if b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// units returns the number of UTF-16 units in text.
func units(text []byte) int {
	n := 0
	for len(text) > 0 {
		_, size := utf8.DecodeRune(text)
		if n++; size == 4 {
			n++
		}
		text = text[size:]
	}
	return n
}

// decimal returns the number as text that has exactly as many decimal places as the column.
func (c *columnEncoder) decimal(raw []byte) (any, error) {
	d, err := c.Fixed(raw, c.precision-c.scale, c.scale)
	if err != nil {
		return nil, err
	}
	return string(d.AppendText(nil, c.scale)), nil
}

// instant returns the instant in UTC, cut to the precision of the column.
func (c *columnEncoder) instant(raw []byte) (any, error) {
	t, err := value.ParseInstantJSON(raw)
	if err != nil {
		return nil, err
	}
	at := t.Time()
	if at.Before(c.earliest()) || at.Year() > 9999 || c.base == "smalldatetime" && at.After(lastSmall) {
		return nil, value.ErrRange
	}
	if c.kind == kindDate {
		if !t.Midnight() {
			err = c.Adjust(sqlsink.DropTime)
		}
		return at.Truncate(24 * time.Hour), err
	}
	kept := at.Truncate(c.tick())
	if c.base == "datetime" {
		kept = thirds(at)
	}
	if t.Cut || !kept.Equal(at) {
		err = c.Adjust(sqlsink.CutSecond)
	}
	return kept, err
}

var lastSmall = time.Date(2079, 6, 6, 23, 59, 0, 0, time.UTC)

// earliest returns the earliest instant in the range of the column's type.
func (c *columnEncoder) earliest() time.Time {
	switch c.base {
	case "datetime":
		return time.Date(1753, 1, 1, 0, 0, 0, 0, time.UTC)
	case "smalldatetime":
		return time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
}

// tick returns the resolution of the column's type, which is at least one microsecond.
func (c *columnEncoder) tick() time.Duration {
	if c.base == "smalldatetime" {
		return time.Minute
	}
	tick := time.Second
	for range min(c.scale, 6) {
		tick /= 10
	}
	return tick
}

// thirds returns the latest instant that is not after t and that a DATETIME can store.
// A DATETIME stores milliseconds whose last digit is 0, 3 or 7.
func thirds(t time.Time) time.Time {
	whole := t.Truncate(10 * time.Millisecond)
	for _, step := range []time.Duration{7 * time.Millisecond, 3 * time.Millisecond} {
		if t.Sub(whole) >= step {
			return whole.Add(step)
		}
	}
	return whole
}

// binary returns the bytes that a text describes. The text may be hexadecimal digits after 0x, as
// SQL Server formats bytes, or after \x, as the source formats them. For any other text, binary
// returns the bytes of the text itself.
func (c *columnEncoder) binary(raw []byte) (any, error) {
	text := rawjson.Text(raw)
	b := append([]byte{}, text...)
	if len(text) > 2 && (text[0] == '0' || text[0] == '\\') && text[1] == 'x' {
		if decoded, err := hex.AppendDecode(nil, text[2:]); err == nil {
			b = decoded
		}
	}
	if c.length > 0 && c.base != "image" && len(b) > c.length {
		return nil, errTooLong
	}
	return b, nil
}
