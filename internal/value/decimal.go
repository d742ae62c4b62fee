package value

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unsafe"
)

// Decimal is a decimal number that keeps its written form: 0.Digits times ten to the power of
// Point.
type Decimal struct {
	Negative bool
	Digits   []byte // '0' to '9', without leading zeros; empty for zero
	Point    int    // may be negative or larger than the number of digits
	Scale    int    // number of digits after the decimal point in the written form
}

// maxExponent is larger than any exponent that a numeric type allows.
const maxExponent = 1 << 20

// These errors are reasons why a column cannot hold a number.
var (
	ErrNotNumber  = errors.New("it is not a number")
	ErrNotInteger = errors.New("it is not an integer")
	ErrRange      = errors.New("it is out of the type's range")
)

// ParseDecimal parses a JSON number. The digits of the result use the memory of buf. An exponent
// beyond ±maxExponent is replaced by ±maxExponent.
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

// Significant returns the digits of d without trailing zeros.
func (d Decimal) Significant() []byte { return bytes.TrimRight(d.Digits, "0") }

// Round returns d rounded to no more than scale digits after the decimal point, and reports
// whether the result equals d. Halves are rounded away from zero. Round may modify the digits of
// d.
func (d Decimal) Round(scale int) (rounded Decimal, exact bool) {
	digits := d.Significant()
	keep := d.Point + scale
	if len(digits) <= keep || len(digits) == 0 {
		d.Digits = digits
		return d, true
	}
	up := keep >= 0 && digits[keep] >= '5'
	digits = digits[:max(0, keep)]
	if up {
		i := len(digits) - 1
		for ; i >= 0 && digits[i] == '9'; i-- {
			digits[i] = '0'
		}
		if i >= 0 {
			digits[i]++
		} else {
			digits = append([]byte{'1'}, digits...)
			d.Point++
		}
	}
	d.Digits, d.Scale = bytes.TrimRight(digits, "0"), scale
	if len(d.Digits) == 0 {
		d.Point = 0
	}
	return d, false
}

// AppendText appends the number without an exponent. The text has as many digits after the decimal
// point as the number needs, but at least the given number of them. Zero has no sign. The length of
// the text grows with Point, so the caller must check Point first.
func (d Decimal) AppendText(dst []byte, places int) []byte {
	digits := d.Significant()
	if d.Negative && len(digits) > 0 {
		dst = append(dst, '-')
	}
	point := d.Point
	if len(digits) == 0 {
		point = 0
	}
	if point <= 0 {
		dst = append(dst, '0')
	}
	for i := range point {
		dst = append(dst, digitAt(digits, i))
	}
	places = max(places, len(digits)-point)
	if places > 0 {
		dst = append(dst, '.')
	}
	for i := range places {
		dst = append(dst, digitAt(digits, point+i))
	}
	return dst
}

// digitAt returns the digit at index i, or '0' if i is before the first or after the last digit.
func digitAt(digits []byte, i int) byte {
	if i < 0 || i >= len(digits) {
		return '0'
	}
	return digits[i]
}

// uint64 returns the absolute value of the number. If the number is not an integer, the error is
// ErrNotInteger; if it is too large, the error is ErrRange.
func (d Decimal) uint64() (uint64, error) {
	digits := d.Significant()
	switch {
	case len(digits) == 0:
		return 0, nil
	case d.Point < len(digits):
		return 0, ErrNotInteger
	case d.Point > 20:
		return 0, ErrRange
	}
	var n uint64
	for i := range d.Point {
		digit := uint64(digitAt(digits, i) - '0')
		if n > (math.MaxUint64-digit)/10 {
			return 0, ErrRange
		}
		n = n*10 + digit
	}
	return n, nil
}

// Int64 returns the number as an int64. If the number is not an integer, the error is
// ErrNotInteger; if it does not fit, the error is ErrRange.
func (d Decimal) Int64() (int64, error) {
	n, err := d.uint64()
	switch {
	case err != nil:
		return 0, err
	case d.Negative && n <= 1<<63:
		return -int64(n), nil
	case !d.Negative && n <= math.MaxInt64:
		return int64(n), nil
	default:
		return 0, ErrRange
	}
}

// ParseInt parses a JSON number as an int64. The number must be an integer, but may be written as
// 12.0 or 1e3. ParseInt uses buf as scratch memory.
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

// ParseUint is like ParseInt, but parses an integer from 0 to 2^64-1.
func ParseUint(buf, raw []byte) (uint64, error) {
	d, err := ParseDecimal(buf, raw)
	if err != nil {
		return 0, err
	}
	n, err := d.uint64()
	if err == nil && d.Negative && n > 0 {
		err = ErrRange
	}
	return n, err
}

// exactDigits is the number of significant decimal digits that every float64 preserves.
const exactDigits = 15

// ParseFloat parses a JSON number as a float of the given number of bits, 64 or 32. The second
// result says whether the number equals the shortest decimal form of the float. It is true for
// every number that was formatted from such a float. ParseFloat uses buf as scratch memory.
func ParseFloat(buf, raw []byte, bits int) (f float64, exact bool, err error) {
	// The string shares raw's memory. That is safe, because strconv keeps its argument only in
	// errors, and these are dropped here.
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
	written, err := ParseDecimal(buf, raw)
	if err != nil {
		return 0, false, err
	}
	var text, digits [32]byte
	shortest, err := ParseDecimal(digits[:], strconv.AppendFloat(text[:0], f, 'e', -1, bits))
	if err != nil {
		return 0, false, err
	}
	a, b := written.Significant(), shortest.Significant()
	return f, bytes.Equal(a, b) && (len(a) == 0 || written.Point == shortest.Point), nil
}

// NonFinite parses the JSON strings "NaN", "Infinity" and "-Infinity". They represent floats for
// which JSON has no numbers.
func NonFinite(raw []byte) (f float64, ok bool) {
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

// AppendFloat appends the shortest exact form of a finite float of 64 or 32 bits, in the format of
// encoding/json.
func AppendFloat(dst []byte, f float64, bits int) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	// Write e-09 as e-9, as encoding/json does.
	if n := len(dst); n-start >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
