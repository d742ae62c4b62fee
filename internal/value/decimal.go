package value

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"unsafe"
)

// Decimal is a number as it was written: 0.Digits times ten to the power of Point.
type Decimal struct {
	Negative bool
	Digits   []byte // '0' to '9', without leading zeros; empty is zero
	Point    int    // may be negative, or larger than the number of digits
	Scale    int    // digits after the decimal point as it was written
}

// maxExponent is larger than any numeric type allows.
const maxExponent = 1 << 20

// Reasons why a column cannot take a number.
var (
	ErrNotNumber  = errors.New("it is not a number")
	ErrNotInteger = errors.New("it is not an integer")
	ErrRange      = errors.New("it is out of the type's range")
)

// ParseDecimal reads a JSON number. The digits use buf's memory. An exponent beyond
// maxExponent becomes maxExponent.
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

// Round returns d with at most scale digits after the decimal point, and reports whether that
// is the same number. It rounds halves away from zero. It may change d's digits.
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

// AppendText appends the number without an exponent, with as many digits after the decimal
// point as it needs, and at least places. Zero has no sign. The text is as long as the number is
// large: check Point first.
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

// digitAt returns a digit, '0' before the first and after the last one.
func digitAt(digits []byte, i int) byte {
	if i < 0 || i >= len(digits) {
		return '0'
	}
	return digits[i]
}

// uint64 returns the number without its sign, which must be an integer.
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

// Int64 returns the number, which must be an integer of 64 bits.
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

// ParseInt reads a JSON number, which must be an integer of 64 bits. 12.0 and 1e3 are integers.
// buf is scratch memory.
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

// ParseUint is ParseInt for an integer from 0 to 2^64-1.
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

// exactDigits is how many significant digits every float64 keeps.
const exactDigits = 15

// ParseFloat reads a JSON number as a float of 64 or 32 bits. exact reports whether the number
// equals the shortest decimal form of the float. Every number that was a float before is exact.
// buf is scratch memory.
func ParseFloat(buf, raw []byte, bits int) (f float64, exact bool, err error) {
	// strconv keeps its argument only in errors, which are dropped here.
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

// NonFinite reads the strings "NaN", "Infinity" and "-Infinity". JSON has no numbers for these.
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

// AppendFloat appends the shortest exact form of a finite float of 64 or 32 bits, as encoding/json
// writes it.
func AppendFloat(dst []byte, f float64, bits int) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	// e-09 becomes e-9
	if n := len(dst); n-start >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
