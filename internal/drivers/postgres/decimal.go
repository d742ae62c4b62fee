package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"unsafe"
)

// decimal is a number as it was written: digits[0].digits[1]... with the decimal
// point after the first point digits, which may lie outside of them.
type decimal struct {
	negative bool
	digits   []byte // '0' to '9', without leading zeros; empty is zero
	point    int
	scale    int // digits after the decimal point as it was written
}

// maxExponent is beyond what any numeric type holds.
const maxExponent = 1 << 20

var (
	errNotNumber  = errors.New("it is not a number")
	errNotInteger = errors.New("it is not an integer")
	errRange      = errors.New("it is out of the type's range")
)

// parseDecimal reads a JSON number into buf's memory. An exponent that is out of
// every range is kept at the bound.
func parseDecimal(buf, raw []byte) (decimal, error) {
	d := decimal{digits: buf[:0]}
	if len(raw) > 0 && raw[0] == '-' {
		d.negative = true
		raw = raw[1:]
	}
	exponent := 0
	if e := bytes.IndexAny(raw, "eE"); e >= 0 {
		n, err := strconv.Atoi(string(raw[e+1:]))
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return d, errNotNumber
		}
		exponent = max(-maxExponent, min(n, maxExponent))
		raw = raw[:e]
	}
	whole, fraction := raw, []byte(nil)
	if dot := bytes.IndexByte(raw, '.'); dot >= 0 {
		whole, fraction = raw[:dot], raw[dot+1:]
	}
	if len(whole)+len(fraction) == 0 {
		return d, errNotNumber
	}
	d.digits = append(append(d.digits, whole...), fraction...)
	for _, c := range d.digits {
		if c-'0' > 9 {
			return d, errNotNumber
		}
	}
	d.point = len(whole) + exponent
	d.scale = max(0, len(fraction)-exponent)
	leading := len(d.digits) - len(bytes.TrimLeft(d.digits, "0"))
	d.digits = d.digits[leading:]
	d.point -= leading
	if len(d.digits) == 0 {
		d.point = 0
	}
	return d, nil
}

// significant returns the digits without trailing zeros.
func (d decimal) significant() []byte { return bytes.TrimRight(d.digits, "0") }

// int64 returns the number where it is an integer of 64 bits.
func (d decimal) int64() (int64, error) {
	digits := d.significant()
	if len(digits) == 0 {
		return 0, nil
	}
	if d.point < len(digits) {
		return 0, errNotInteger
	}
	if d.point > 19 {
		return 0, errRange
	}
	var n uint64
	for i := range d.point {
		n *= 10
		if i < len(digits) {
			n += uint64(digits[i] - '0')
		}
	}
	switch {
	case d.negative && n <= 1<<63:
		return -int64(n), nil
	case !d.negative && n <= math.MaxInt64:
		return int64(n), nil
	default:
		return 0, errRange
	}
}

// parseInt reads a JSON number that must be an integer of 64 bits; 12.0 and 1e3 are.
func parseInt(buf, raw []byte) (int64, error) {
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
	d, err := parseDecimal(buf, raw)
	if err != nil {
		return 0, err
	}
	return d.int64()
}

// exactDigits is how many significant digits every float64 keeps.
const exactDigits = 15

// parseFloat reads a JSON number. It reports whether the number is exactly the
// one whose shortest form the float has, as any number is that was a float before.
func parseFloat(buf, raw []byte, bits int) (f float64, exact bool, err error) {
	// ParseFloat keeps nothing of its argument but in an error, which is not kept.
	f, err = strconv.ParseFloat(unsafe.String(unsafe.SliceData(raw), len(raw)), bits)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return 0, false, errRange
		}
		return 0, false, errNotNumber
	}
	keeps := exactDigits
	if bits == 32 {
		keeps = 6
	}
	if len(raw) <= keeps {
		return f, f != 0 || !bytes.ContainsAny(raw, "eE"), nil
	}
	var text [32]byte
	written, err := parseDecimal(buf, raw)
	if err != nil {
		return 0, false, err
	}
	var room [32]byte
	kept, err := parseDecimal(room[:], strconv.AppendFloat(text[:0], f, 'e', -1, bits))
	if err != nil {
		return 0, false, err
	}
	a, b := written.significant(), kept.significant()
	return f, bytes.Equal(a, b) && (len(a) == 0 || written.point == kept.point), nil
}

// Bounds of numeric, of which a value has at most so many digits before and
// after the decimal point.
const (
	maxNumericWhole = 131072
	maxNumericScale = 16383
)

// appendNumeric appends the binary form of numeric: groups of four decimal
// digits, aligned at the decimal point.
func (d decimal) appendNumeric(dst []byte) ([]byte, error) {
	digits := d.significant()
	if d.point > maxNumericWhole || d.scale > maxNumericScale && len(digits) > 0 {
		return dst, errRange
	}
	scale := min(d.scale, maxNumericScale)
	if len(digits) == 0 {
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		return binary.BigEndian.AppendUint16(dst, uint16(scale)), nil
	}
	// The first group holds the lead digits that stand before a multiple of four.
	weight := floorDiv(d.point-1, 4)
	lead := d.point - weight*4 // 1 to 4
	groups := 1 + (max(0, len(digits)-lead)+3)/4
	dst = binary.BigEndian.AppendUint16(dst, uint16(groups))
	dst = binary.BigEndian.AppendUint16(dst, uint16(int16(weight)))
	sign := uint16(0)
	if d.negative {
		sign = 0x4000
	}
	dst = binary.BigEndian.AppendUint16(dst, sign)
	dst = binary.BigEndian.AppendUint16(dst, uint16(scale))
	for g := range groups {
		var n uint16
		for i := lead - 4 + g*4; i < lead+g*4; i++ {
			n *= 10
			if i >= 0 && i < len(digits) {
				n += uint16(digits[i] - '0')
			}
		}
		dst = binary.BigEndian.AppendUint16(dst, n)
	}
	return dst, nil
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
