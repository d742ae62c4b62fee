package postgres

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
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
	kindArray // an array of any type, as its literal, which the server casts
)

// column encodes the values of one real column. It is used by one goroutine at a time.
type column struct {
	sqlsink.Adjuster
	name      string // of the real column
	spelling  string // of the type, for messages and casts
	kind      kind
	length    int  // characters at most; 0 is any number
	scale     int  // of numeric: decimal places at most; -1 is any number
	precision int  // of timestamps: digits of a second at most
	truth     bool // the source holds truth values
	room      value.Room
}

// Names of the rules that change a value which the column can not hold as it is.
const (
	ruleNUL           = "postgres_nul"             // U+0000 becomes U+FFFD
	ruleSurrogate     = "postgres_surrogate"       // a lone surrogate becomes U+FFFD
	ruleUTF8          = "postgres_utf8"            // bytes that are not UTF-8 become U+FFFD
	ruleTimePrecision = "postgres_time_precision"  // digits beyond microseconds are cut off
	ruleDateOnly      = "postgres_date_only"       // a date column drops the time of day
	ruleFloat         = "postgres_float_precision" // the nearest number of the column's type
	ruleScale         = "postgres_numeric_scale"   // rounded to the column's decimal places
)

var textRules = sqlsink.TextRules{NUL: ruleNUL, Surrogate: ruleSurrogate, UTF8: ruleUTF8}

// rules describes them for the help text.
var rules = []struct{ name, what string }{
	{ruleNUL, "U+0000, which PostgreSQL can not store, becomes U+FFFD"},
	{ruleSurrogate, "half of a surrogate pair becomes U+FFFD"},
	{ruleUTF8, "bytes that are not UTF-8 become U+FFFD"},
	{ruleTimePrecision, "digits of a second beyond microseconds, or the column's own precision, are cut off"},
	{ruleDateOnly, "a column of type date drops the time of day"},
	{ruleFloat, "a number with more digits than the column's floating-point type holds becomes the nearest one"},
	{ruleScale, "a number with more decimal places than the column's numeric type is rounded to them"},
}

// append appends the value's length and its binary form; raw nil is NULL. The
// error is poison and names the column, never the value.
func (c *column) append(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	if raw == nil || rawjson.IsNull(raw) {
		return append(dst, 0xff, 0xff, 0xff, 0xff), nil
	}
	dst, err := c.appendValue(append(dst, 0, 0, 0, 0), raw)
	if err != nil {
		return dst[:start], c.Refuse(c.spelling, err)
	}
	size := len(dst) - start - 4
	if size > maxField {
		return dst[:start], c.Refuse(c.spelling, errors.New("it is larger than 1 GB"))
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(size))
	return dst, nil
}

// maxField is the largest value that PostgreSQL stores, in bytes.
const maxField = 1<<30 - 1<<16

func (c *column) appendValue(dst, raw []byte) ([]byte, error) {
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
		return dst, c.Note(flaws)
	case kindUUID:
		return appendUUID(dst, raw)
	case kindBytea:
		return c.appendBytea(dst, raw)
	case kindArray:
		if raw[0] == '[' {
			dst, flaws, err := appendArray(dst, raw, 0)
			return dst, errors.Join(err, c.Note(flaws))
		}
	}
	dst, flaws := value.AppendText(dst, raw, 0)
	return dst, c.Note(flaws)
}

func (c *column) appendText(dst, raw []byte) ([]byte, error) {
	start := len(dst)
	dst, flaws := value.AppendText(dst, raw, 0)
	if c.length > 0 && len(dst)-start > c.length && utf8.RuneCount(dst[start:]) > c.length {
		return dst, fmt.Errorf("it is longer than %d characters", c.length)
	}
	return dst, c.Note(flaws)
}

func appendBool(dst, raw []byte) ([]byte, error) {
	truth, err := value.Truth(raw)
	switch {
	case err != nil:
		return dst, err
	case truth:
		return append(dst, 1), nil
	default:
		return append(dst, 0), nil
	}
}

// checkNumbers finds a number in JSON text that jsonb, which keeps numbers as
// numeric, can not hold. Only an exponent makes one so large in little space.
func (c *column) checkNumbers(raw []byte) error {
	return value.Numbers(raw, func(number []byte) error {
		if !bytes.ContainsAny(number, "eE") && len(number) <= maxNumericScale {
			return nil
		}
		d, err := value.ParseDecimal(c.room.For(number), number)
		if err == nil && (d.Point > maxNumericWhole || d.Scale > maxNumericScale) {
			err = fmt.Errorf("a number in it: %w", value.ErrRange)
		}
		return err
	})
}

