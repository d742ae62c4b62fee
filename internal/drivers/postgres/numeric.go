package postgres

import (
	"encoding/binary"

	"github.com/shopmonkeyus/eds/internal/value"
)

// Bounds of type numeric.
const (
	maxNumericWhole = 131072 // digits before the decimal point
	maxNumericScale = 16383  // digits after the decimal point
)

// appendNonFinite appends the binary numeric form of f, which must be NaN or an infinity.
func appendNonFinite(dst []byte, f float64) []byte {
	sign := uint64(0xC000) // NaN
	switch {
	case f > 0:
		sign = 0xD000
	case f < 0:
		sign = 0xF000
	}
	return binary.BigEndian.AppendUint64(dst, sign<<16)
}

// appendNumeric appends the binary numeric form of a number: a header, then groups of four decimal
// digits, aligned at the decimal point. If type numeric cannot hold the number, it returns
// value.ErrRange.
func appendNumeric(dst []byte, d value.Decimal) ([]byte, error) {
	digits := d.Significant()
	if d.Point > maxNumericWhole || d.Scale > maxNumericScale && len(digits) > 0 {
		return dst, value.ErrRange
	}
	scale := min(d.Scale, maxNumericScale)
	if len(digits) == 0 {
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		return binary.BigEndian.AppendUint16(dst, uint16(scale)), nil
	}
	// The first group has as many digits as lead says, and each later group has four.
	weight := int(value.FloorDiv(int64(d.Point-1), 4))
	lead := d.Point - weight*4 // 1 to 4
	groups := 1 + (max(0, len(digits)-lead)+3)/4
	dst = binary.BigEndian.AppendUint16(dst, uint16(groups))
	dst = binary.BigEndian.AppendUint16(dst, uint16(int16(weight)))
	sign := uint16(0)
	if d.Negative {
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
