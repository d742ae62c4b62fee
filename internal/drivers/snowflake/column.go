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

// kind is how a value travels to a real type.
type kind uint8

const (
	kindCast kind = iota // as text, which the server casts to the type
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

// column encodes the values of one real column as JSON. It is used by one
// goroutine at a time.
type column struct {
	sqlsink.Adjuster
	attribute
	spelling string // of the type, for messages and casts
	truth    bool   // the source holds truth values
	text     []byte // room
	room     value.Room
}

// Names of the rules that change a value which the column can not hold as it is.
const (
	ruleNUL           = "snowflake_nul"
	ruleSurrogate     = "snowflake_surrogate"
	ruleUTF8          = "snowflake_utf8"
	ruleTimePrecision = "snowflake_time_precision"
	ruleDateOnly      = "snowflake_date_only"
	ruleFloat         = "snowflake_float_precision"
	ruleScale         = "snowflake_number_scale"
	ruleJSONNumber    = "snowflake_json_number"
)

var textRules = sqlsink.TextRules{NUL: ruleNUL, Surrogate: ruleSurrogate, UTF8: ruleUTF8}

// rules describes them for the help text.
var rules = []struct{ name, what string }{
	{ruleNUL, "U+0000 becomes U+FFFD"},
	{ruleSurrogate, "half of a surrogate pair becomes U+FFFD"},
	{ruleUTF8, "bytes that are not UTF-8 become U+FFFD"},
	{ruleTimePrecision, "digits of a second beyond microseconds, or the column's own precision, are cut off"},
	{ruleDateOnly, "a column of type DATE drops the time of day"},
	{ruleFloat, "a number with more digits than FLOAT holds becomes the nearest one"},
	{ruleScale, "a number with more decimal places than the column's NUMBER type is rounded to them"},
	{ruleJSONNumber, "a number inside JSON with more than 38 digits becomes the nearest FLOAT"},
}

// append appends the value as JSON: a string, but for the JSON of VARIANTs. The
// error is poison and names the column, never the value.
func (c *column) append(dst, raw []byte) ([]byte, error) {
	out, err := c.appendValue(dst, raw)
	if err != nil {
		return dst, c.Refuse(c.spelling, err)
	}
	return out, nil
}

func (c *column) appendValue(dst, raw []byte) ([]byte, error) {
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
			err = c.Note(flaws)
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
	truth, err := value.Truth(raw)
	if err != nil {
		return dst, err
	}
	return strconv.AppendBool(dst, truth), nil
}

// appendFixed appends a number as the column's precision and scale have it.
func (c *column) appendFixed(dst, raw []byte) ([]byte, error) {
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	d, err := value.ParseDecimal(c.room.For(text), text)
	if err != nil {
		return dst, err
	}
	digits := d.Significant()
	if len(digits)-d.Point > c.scale {
		if c.scale == 0 {
			return dst, value.ErrNotInteger
		}
		if err := c.Adjust(ruleScale); err != nil {
			return dst, err
		}
		digits, d.Point = round(digits, d.Point, c.scale)
	}
	if len(digits) > 0 && d.Point > c.precision-c.scale {
		return dst, value.ErrRange
	}
	return appendPlain(dst, d.Negative, digits, d.Point), nil
}

// round rounds the number 0.digits x 10^point to scale decimal places, halves
// away from zero.
func round(digits []byte, point, scale int) ([]byte, int) {
	keep := point + scale
	if keep < 0 {
		return nil, 0
	}
	up := digits[keep] >= '5'
	digits = digits[:keep]
	for i := keep - 1; up && i >= 0; i-- {
		if up = digits[i] == '9'; up {
			digits[i] = '0'
		} else {
			digits[i]++
		}
	}
	if up { // out of the first digit
		digits, point = append([]byte{'1'}, digits...), point+1
	}
	digits = bytes.TrimRight(digits, "0")
	if len(digits) == 0 {
		return nil, 0
	}
	return digits, point
}

// appendPlain appends the number 0.digits x 10^point without an exponent.
func appendPlain(dst []byte, negative bool, digits []byte, point int) []byte {
	if len(digits) == 0 {
		return append(dst, '0')
	}
	if negative {
		dst = append(dst, '-')
	}
	if point <= 0 {
		dst = append(dst, '0')
	}
	for i := range point {
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	if point >= len(digits) {
		return dst
	}
	dst = append(dst, '.')
	for range -min(point, 0) {
		dst = append(dst, '0')
	}
	return append(dst, digits[max(point, 0):]...)
}

func (c *column) appendFloat(dst, raw []byte) ([]byte, error) {
	switch string(raw) {
	case `"NaN"`:
		return append(dst, "NaN"...), nil
	case `"Infinity"`:
		return append(dst, "inf"...), nil
	case `"-Infinity"`:
		return append(dst, "-inf"...), nil
	}
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	f, exact, err := value.ParseFloat(c.room.For(text), text, 64)
	if err != nil {
		return dst, err
	}
	if !exact {
		if err := c.Adjust(ruleFloat); err != nil {
			return dst, err
		}
	}
	if f == 0 {
		return append(dst, '0'), nil
	}
	return strconv.AppendFloat(dst, f, 'e', -1, 64), nil
}

// microDigits is how many digits of a second are kept.
const microDigits = 6

// appendInstant appends an instant as shape.value reads it.
func (c *column) appendInstant(dst, raw []byte) ([]byte, error) {
	if !rawjson.IsString(raw) {
		return dst, value.ErrNotInstant
	}
	t, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil {
		return dst, err
	}
	cut := t.Cut
	for unit, digits := int64(1_000_000), 0; c.kind != kindDate && digits < microDigits; digits++ {
		if digits == c.precision && t.Micros%unit != 0 {
			cut = true
		}
		unit /= 10
	}
	start := len(dst)
	dst, err = t.AppendText(dst, 'T')
	switch {
	case err != nil:
		return dst[:start], err
	case c.kind == kindDate:
		dst = dst[:start+len("2006-01-02")]
		if !t.Midnight() {
			err = c.Adjust(ruleDateOnly)
		}
	case cut:
		err = c.Adjust(ruleTimePrecision)
	}
	if c.kind == kindTZ || c.kind == kindLTZ {
		dst = append(dst, "+00:00"...)
	}
	return dst, err
}

// appendJSON appends JSON as it is written.
func (c *column) appendJSON(dst, raw []byte) ([]byte, error) {
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
	for i, b := range dst[start:] { // a line is a row
		if b == '\n' || b == '\r' {
			dst[start+i] = ' '
		}
	}
	return dst, c.Note(flaws)
}

// exactDigits is how many digits of a number inside JSON Snowflake keeps; one of
// more becomes a floating-point number.
const exactDigits = 38

// checkNumber looks at a number in JSON text that a VARIANT may not hold.
func (c *column) checkNumber(text []byte) error {
	if len(text) <= 15 && bytes.IndexByte(text, 'e') < 0 && bytes.IndexByte(text, 'E') < 0 {
		return nil
	}
	d, err := value.ParseDecimal(c.room.For(text), text)
	if err != nil {
		return err
	}
	if digits := len(d.Significant()); digits == 0 || max(d.Point, digits) <= exactDigits && digits-d.Point <= exactDigits-1 {
		return nil
	}
	_, exact, err := value.ParseFloat(c.room.For(text), text, 64)
	if err != nil {
		return fmt.Errorf("a number in it: %w", err)
	}
	if !exact {
		return c.Adjust(ruleJSONNumber)
	}
	return nil
}
