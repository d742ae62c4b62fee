package sqlite

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unsafe"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

var (
	errNotNumber  = errors.New("the value is not a number")
	errNotInteger = errors.New("the value is not an integer")
	errRange      = errors.New("the value is out of the column's range")
)

// numberText returns the text of a JSON number, or of a string that holds one.
func numberText(raw []byte) ([]byte, error) {
	text := rawjson.Text(raw)
	if len(text) == 0 || text[0] != '-' && text[0]-'0' > 9 {
		return nil, errNotNumber
	}
	if rawjson.IsString(raw) {
		if end, err := rawjson.Skip(text, 0); err != nil || end != len(text) {
			return nil, errNotNumber
		}
	}
	return text, nil
}

// borrow returns text as a string that shares its memory.
func borrow(text []byte) string { return unsafe.String(unsafe.SliceData(text), len(text)) }

// parseInt reads the text of a JSON number that must be an integer of 64 bits;
// 12.0 and 1e3 are.
func parseInt(text []byte) (int64, error) {
	n, err := strconv.ParseInt(borrow(text), 10, 64)
	if err == nil {
		return n, nil
	}
	d := decimalOf(text)
	if len(d.digits) == 0 {
		return 0, nil
	}
	if d.exponent < 0 {
		return 0, errNotInteger
	}
	if len(d.digits)+d.exponent > 19 {
		return 0, errRange
	}
	whole := make([]byte, 0, 24)
	if d.negative {
		whole = append(whole, '-')
	}
	whole = append(whole, d.digits...)
	whole = append(whole, bytes.Repeat([]byte{'0'}, d.exponent)...)
	if n, err = strconv.ParseInt(string(whole), 10, 64); err != nil {
		return 0, errRange
	}
	return n, nil
}

// exactDigits is how many significant digits every float64 keeps.
const exactDigits = 15

// parseFloat reads the text of a JSON number. It reports whether the number is
// exactly the one whose shortest form the float has, as any number is that was a
// float before.
func parseFloat(text []byte) (f float64, exact bool, err error) {
	if f, err = strconv.ParseFloat(borrow(text), 64); err != nil {
		return 0, false, errRange // the grammar was checked
	}
	if len(text) <= exactDigits && f != 0 {
		return f, true, nil
	}
	var room [32]byte
	return f, decimalOf(text).equal(decimalOf(strconv.AppendFloat(room[:0], f, 'e', -1, 64))), nil
}

// exactFloat reports whether a float64 holds n exactly.
func exactFloat(n int64) bool {
	f := float64(n)
	return f < 1<<63 && int64(f) == n
}

// decimal is a number as digits times ten to the exponent, without leading or
// trailing zeros; no digits are zero.
type decimal struct {
	negative bool
	digits   []byte
	exponent int
}

func (d decimal) equal(e decimal) bool {
	return bytes.Equal(d.digits, e.digits) && (len(d.digits) == 0 || d.negative == e.negative && d.exponent == e.exponent)
}

// maxExponent is far beyond what any column holds.
const maxExponent = 1 << 20

// decimalOf reads the text of a JSON number.
func decimalOf(text []byte) decimal {
	d := decimal{}
	if text[0] == '-' {
		d.negative = true
		text = text[1:]
	}
	if e := bytes.IndexAny(text, "eE"); e >= 0 {
		n, _ := strconv.Atoi(string(text[e+1:])) // out of range, it is at the bound
		d.exponent = max(-maxExponent, min(n, maxExponent))
		text = text[:e]
	}
	if dot := bytes.IndexByte(text, '.'); dot >= 0 {
		fraction := text[dot+1:]
		d.exponent -= len(fraction)
		text = append(append(make([]byte, 0, len(text)), text[:dot]...), fraction...)
	}
	text = bytes.TrimLeft(text, "0")
	d.digits = bytes.TrimRight(text, "0")
	d.exponent += len(text) - len(d.digits)
	return d
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// appendFloat appends a finite float's shortest exact form, as JSON writes it.
func appendFloat(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	// e-09 to e-9
	if n := len(dst); n-start >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// looksNumeric reports whether SQLite takes the text for a number when it goes
// into a column of numeric affinity, and would store it as one. U+0000 ends what
// it looks at.
func looksNumeric(text []byte) bool {
	text, _, _ = bytes.Cut(text, []byte{0})
	text = bytes.Trim(text, " \t\n\v\f\r")
	if len(text) > 0 && (text[0] == '+' || text[0] == '-') {
		text = text[1:]
	}
	digits := func() int {
		n := 0
		for n < len(text) && text[n]-'0' <= 9 {
			n++
		}
		text = text[n:]
		return n
	}
	n := digits()
	if len(text) > 0 && text[0] == '.' {
		text = text[1:]
		n += digits()
	}
	if n == 0 {
		return false
	}
	if len(text) > 0 && text[0]|0x20 == 'e' {
		text = text[1:]
		if len(text) > 0 && (text[0] == '+' || text[0] == '-') {
			text = text[1:]
		}
		if digits() == 0 {
			return false
		}
	}
	return len(text) == 0
}
