// Package rawjson reads JSON text in place. It validates values and returns their bytes, so that a
// number never becomes a float and a row never becomes a map. The grammar is RFC 8259, except that
// strings may contain bytes that are not valid UTF-8. Each destination decides how to handle such
// strings.
package rawjson

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// MaxDepth is the maximum nesting depth of arrays and objects.
const MaxDepth = 10_000

// ErrDepth means that a value is nested deeper than MaxDepth.
var ErrDepth = errors.New("json is nested too deeply")

// SyntaxError reports the position of the first byte that is not valid JSON. It never quotes the
// text.
type SyntaxError struct {
	Offset int    // index of the offending byte
	Want   string // description of the expected input
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not valid json at byte %d: want %s", e.Offset, e.Want)
}

// Span is the half-open range [Start, End) of bytes that a value occupies in its text. The zero
// Span means that there is no value.
type Span struct{ Start, End uint32 }

// IsZero reports whether s is the zero Span, which means that there is no value.
func (s Span) IsZero() bool { return s.End == 0 }

// SkipSpace returns the index of the first byte at or after i that is not white space.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// Valid returns nil if b is exactly one JSON value, optionally surrounded by white space.
func Valid(b []byte) error {
	end, err := Skip(b, SkipSpace(b, 0))
	if err != nil {
		return err
	}
	if end = SkipSpace(b, end); end != len(b) {
		return &SyntaxError{end, "the end of the text"}
	}
	return nil
}

// Compact reports whether b is exactly one valid JSON value with no white space outside strings.
func Compact(b []byte) bool {
	end, spaced, err := skip(b, 0)
	return err == nil && !spaced && end == len(b)
}

// Skip validates the value that starts at b[i], and returns the index after the value.
func Skip(b []byte, i int) (int, error) {
	end, _, err := skip(b, i)
	return end, err
}

// skip is like Skip, but also reports whether the value contains white space outside strings.
func skip(b []byte, i int) (end int, spaced bool, err error) {
	if i >= len(b) {
		return i, false, &SyntaxError{i, "a value"}
	}
	switch b[i] {
	case '"':
		end, err = skipString(b, i)
	case '{', '[':
		return skipNested(b, i)
	default:
		end, err = skipScalar(b, i)
	}
	return end, false, err
}

// skipScalar validates the number or literal that starts at b[i], and returns the index after it.
func skipScalar(b []byte, i int) (int, error) {
	switch b[i] {
	case 't':
		return skipLiteral(b, i, "true")
	case 'f':
		return skipLiteral(b, i, "false")
	case 'n':
		return skipLiteral(b, i, "null")
	default:
		return skipNumber(b, i)
	}
}

func skipLiteral(b []byte, i int, word string) (int, error) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return i, &SyntaxError{i, "a value"}
	}
	return i + len(word), nil
}

func skipNumber(b []byte, i int) (int, error) {
	start := i
	if i < len(b) && b[i] == '-' {
		i++
	}
	digits := func(i int) int {
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		return i
	}
	end := digits(i)
	if end == i {
		if i == start {
			return i, &SyntaxError{i, "a value"}
		}
		return i, &SyntaxError{i, "a digit"}
	}
	if b[i] == '0' && end > i+1 {
		return i, &SyntaxError{i, "a number without leading zeros"}
	}
	i = end
	if i < len(b) && b[i] == '.' {
		if end = digits(i + 1); end == i+1 {
			return end, &SyntaxError{end, "a digit"}
		}
		i = end
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if end = digits(i); end == i {
			return end, &SyntaxError{end, "a digit"}
		}
		i = end
	}
	return i, nil
}

const (
	lsb = 0x0101010101010101
	msb = 0x8080808080808080
)

// special finds bytes that end or interrupt plain text in a JSON string: control characters,
// quotes and backslashes. It sets the high bit of each byte of the result for which the
// corresponding byte of w is special. A byte above a special one may be marked wrongly, but the
// lowest mark is always correct.
func special(w uint64) uint64 {
	control := (w - lsb*0x20) &^ w
	quote := w ^ lsb*'"'
	quote = (quote - lsb) &^ quote
	slash := w ^ lsb*'\\'
	slash = (slash - lsb) &^ slash
	return (control | quote | slash) & msb
}

