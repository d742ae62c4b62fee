package value

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unsafe"
)

// Decimal is a number as it was written: Digits with the decimal point
// after the first Point of them, which may lie outside.
type Decimal struct {
	Negative bool
	Digits   []byte // '0' to '9', without leading zeros; empty is zero
	Point    int
	Scale    int // digits after the decimal point as it was written
}

// maxExponent is beyond what any numeric type holds.
const maxExponent = 1 << 20

// Why a number is not what a column takes.
var (
	ErrNotNumber  = errors.New("it is not a number")
	ErrNotInteger = errors.New("it is not an integer")
	ErrRange      = errors.New("it is out of the type's range")
)

// ParseDecimal reads a JSON number into buf's memory. An exponent that is out of
// every range is kept at the bound.
func ParseDecimal(buf, raw []byte) (Decimal, error) {
	d := Decimal{Digits: buf[:0]}
	if len(raw) > 0 && raw[0] == '-' {
		d.Negative = true
		raw = raw[1:]
	}
	exponent := 0
	if e := bytes.IndexAny(raw, "eE"); e >= 0 {
		n, err := strconv.Atoi(string(raw[e+1:]))
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return d, ErrNotNumber
		}
		exponent = max(-maxExponent, min(n, maxExponent))
		raw = raw[:e]
	}
	whole, fraction := raw, []byte(nil)
	if dot := bytes.IndexByte(raw, '.'); dot >= 0 {
		whole, fraction = raw[:dot], raw[dot+1:]
	}
	if len(whole)+len(fraction) == 0 {
		return d, ErrNotNumber
	}
	d.Digits = append(append(d.Digits, whole...), fraction...)
	for _, c := range d.Digits {
		if c-'0' > 9 {
			return d, ErrNotNumber
		}
	}
	d.Point = len(whole) + exponent
	d.Scale = max(0, len(fraction)-exponent)
	leading := len(d.Digits) - len(bytes.TrimLeft(d.Digits, "0"))
	d.Digits = d.Digits[leading:]
	d.Point -= leading
	if len(d.Digits) == 0 {
		d.Point = 0
	}
	return d, nil
}

// Significant returns the digits without trailing zeros.
func (d Decimal) Significant() []byte { return bytes.TrimRight(d.Digits, "0") }

// Int64 returns the number where it is an integer of 64 bits.
func (d Decimal) Int64() (int64, error) {
	digits := d.Significant()
	if len(digits) == 0 {
		return 0, nil
	}
	if d.Point < len(digits) {
		return 0, ErrNotInteger
	}
	if d.Point > 19 {
		return 0, ErrRange
	}
	var n uint64
	for i := range d.Point {
		n *= 10
		if i < len(digits) {
			n += uint64(digits[i] - '0')
		}
	}
	switch {
	case d.Negative && n <= 1<<63:
		return -int64(n), nil
	case !d.Negative && n <= math.MaxInt64:
		return int64(n), nil
	default:
		return 0, ErrRange
	}
}

// ParseInt reads a JSON number that must be an integer of 64 bits; 12.0 and 1e3 are.
func ParseInt(buf, raw []byte) (int64, error) {
	digits := raw
	if len(raw) > 0 && raw[0] == '-' {
		digits = raw[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return parseWideInt(buf, raw)
	}
	var n int64
	for _, c := range digits {
		if c-'0' > 9 {
			return parseWideInt(buf, raw)
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) < len(raw) {
		n = -n
	}
	return n, nil
}

func parseWideInt(buf, raw []byte) (int64, error) {
	d, err := ParseDecimal(buf, raw)
	if err != nil {
		return 0, err
	}
	return d.Int64()
}

// exactDigits is how many significant digits every float64 keeps.
const exactDigits = 15

// ParseFloat reads a JSON number. It reports whether the number is exactly the
// one whose shortest form the float has, as any number is that was a float before.
func ParseFloat(buf, raw []byte, bits int) (f float64, exact bool, err error) {
	// ParseFloat keeps nothing of its argument but in an error, which is not kept.
	f, err = strconv.ParseFloat(unsafe.String(unsafe.SliceData(raw), len(raw)), bits)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return 0, false, ErrRange
		}
		return 0, false, ErrNotNumber
	}
	keeps := exactDigits
	if bits == 32 {
		keeps = 6
	}
	if len(raw) <= keeps && f != 0 {
		return f, true, nil
	}
	var text [32]byte
	written, err := ParseDecimal(buf, raw)
	if err != nil {
		return 0, false, err
	}
	var room [32]byte
	kept, err := ParseDecimal(room[:], strconv.AppendFloat(text[:0], f, 'e', -1, bits))
	if err != nil {
		return 0, false, err
	}
	a, b := written.Significant(), kept.Significant()
	return f, bytes.Equal(a, b) && (len(a) == 0 || written.Point == kept.Point), nil
}
