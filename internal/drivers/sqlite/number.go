package sqlite

import (
	"bytes"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/value"
)

// exactFloat reports whether a float64 can represent n exactly.
func exactFloat(n int64) bool {
	f := float64(n)
	return f < 1<<63 && int64(f) == n
}

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

func appendFloat(dst []byte, f float64) []byte { return value.AppendFloat(dst, f, 64) }

// looksNumeric reports whether SQLite converts the text to a number in a column of numeric
// affinity. SQLite ignores the text after the first U+0000.
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
