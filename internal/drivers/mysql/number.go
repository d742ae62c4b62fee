package mysql

import (
	"bytes"

	"github.com/shopmonkeyus/eds/internal/value"
)

// parseUint reads a JSON number that must be an integer from 0 to 2^64-1.
func parseUint(buf, raw []byte) (uint64, error) {
	d, err := value.ParseDecimal(buf, raw)
	if err != nil {
		return 0, err
	}
	digits := d.Significant()
	switch {
	case len(digits) == 0:
		return 0, nil
	case d.Point < len(digits):
		return 0, value.ErrNotInteger
	case d.Negative || d.Point > 20:
		return 0, value.ErrRange
	}
	var n uint64
	for i := range d.Point {
		var digit uint64
		if i < len(digits) {
			digit = uint64(digits[i] - '0')
		}
		next := n*10 + digit
		if n > (1<<64-1)/10 || next < n*10 {
			return 0, value.ErrRange
		}
		n = next
	}
	return n, nil
}

// appendDecimal appends a decimal of at most whole digits before the point,
// rounded half away from zero to scale digits behind it, and reports whether it
// had to be. It changes d's digits.
func appendDecimal(dst []byte, d value.Decimal, whole, scale int) ([]byte, bool, error) {
	digits := d.Significant()
	rounded := len(digits)-d.Point > scale
	if rounded {
		keep := d.Point + scale
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
		digits = bytes.TrimRight(digits, "0")
	}
	if len(digits) == 0 {
		return append(dst, '0'), rounded, nil
	}
	if d.Point > whole {
		return dst, false, value.ErrRange
	}
	if d.Negative {
		dst = append(dst, '-')
	}
	if d.Point <= 0 {
		dst = append(dst, '0')
	}
	for i := range d.Point {
		if i < len(digits) {
			dst = append(dst, digits[i])
		} else {
			dst = append(dst, '0')
		}
	}
	if d.Point < len(digits) {
		dst = append(dst, '.')
		for range -d.Point {
			dst = append(dst, '0')
		}
		dst = append(dst, digits[max(0, d.Point):]...)
	}
	return dst, rounded, nil
}