func (c *column) appendInt(dst, raw []byte) ([]byte, error) {
	raw, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	n, err := value.ParseInt(c.room.For(raw), raw)
	if err != nil {
		return dst, err
	}
	switch {
	case c.kind == kindInt8:
		return binary.BigEndian.AppendUint64(dst, uint64(n)), nil
	case c.kind == kindInt4 && n == int64(int32(n)):
		return binary.BigEndian.AppendUint32(dst, uint32(n)), nil
	case c.kind == kindInt2 && n == int64(int16(n)):
		return binary.BigEndian.AppendUint16(dst, uint16(n)), nil
	}
	return dst, value.ErrRange
}

func (c *column) appendFloat(dst, raw []byte) ([]byte, error) {
	bits := 64
	if c.kind == kindFloat4 {
		bits = 32
	}
	f, special := specialFloat(raw)
	if !special {
		text, err := value.Number(raw, c.truth)
		if err != nil {
			return dst, err
		}
		var exact bool
		if f, exact, err = value.ParseFloat(c.room.For(text), text, bits); err != nil {
			return dst, err
		}
		if !exact {
			if err := c.Adjust(ruleFloat); err != nil {
				return dst, err
			}
		}
	}
	if bits == 32 {
		return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(f))), nil
	}
	return binary.BigEndian.AppendUint64(dst, math.Float64bits(f)), nil
}

// specialFloat reads the strings that stand for what JSON numbers can not say.
func specialFloat(raw []byte) (float64, bool) {
	switch string(raw) {
	case `"NaN"`:
		return math.NaN(), true
	case `"Infinity"`:
		return math.Inf(1), true
	case `"-Infinity"`:
		return math.Inf(-1), true
	}
	return 0, false
}

func (c *column) appendNumeric(dst, raw []byte) ([]byte, error) {
	if f, special := specialFloat(raw); special {
		sign := uint64(0xC000) // NaN
		switch {
		case f > 0:
			sign = 0xD000
		case f < 0:
			sign = 0xF000
		}
		return binary.BigEndian.AppendUint64(dst, sign<<16), nil
	}
	text, err := value.Number(raw, c.truth)
	if err != nil {
		return dst, err
	}
	d, err := value.ParseDecimal(c.room.For(text), text)
	if err != nil {
		return dst, err
	}
	if c.scale >= 0 && len(d.Significant())-d.Point > c.scale {
		if err := c.Adjust(ruleScale); err != nil {
			return dst, err
		}
	}
	return appendNumeric(dst, d)
}

func (c *column) appendInstant(dst, raw []byte) ([]byte, error) {
	if !rawjson.IsString(raw) {
		return dst, value.ErrNotInstant
	}
	t, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil {
		return dst, err
	}
	if c.kind == kindDate {
		days, whole, err := date(t)
		if err != nil {
			return dst, err
		}
		if !whole {
			if err := c.Adjust(ruleDateOnly); err != nil {
				return dst, err
			}
		}
		return binary.BigEndian.AppendUint32(dst, uint32(days)), nil
	}
	micros, err := timestamp(t)
	if err != nil {
		return dst, err
	}
	if over := micros % powersOfTen[6-c.precision]; over != 0 {
		micros -= (over + powersOfTen[6-c.precision]) % powersOfTen[6-c.precision] // towards the past, before 2000 too
		t.Cut = true
	}
	if t.Cut {
		if err := c.Adjust(ruleTimePrecision); err != nil {
			return dst, err
		}
	}
	return binary.BigEndian.AppendUint64(dst, uint64(micros)), nil
}

var powersOfTen = [...]int64{1, 10, 100, 1000, 10_000, 100_000, 1_000_000}

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

// appendBytea reads text of the form \x0123, as CockroachDB and PostgreSQL write
// bytes, and takes any other text for the bytes themselves.
func (c *column) appendBytea(dst, raw []byte) ([]byte, error) {
	text := rawjson.Text(raw)
	if digits, ok := bytes.CutPrefix(text, []byte(`\x`)); ok {
		if grown, err := hex.AppendDecode(dst, digits); err == nil {
			return grown, nil
		}
	}
	return append(dst, text...), nil
}

// maxArrayDepth is how many dimensions an array of PostgreSQL has at most.
const maxArrayDepth = 6

// appendArray appends the literal of an array: {1,"a, b",NULL,{2}}.
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

// appendElement appends one element, always quoted.
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
