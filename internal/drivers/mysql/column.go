package mysql

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// kind is how a value becomes the text that a real type takes.
type kind uint8

const (
	kindOther kind = iota // as text, of which the server makes what it can
	kindText
	kindTruth // TINYINT(1)
	kindBit
	kindInt
	kindFloat
	kindDouble
	kindDecimal
	kindDateTime
	kindTimestamp
	kindDate
	kindJSON  // checked by the server
	kindBytes // as hexadecimal digits, which UNHEX makes bytes of
)

// column encodes the values of one real column. It is used by one goroutine at a time.
type column struct {
	sqlsink.Adjuster
	*attribute
	name     string // of the real column
	spelling string // of the type, for messages
	json     bool   // the source holds JSON values
	truth    bool   // the source holds truth values
	native   bool   // JSON is stored as such, and not as its text
	space    value.Room
	room     []byte // room for a text that is to be escaped
}

// Names of the rules that change a value which the column can not hold as it is.
const (
	ruleSurrogate     = "mysql_surrogate"       // a lone surrogate becomes U+FFFD
	ruleUTF8          = "mysql_utf8"            // bytes that are not UTF-8 become U+FFFD
	ruleTimePrecision = "mysql_time_precision"  // digits beyond the column's are cut off
	ruleDateOnly      = "mysql_date_only"       // a date column drops the time of day
	ruleFloat         = "mysql_float_precision" // the nearest number of the column's type
	ruleScale         = "mysql_decimal_scale"   // rounded to the column's decimal places
	rulePadding       = "mysql_padding"         // a CHAR column drops trailing blanks, a BINARY one adds zeros
	ruleJSONNumber    = "mysql_json_number"     // the nearest number that MySQL's JSON holds
)

var textRules = sqlsink.TextRules{Surrogate: ruleSurrogate, UTF8: ruleUTF8}

// rules describes them for the help text.
var rules = []struct{ name, what string }{
	{ruleSurrogate, "half of a surrogate pair becomes U+FFFD"},
	{ruleUTF8, "bytes that are not UTF-8 become U+FFFD"},
	{ruleTimePrecision, "digits of a second beyond microseconds, or the column's own precision, are cut off"},
	{ruleDateOnly, "a column of type DATE drops the time of day"},
	{ruleFloat, "a number with more digits than the column's floating-point type holds becomes the nearest one"},
	{ruleScale, "a number with more decimal places than the column's DECIMAL type is rounded to them"},
	{rulePadding, "a column of type CHAR drops blanks at the end, one of type BINARY adds zeros"},
	{ruleJSONNumber, "a number in JSON that is no integer of 64 bits becomes the nearest floating-point number (MySQL)"},
}

// append appends the value's text; raw is not null. The error is poison and
// names the column, never the value.
func (c *column) append(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	dst, err := c.appendValue(dst, raw)
	if err != nil {
		return dst[:start], c.Refuse(c.spelling, err)
	}
	return dst, nil
}

// appendField appends the value as LOAD DATA reads it: \N is NULL, and what
// would end a field or a line is escaped.
func (c *column) appendField(dst, raw []byte) ([]byte, error) {
	if raw == nil {
		return append(dst, '\\', 'N'), nil
	}
	// A string without escapes has no control characters, and other types'
	// texts are digits and letters.
	if c.kind > kindText && c.kind != kindJSON || raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && !c.json {
		return c.append(dst, raw)
	}
	var err error
	if c.room, err = c.append(c.room[:0], raw); err != nil {
		return dst, err
	}
	dst = appendEscaped(dst, c.room)
	if cap(c.room) > keepBuffer {
		c.room = nil
	}
	return dst, nil
}

// appendEscaped appends text with what means something to LOAD DATA escaped.
func appendEscaped(dst, text []byte) []byte {
	start := 0
	for i, b := range text {
		var as byte
		switch b {
		case '\\':
			as = '\\'
		case '\n':
			as = 'n'
		case '\t':
			as = 't'
		case 0:
			as = '0'
		default:
			continue
		}
		dst = append(dst, text[start:i]...)
		dst = append(dst, '\\', as)
		start = i + 1
	}
	return append(dst, text[start:]...)
}

func (c *column) appendValue(dst, raw []byte) ([]byte, error) {
	switch c.kind {
	case kindText, kindOther:
		return c.appendText(dst, raw)
	case kindTruth:
		return c.appendTruth(dst, raw)
	case kindBit:
		return c.appendBit(dst, raw)
	case kindInt:
		return c.appendInt(dst, raw)
	case kindFloat, kindDouble:
		return c.appendFloat(dst, raw)
	case kindDecimal:
		return c.appendDecimal(dst, raw)
	case kindDateTime, kindTimestamp, kindDate:
		return c.appendInstant(dst, raw)
	case kindJSON:
		if c.native {
			if err := value.Numbers(raw, c.checkNumber); err != nil {
				return dst, err
			}
		}
		dst, flaws := value.AppendJSON(dst, raw, value.NUL)
		return dst, c.Note(flaws)
	default:
		return c.appendBytes(dst, raw)
	}
}

