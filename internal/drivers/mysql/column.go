package mysql

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// kind is the text format in which eds sends a value to the server.
type kind uint8

const (
	kindOther kind = iota // any text, which the server converts to the column's type
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
	kindJSON  // JSON text, which the server checks
	kindBytes // hexadecimal digits, for UNHEX
)

// columnEncoder encodes the values of one real column. It is used by one goroutine at a time.
type columnEncoder struct {
	sqlsink.ValueDecoder
	*attribute
	name   string // the real column's name
	native bool   // the server stores JSON in a binary form, not as text
	buffer []byte // reused to encode one value
}

// The variable rules has the names and descriptions of the adjustments that eds makes to values
// that a column cannot store.
var rules = sqlsink.ValueRules{
	sqlsink.ReplaceSurrogate: {
		Name: "mysql_surrogate",
		Help: "half of a surrogate pair becomes U+FFFD, in text and in JSON that the server checks",
	},
	sqlsink.ReplaceUTF8: {Name: "mysql_utf8", Help: "bytes that are not UTF-8 become U+FFFD"},
	sqlsink.CutSecond: {
		Name: "mysql_time_precision",
		Help: "digits of a second beyond microseconds, or the column's own precision, are cut off",
	},
	sqlsink.DropTime: {Name: "mysql_date_only", Help: "a column of type DATE drops the time of day"},
	sqlsink.RoundFloat: {
		Name: "mysql_float_precision",
		Help: "eds stores the nearest number if the column's floating-point type has too few digits",
	},
	sqlsink.RoundDecimal: {
		Name: "mysql_decimal_scale",
		Help: "a number with more decimal places than the column's DECIMAL type is rounded to them",
	},
	sqlsink.PadText: {
		Name: "mysql_padding",
		Help: "a column of type CHAR drops blanks at the end, one of type BINARY adds zeros",
	},
	sqlsink.RoundJSON: {
		Name: "mysql_json_number",
		Help: "a number in JSON that is no integer of 64 bits becomes the nearest floating-point number (MySQL)",
	},
}

// newColumnEncoder returns the encoder for a target of a layout. The parameter native says whether
// the server stores JSON in a binary form. The encoder calls the function adjusted for each value
// that the encoder adjusts.
func newColumnEncoder(l *sqlsink.Layout, t *sqlsink.Target, native bool, adjusted func(table, column, rule string)) columnEncoder {
	return columnEncoder{
		ValueDecoder: sqlsink.NewValueDecoder(l, t, rules, adjusted), attribute: t.Real.Native.(*attribute),
		name: t.Real.Name, native: native,
	}
}

// append appends the text of the raw JSON value, which must not be nil. An error is poison; its
// text names the column and never contains the value.
func (c *columnEncoder) append(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	dst, err := c.appendValue(dst, raw)
	if err != nil {
		return dst[:start], c.Refuse(err)
	}
	return dst, nil
}

// appendField appends the raw JSON value as a field of LOAD DATA. If raw is nil, it appends \N,
// which is NULL. It escapes characters that would end the field or the line.
func (c *columnEncoder) appendField(dst, raw []byte) ([]byte, error) {
	if raw == nil {
		return append(dst, '\\', 'N'), nil
	}
	// A value without special characters needs no escaping. This is the case for a JSON string
	// without escapes, and for types whose text consists of digits, letters and punctuation.
	if c.kind > kindText && c.kind != kindJSON || raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && !c.JSON {
		return c.append(dst, raw)
	}
	var err error
	if c.buffer, err = c.append(c.buffer[:0], raw); err != nil {
		return dst, err
	}
	dst = appendEscaped(dst, c.buffer)
	if cap(c.buffer) > keepBuffer {
		c.buffer = nil
	}
	return dst, nil
}

// appendEscaped appends text. It escapes the characters that LOAD DATA treats as special.
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

func (c *columnEncoder) appendValue(dst, raw []byte) ([]byte, error) {
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
		return dst, c.Replaced(flaws)
	default:
		return c.appendBytes(dst, raw)
	}
}

