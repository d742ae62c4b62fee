package verify

import (
	"bytes"
	"strconv"
)

// exactDecimal is a decimal number of any size: its significant digits, as an integer without
// leading and trailing zeros, times ten to the power of exponent. Zero has no digits.
type exactDecimal struct {
	negative bool
	digits   []byte
	exponent int
}

// parseDecimal parses a decimal number in any usual notation, including leading zeros and a plus
// sign. It reports whether the given text is such a number.
func parseDecimal(text []byte) (exactDecimal, bool) {
	var d exactDecimal
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		d.negative = text[0] == '-'
		text = text[1:]
	}
	mantissa, power, hasPower := text, []byte(nil), false
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		mantissa, power, hasPower = text[:i], text[i+1:], true
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte{'.'})
	if len(whole)+len(fraction) == 0 || !allDigits(whole) || !allDigits(fraction) {
		return d, false
	}
	if hasPower {
		n, err := strconv.ParseInt(string(power), 10, 32)
		if err != nil {
			return d, false
		}
		d.exponent = int(n)
	}
	d.digits = whole
	if len(fraction) > 0 {
		d.digits = append(bytes.Clone(whole), fraction...)
		d.exponent -= len(fraction)
	}
	d.digits = bytes.TrimLeft(d.digits, "0")
	significant := bytes.TrimRight(d.digits, "0")
	d.exponent += len(d.digits) - len(significant)
	d.digits = significant
	if len(d.digits) == 0 {
		d = exactDecimal{}
	}
	return d, true
}

func allDigits(text []byte) bool {
	for _, c := range text {
		if c-'0' > 9 {
			return false
		}
	}
	return true
}

// maxPlain is the maximum number of padding zeros in the canonical text of a number. A number that
// needs more zeros is written with a power of ten.
const maxPlain = 40

func (d exactDecimal) append(dst []byte) []byte {
	if d.negative {
		dst = append(dst, '-')
	}
	switch point := len(d.digits) + d.exponent; { // number of digits before the decimal point
	case len(d.digits) == 0:
		return append(dst, '0')
	case d.exponent == 0:
		return append(dst, d.digits...)
	case d.exponent > 0 && d.exponent <= maxPlain:
		return append(append(dst, d.digits...), bytes.Repeat([]byte{'0'}, d.exponent)...)
	case d.exponent < 0 && point > 0:
		return append(append(append(dst, d.digits[:point]...), '.'), d.digits[point:]...)
	case d.exponent < 0 && point > -maxPlain:
		dst = append(append(dst, "0."...), bytes.Repeat([]byte{'0'}, -point)...)
		return append(dst, d.digits...)
	default:
		return strconv.AppendInt(append(append(dst, d.digits...), 'e'), int64(d.exponent), 10)
	}
}

// plainInteger reports whether the given text is an integer of at most maxBytes bytes that is
// already in canonical form.
func plainInteger(text []byte, maxBytes int) bool {
	digits := bytes.TrimPrefix(text, []byte{'-'})
	if len(digits) == 0 || len(text) > maxBytes || digits[0] == '0' {
		return string(text) == "0"
	}
	return allDigits(digits)
}

// appendExact parses the given text as a number, and appends the canonical form of its exact value.
// It reports whether the text is a number.
func appendExact(dst, text []byte) ([]byte, bool) {
	if plainInteger(text, maxPlain) {
		return append(dst, text...), true
	}
	d, ok := parseDecimal(text)
	if !ok {
		return dst, false
	}
	return d.append(dst), true
}

// exactDigits is the number of decimal digits that every double preserves.
const exactDigits = 15

// appendNumber parses the given text as a number, and appends the shortest decimal of the nearest
// double. For an integer that no double holds, it appends the canonical form of the exact value
// instead. It reports whether the text is a number.
func appendNumber(dst, text []byte) ([]byte, bool) {
	if plainInteger(text, exactDigits) {
		return append(dst, text...), true
	}
	d, ok := parseDecimal(text)
	if !ok {
		return dst, false
	}
	if len(d.digits) > exactDigits || d.exponent < -exactDigits {
		if f, err := strconv.ParseFloat(string(text), 64); err == nil && d.heldBy(f) {
			d, _ = parseDecimal(strconv.AppendFloat(nil, f, 'e', -1, 64))
		}
	}
	return d.append(dst), true
}

// heldBy reports whether the double f can represent d in comparisons. The parameter f is the
// nearest double to d. The result is true if d is a fraction, the exact value of f, or the shortest
// decimal of f.
func (d exactDecimal) heldBy(f float64) bool {
	if d.exponent < 0 {
		return true
	}
	exact, _ := parseDecimal(strconv.AppendFloat(nil, f, 'f', 0, 64))
	short, _ := parseDecimal(strconv.AppendFloat(nil, f, 'e', -1, 64))
	return d.equal(exact) || d.equal(short)
}

func (d exactDecimal) equal(e exactDecimal) bool {
	return d.negative == e.negative && d.exponent == e.exponent && bytes.Equal(d.digits, e.digits)
}
