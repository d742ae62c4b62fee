package sqlite

import (
	"bytes"
	"math"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/value"
)

// numberText returns the text of a JSON number, or of a string that holds one.
func numberText(raw []byte) ([]byte, error) {
	text := rawjson.Text(raw)
	if len(text) == 0 || text[0] != '-' && text[0]-'0' > 9 {
		return nil, value.ErrNotNumber
	}
	if rawjson.IsString(raw) {
		if end, err := rawjson.Skip(text, 0); err != nil || end != len(text) {
			return nil, value.ErrNotNumber
		}
	}
	return text, nil
}

// exactFloat reports whether a float64 holds n exactly.
func exactFloat(n int64) bool {
	f := float64(n)
	return f < 1<<63 && int64(f) == n
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