// appendText appends a string without its quotes; of anything else, and of all
// that a JSON column of the source holds, its JSON text.
func (c *column) appendText(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	var flaws value.Flaw
	if c.json {
		dst, flaws = value.AppendJSON(dst, raw, value.NUL|value.Surrogate)
	} else {
		dst, flaws = value.AppendText(dst, raw, value.NUL)
	}
	text := dst[start:]
	switch c.data {
	case "varchar", "char":
		if len(text) > c.length && utf8.RuneCount(text) > c.length {
			return dst, fmt.Errorf("it is longer than %d characters", c.length)
		}
	case "tinytext", "text", "mediumtext", "longtext":
		if len(text) > c.length {
			return dst, fmt.Errorf("it is longer than %d bytes", c.length)
		}
	}
	if (c.charset == "utf8" || c.charset == "utf8mb3") && bytes.ContainsFunc(text, func(r rune) bool { return r > 0xFFFF }) {
		return dst, fmt.Errorf("it has characters that the column's character set %s lacks", c.charset)
	}
	if c.data == "char" && len(text) > 0 && text[len(text)-1] == ' ' {
		if err := c.Adjust(rulePadding); err != nil {
			return dst, err
		}
	}
	return dst, c.Note(flaws)
}

func (c *column) appendTruth(dst, raw []byte) ([]byte, error) {
	if !c.truth {
		return c.appendInt(dst, raw)
	}
	truth, err := value.Truth(raw)
	if truth {
		return append(dst, '1'), err
	}
	return append(dst, '0'), err
}

// appendBit appends the number that the bits are.
func (c *column) appendBit(dst, raw []byte) ([]byte, error) {
	if c.truth {
		return c.appendTruth(dst, raw)
	}
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	n, err := parseUint(c.space.For(text), text)
	if err == nil && c.whole < 64 && n>>c.whole != 0 {
		err = value.ErrRange
	}
	return strconv.AppendUint(dst, n, 10), err
}

// bits of the integer types.
var bits = map[string]int{"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}

func (c *column) appendInt(dst, raw []byte) ([]byte, error) {
	raw, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	size := bits[c.data]
	if c.unsigned {
		n, err := parseUint(c.space.For(raw), raw)
		if err == nil && size < 64 && n>>size != 0 {
			err = value.ErrRange
		}
		return strconv.AppendUint(dst, n, 10), err
	}
	n, err := value.ParseInt(c.space.For(raw), raw)
	if err == nil && size < 64 && n>>(size-1) != 0 && n>>(size-1) != -1 {
		err = value.ErrRange
	}
	return strconv.AppendInt(dst, n, 10), err
}

func (c *column) appendFloat(dst, raw []byte) ([]byte, error) {
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	size := 64
	if c.kind == kindFloat {
		size = 32
	}
	f, exact, err := value.ParseFloat(c.space.For(text), text, size)
	if err != nil {
		return dst, err
	}
	if !exact {
		if err := c.Adjust(ruleFloat); err != nil {
			return dst, err
		}
	}
	return strconv.AppendFloat(dst, f, 'g', -1, size), nil
}

func (c *column) appendDecimal(dst, raw []byte) ([]byte, error) {
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	d, err := value.ParseDecimal(c.space.For(text), text)
	if err != nil {
		return dst, err
	}
	dst, rounded, err := appendDecimal(dst, d, c.whole, max(0, c.scale))
	if err == nil && rounded {
		err = c.Adjust(ruleScale)
	}
	return dst, err
}

func (c *column) appendInstant(dst, raw []byte) ([]byte, error) {
	if !rawjson.IsString(raw) {
		return dst, value.ErrNotInstant
	}
	t, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil {
		return dst, err
	}
	start := len(dst)
	if dst, err = t.AppendText(dst, ' '); err != nil {
		return dst, err
	}
	if c.kind == kindDate {
		if !t.Midnight() {
			err = c.Adjust(ruleDateOnly)
		}
		return dst[:start+len("2006-01-02")], err
	}
	if c.kind == kindTimestamp {
		if seconds := t.Time().Unix(); seconds < 1 || seconds > 1<<32-1 {
			return dst, value.ErrRange
		}
	}
	keep := start + len("2006-01-02 15:04:05.") + c.precision
	cut := t.Cut || len(bytes.TrimRight(dst[keep:], "0")) > 0
	if c.precision == 0 {
		keep-- // the point
	}
	if cut {
		err = c.Adjust(ruleTimePrecision)
	}
	return dst[:keep], err
}

// appendBytes reads text of the form \x0123, as CockroachDB and PostgreSQL write
// bytes, and takes any other text for the bytes themselves.
func (c *column) appendBytes(dst, raw []byte) ([]byte, error) {
	text := rawjson.Text(raw)
	if digits, ok := bytes.CutPrefix(text, []byte(`\x`)); ok {
		if decoded, err := hex.AppendDecode(nil, digits); err == nil {
			text = decoded
		}
	}
	if len(text) > c.length {
		return dst, fmt.Errorf("it is longer than %d bytes", c.length)
	}
	if c.data == "binary" && len(text) < c.length {
		if err := c.Adjust(rulePadding); err != nil {
			return dst, err
		}
	}
	return hex.AppendEncode(dst, text), nil
}

// checkNumber looks at a number in JSON text that MySQL stores as such: as an
// integer of 64 bits where it is one, else as a floating-point number.
func (c *column) checkNumber(text []byte) error {
	if len(text) <= 15 && !bytes.ContainsAny(text, "eE") {
		return nil
	}
	if _, err := value.ParseInt(c.space.For(text), text); err == nil {
		return nil
	}
	if _, err := parseUint(c.space.For(text), text); err == nil {
		return nil
	}
	_, exact, err := value.ParseFloat(c.space.For(text), text, 64)
	if err != nil {
		return fmt.Errorf("a number in it: %w", err)
	}
	if !exact {
		return c.Adjust(ruleJSONNumber)
	}
	return nil
}
