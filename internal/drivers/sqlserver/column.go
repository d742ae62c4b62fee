package sqlserver

import (
	"encoding/hex"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// kind is how a value travels to a real type.
type kind uint8

const (
	kindCast     kind = iota // as text, which the server casts to the type
	kindNVarChar             // UTF-16
	kindVarChar              // of a code page, or UTF-8
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

// column encodes the values of one real column. It is used by one goroutine at a time.
type column struct {
	sqlsink.Adjuster
	attribute
	name  string // of the real column, quoted
	json  bool   // the source holds JSON
	truth bool   // the source holds truth values
	text  []byte // room
	room  value.Room
}

// Names of the rules that change a value which the column can not hold as it is.
const (
	ruleSurrogate     = "sqlserver_surrogate"       // a lone surrogate becomes U+FFFD
	ruleUTF8          = "sqlserver_utf8"            // bytes that are not UTF-8 become U+FFFD
	ruleTimePrecision = "sqlserver_time_precision"  // digits of a second are cut off
	ruleDateOnly      = "sqlserver_date_only"       // a date column drops the time of day
	ruleFloat         = "sqlserver_float_precision" // the nearest number of the column's type
	ruleScale         = "sqlserver_decimal_scale"   // rounded to the column's decimal places
)

var textRules = sqlsink.TextRules{Surrogate: ruleSurrogate, UTF8: ruleUTF8}

// rules describes them for the help text.
func rules() []struct{ name, what string } {
	return []struct{ name, what string }{
		{ruleSurrogate, "half of a surrogate pair becomes U+FFFD"},
		{ruleUTF8, "bytes that are not UTF-8 become U+FFFD"},
		{ruleTimePrecision, "digits of a second beyond microseconds, or the column's own precision, are cut off"},
		{ruleDateOnly, "a column of type DATE drops the time of day"},
		{ruleFloat, "a number with more digits than the column's floating-point type holds becomes the nearest one"},
		{ruleScale, "a number with more decimal places than the column's DECIMAL is rounded to them"},
	}
}

// newColumn returns the encoder of a target.
func newColumn(l *sqlsink.Layout, t *sqlsink.Target, adjusted func(table, column, rule string)) column {
	return column{
		Adjuster: sqlsink.NewAdjuster(l, t, textRules, adjusted), attribute: *t.Real.Native.(*attribute), name: quote(t.Real.Name),
		json: t.Type.IsJSON(), truth: t.Type == schema.Boolean,
	}
}

// value returns what the driver binds for a raw JSON value: nil for NULL, else
// string, []byte, bool, int64, float64 or time.Time. The error is poison and
// names the column, never the value.
func (c *column) value(raw []byte) (any, error) {
	if raw == nil || rawjson.IsNull(raw) {
		return nil, nil
	}
	v, err := c.encode(raw)
	if err != nil {
		return nil, c.Refuse(c.spelling(), err)
	}
	return v, nil
}

func (c *column) encode(raw []byte) (any, error) {
	switch c.kind {
	case kindBit:
		return value.Truth(raw)
	case kindTinyInt, kindSmallInt, kindInt, kindBigInt:
		return c.integer(raw)
	case kindReal, kindFloat:
		return c.float(raw)
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

// maxText is the largest value of a MAX type, in bytes.
const maxText = 1<<31 - 1

var (
	errTooLong  = errors.New("it is longer than the column")
	errTooLarge = errors.New("it is larger than 2 GB")
	errBlank    = errors.New("it is part of the key and ends in a blank, without which SQL Server takes it for the same key")
	errCodePage = errors.New("it has characters that a VARCHAR may not hold; make the column NVARCHAR")
)

// string returns text as valid UTF-8 that fits the column.
func (c *column) string(raw []byte) (any, error) {
	var flaws value.Flaw
	if c.json {
		c.text, flaws = value.AppendJSON(c.text[:0], raw, value.NUL|value.Surrogate)
	} else {
		c.text, flaws = value.AppendText(c.text[:0], raw, value.NUL)
	}
	text := c.text
	if cap(c.text) > keepRoom {
		c.text = nil
	}
	if err := c.Note(flaws); err != nil {
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

// keepRoom is how large a buffer may be to be kept for the next value.
const keepRoom = 1 << 20

// fits checks that text is no longer than the column, and that a VARCHAR holds
// its characters: in every code page those of ASCII are the same.
func (c *column) fits(text []byte) error {
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

// units returns how many UTF-16 units text has.
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

func (c *column) integer(raw []byte) (any, error) {
	raw, err := value.Number(raw, c.truth)
	if err != nil {
		return nil, err
	}
	n, err := value.ParseInt(c.room.For(raw), raw)
	if err != nil {
		return nil, err
	}
	if c.kind == kindInt && n != int64(int32(n)) || c.kind == kindSmallInt && n != int64(int16(n)) || c.kind == kindTinyInt && n != int64(uint8(n)) {
		return nil, value.ErrRange
	}
	return n, nil
}

func (c *column) float(raw []byte) (any, error) {
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return nil, err
	}
	bits := 64
	if c.kind == kindReal {
		bits = 32
	}
	f, exact, err := value.ParseFloat(c.room.For(text), text, bits)
	if err != nil {
		return nil, err
	}
	if !exact {
		if err := c.Adjust(ruleFloat); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (c *column) decimal(raw []byte) (any, error) {
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return nil, err
	}
	d, err := value.ParseDecimal(c.room.For(text), text)
	if err != nil {
		return nil, err
	}
	spelled, exact, err := spell(d, c.precision, c.scale)
	if err != nil {
		return nil, err
	}
	if !exact {
		if err := c.Adjust(ruleScale); err != nil {
			return nil, err
		}
	}
	return spelled, nil
}

// instant returns the instant in UTC, with no more digits than the column has.
func (c *column) instant(raw []byte) (any, error) {
	if !rawjson.IsString(raw) {
		return nil, value.ErrNotInstant
	}
	t, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil {
		return nil, err
	}
	at := t.Time()
	if at.Before(c.earliest()) || at.Year() > 9999 || c.base == "smalldatetime" && at.After(lastSmall) {
		return nil, value.ErrRange
	}
	if c.kind == kindDate {
		if !t.Midnight() {
			err = c.Adjust(ruleDateOnly)
		}
		return at.Truncate(24 * time.Hour), err
	}
	kept := at.Truncate(c.tick())
	if c.base == "datetime" {
		kept = thirds(at)
	}
	if t.Cut || !kept.Equal(at) {
		err = c.Adjust(ruleTimePrecision)
	}
	return kept, err
}

var lastSmall = time.Date(2079, 6, 6, 23, 59, 0, 0, time.UTC)

// earliest returns the first instant that the type holds.
func (c *column) earliest() time.Time {
	switch c.base {
	case "datetime":
		return time.Date(1753, 1, 1, 0, 0, 0, 0, time.UTC)
	case "smalldatetime":
		return time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
}

// tick returns the smallest difference of two instants that the type holds.
func (c *column) tick() time.Duration {
	if c.base == "smalldatetime" {
		return time.Minute
	}
	tick := time.Second
	for range min(c.scale, 6) {
		tick /= 10
	}
	return tick
}

// thirds returns the last instant before or at t that a DATETIME holds as it is
// written, to the millisecond: those end in 0, 3 or 7.
func thirds(t time.Time) time.Time {
	whole := t.Truncate(10 * time.Millisecond)
	for _, step := range []time.Duration{7 * time.Millisecond, 3 * time.Millisecond} {
		if t.Sub(whole) >= step {
			return whole.Add(step)
		}
	}
	return whole
}

// binary reads text of the form 0x0123 or \x0123, as SQL Server and the source
// write bytes, and takes any other text for the bytes themselves.
func (c *column) binary(raw []byte) (any, error) {
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
