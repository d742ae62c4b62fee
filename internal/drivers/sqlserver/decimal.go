package sqlserver

import (
	"bytes"

	"github.com/shopmonkeyus/eds/internal/value"
)

// spell writes a number with scale decimal places, rounded half away from zero
// where it has more: then it is not exact. It has at most precision digits.
func spell(d value.Decimal, precision, scale int) (text string, exact bool, err error) {
	digits, point := d.Significant(), d.Point
	if len(digits) == 0 {
		point = 1
	}
	if point > precision-scale && len(digits) > 0 {
		return "", false, value.ErrRange
	}
	kept := point + scale // digits that have a place
	exact = len(digits) <= max(kept, 0)
	// The digit before the first takes a carry.
	all := append([]byte{'0'}, place(digits, point, scale)...)
	if !exact && kept >= 0 && digits[kept] >= '5' {
		increment(all)
	}
	whole := bytes.TrimLeft(all[:len(all)-scale], "0")
	if len(whole) > precision-scale {
		return "", false, value.ErrRange
	}
	if len(whole) == 0 {
		whole = []byte{'0'}
	}
	var out []byte
	if d.Negative && len(bytes.Trim(all, "0")) > 0 {
		out = append(out, '-')
	}
	out = append(out, whole...)
	if scale > 0 {
		out = append(append(out, '.'), all[len(all)-scale:]...)
	}
	return string(out), exact, nil
}

// place returns the digits before the point, at least one, and scale of those
// after it.
func place(digits []byte, point, scale int) []byte {
	whole := max(point, 1)
	out := bytes.Repeat([]byte{'0'}, whole+scale)
	for i, c := range digits {
		if at := whole - point + i; at >= 0 && at < len(out) {
			out[at] = c
		}
	}
	return out
}

// increment adds one to a number, whose first digit is not 9.
func increment(digits []byte) {
	for i := len(digits) - 1; i >= 0; i-- {
		if digits[i] != '9' {
			digits[i]++
			return
		}
		digits[i] = '0'
	}
}