// skipString validates the string whose opening quote is b[i], and returns the index after the
// string.
func skipString(b []byte, i int) (int, error) {
	i++
	for {
		for len(b)-i >= 8 {
			if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
			i++
		}
		switch {
		case i >= len(b):
			return i, &SyntaxError{i, "the end of a string"}
		case b[i] == '"':
			return i + 1, nil
		case b[i] != '\\':
			return i, &SyntaxError{i, "an escaped control character"}
		}
		n, err := escape(b, i)
		if err != nil {
			return n, err
		}
		i = n
	}
}

// escape validates the escape sequence at b[i], and returns the index after the sequence.
func escape(b []byte, i int) (int, error) {
	if i+1 >= len(b) {
		return i, &SyntaxError{i, "an escape sequence"}
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, nil
	case 'u':
		if _, ok := hex4(b, i+2); ok {
			return i + 6, nil
		}
	}
	return i, &SyntaxError{i, "an escape sequence"}
}

func hex4(b []byte, i int) (rune, bool) {
	if i+4 > len(b) {
		return 0, false
	}
	var r rune
	for _, c := range b[i : i+4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skipNested validates the array or object that starts at b[i]. It does not recurse, so each
// nesting level costs one bit instead of a stack frame.
func skipNested(b []byte, i int) (end int, spaced bool, err error) {
	var first [4]uint64
	levels := first[:] // bit d: the enclosing level d is an object
	depth := 0         // number of enclosing levels
	object := b[i] == '{'
	empty := true // nothing has been read at this level yet
	i++
	for {
		at := SkipSpace(b, i)
		spaced = spaced || at != i
		i = at
		if i >= len(b) {
			return i, spaced, &SyntaxError{i, "the end of an array or object"}
		}
		if c := b[i]; c == ']' || c == '}' {
			if (c == '}') != object {
				return i, spaced, &SyntaxError{i, "the matching bracket"}
			}
			i++
			if depth == 0 {
				return i, spaced, nil
			}
			depth--
			object = levels[depth>>6]&(1<<(depth&63)) != 0
			empty = false
			continue
		}
		if !empty {
			if b[i] != ',' {
				return i, spaced, &SyntaxError{i, "a comma"}
			}
			i++
			at = SkipSpace(b, i)
			spaced = spaced || at != i
			i = at
		}
		if object {
			var apart bool
			if i, apart, err = skipName(b, i); err != nil {
				return i, spaced, err
			}
			spaced = spaced || apart
		}
		if i >= len(b) {
			return i, spaced, &SyntaxError{i, "a value"}
		}
		switch b[i] {
		case '{', '[':
			if depth == MaxDepth-1 {
				return i, spaced, ErrDepth
			}
			if depth>>6 == len(levels) {
				levels = append(levels, 0)
			}
			levels[depth>>6] &^= 1 << (depth & 63)
			if object {
				levels[depth>>6] |= 1 << (depth & 63)
			}
			depth++
			object = b[i] == '{'
			i++
			empty = true
			continue
		case '"':
			i, err = skipString(b, i)
		default:
			i, err = skipScalar(b, i)
		}
		if err != nil {
			return i, spaced, err
		}
		empty = false
	}
}

// skipName validates the name of a member and the colon after it, and returns the index of the
// member's value.
func skipName(b []byte, i int) (value int, spaced bool, err error) {
	if i >= len(b) || b[i] != '"' {
		return i, false, &SyntaxError{i, "a member's name"}
	}
	end, err := skipString(b, i)
	if err != nil {
		return end, false, err
	}
	i = SkipSpace(b, end)
	if i >= len(b) || b[i] != ':' {
		return i, false, &SyntaxError{i, "a colon"}
	}
	value = SkipSpace(b, i+1)
	return value, value != end+1, nil
}