// appendText appends a string without its quotes, and any other value as JSON text. If the column
// holds JSON in the source, appendText appends strings as JSON text, too.
func (c *columnEncoder) appendText(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	var flaws value.Flaw
	if c.JSON {
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
		if err := c.Adjust(sqlsink.PadText); err != nil {
			return dst, err
		}
	}
	return dst, c.Replaced(flaws)
}

func (c *columnEncoder) appendTruth(dst, raw []byte) ([]byte, error) {
	if !c.Boolean {
		return c.appendInt(dst, raw)
	}
	b, err := value.Boolean(raw)
	if b {
		return append(dst, '1'), err
	}
	return append(dst, '0'), err
}

// appendBit appends the value of a BIT column as an unsigned decimal number.
func (c *columnEncoder) appendBit(dst, raw []byte) ([]byte, error) {
	if c.Boolean {
		return c.appendTruth(dst, raw)
	}
	n, err := c.Uint(raw, c.whole)
	return strconv.AppendUint(dst, n, 10), err
}

// The map bits maps the name of each integer type to the size of the type, in bits.
var bits = map[string]int{"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64}

func (c *columnEncoder) appendInt(dst, raw []byte) ([]byte, error) {
	if c.unsigned {
		n, err := c.Uint(raw, bits[c.data])
		return strconv.AppendUint(dst, n, 10), err
	}
	n, err := c.Int(raw, bits[c.data])
	return strconv.AppendInt(dst, n, 10), err
}

func (c *columnEncoder) appendFloat(dst, raw []byte) ([]byte, error) {
	size := 64
	if c.kind == kindFloat {
		size = 32
	}
	f, err := c.Float(raw, size)
	return strconv.AppendFloat(dst, f, 'g', -1, size), err
}

func (c *columnEncoder) appendDecimal(dst, raw []byte) ([]byte, error) {
	d, err := c.Fixed(raw, c.whole, max(0, c.scale))
	if err != nil {
		return dst, err
	}
	return d.AppendText(dst, 0), nil
}

func (c *columnEncoder) appendInstant(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	if c.kind == kindDate {
		t, err := c.Date(raw)
		if err != nil {
			return dst, err
		}
		if dst, err = t.AppendText(dst, ' '); err != nil {
			return dst, err
		}
		return dst[:start+len("2006-01-02")], nil
	}
	t, err := c.Instant(raw, c.precision)
	if err != nil {
		return dst, err
	}
	if seconds := t.Time().Unix(); c.kind == kindTimestamp && (seconds < 1 || seconds > 1<<32-1) {
		return dst, value.ErrRange
	}
	if dst, err = t.AppendText(dst, ' '); err != nil {
		return dst, err
	}
	if c.precision == 0 {
		return dst[:start+len("2006-01-02 15:04:05")], nil
	}
	return dst[:start+len("2006-01-02 15:04:05.")+c.precision], nil
}

// appendBytes appends the bytes of the raw JSON value as hexadecimal digits.
func (c *columnEncoder) appendBytes(dst, raw []byte) ([]byte, error) {
	c.buffer = value.AppendBytes(c.buffer[:0], raw)
	b := c.buffer
	if cap(b) > keepBuffer {
		c.buffer = nil
	}
	if len(b) > c.length {
		return dst, fmt.Errorf("it is longer than %d bytes", c.length)
	}
	if c.data == "binary" && len(b) < c.length {
		if err := c.Adjust(sqlsink.PadText); err != nil {
			return dst, err
		}
	}
	return hex.AppendEncode(dst, b), nil
}

// checkNumber checks a number in JSON text. MySQL stores the number as an integer if it fits into
// 64 bits, signed or unsigned, and as a floating-point number otherwise.
func (c *columnEncoder) checkNumber(text []byte) error {
	if len(text) <= 15 && !bytes.ContainsAny(text, "eE") {
		return nil
	}
	if _, err := value.ParseInt(c.Digits(text), text); err == nil {
		return nil
	}
	if _, err := value.ParseUint(c.Digits(text), text); err == nil {
		return nil
	}
	return c.JSONFloat(text)
}
