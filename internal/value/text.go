// Package value converts the JSON values of rows to text, numbers without rounding, instants and
// bytes. It also detects flaws in strings that some destinations cannot store. Each destination
// decides whether to keep, replace or refuse a flaw.
package value

import (
	"bytes"
	"encoding/hex"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Flaw is a set of flaws that a string can have.
type Flaw uint8

const (
	NUL       Flaw = 1 << iota // U+0000
	Surrogate                  // one half of a surrogate pair
	UTF8                       // bytes that are not UTF-8
)

// Replacement is the text that replaces a flaw.
const Replacement = "\uFFFD"

// AppendText appends the text of a JSON string as valid UTF-8. Any other JSON value is appended
// verbatim. AppendText replaces all flaws, except NUL if keep contains it, and returns the flaws
// that it replaced.
func AppendText(dst, raw []byte, keep Flaw) ([]byte, Flaw) {
	if !rawjson.IsString(raw) {
		return AppendValid(dst, raw)
	}
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		return appendUnescaped(dst, text, keep)
	}
	return AppendValid(dst, text)
}

// AppendValid appends text, which has no JSON escapes, as valid UTF-8. It returns the flaws that
// it replaced.
func AppendValid(dst, text []byte) ([]byte, Flaw) {
	if utf8.Valid(text) {
		return append(dst, text...), 0
	}
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		dst = utf8.AppendRune(dst, r) // RuneError is U+FFFD
		text = text[n:]
	}
	return dst, UTF8
}

func appendUnescaped(dst, text []byte, keep Flaw) ([]byte, Flaw) {
	var flaws Flaw
	for {
		n := bytes.IndexByte(text, '\\')
		plain := text
		if n >= 0 {
			plain = text[:n]
		}
		var f Flaw
		dst, f = AppendValid(dst, plain)
		flaws |= f
		if n < 0 {
			return dst, flaws
		}
		text = text[n:]
		switch text[1] {
		case 'u':
			var r rune
			r, text, f = unescape(text)
			if f &^= keep; f != 0 {
				flaws |= f
				r = utf8.RuneError
			}
			dst = utf8.AppendRune(dst, r)
			continue
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		default:
			dst = append(dst, text[1])
		}
		text = text[2:]
	}
}

// unescape decodes the \uXXXX or the escaped surrogate pair at the start of text. It also returns
// the rest of text, and the flaw of the character, if any.
func unescape(text []byte) (rune, []byte, Flaw) {
	r := hex4(text[2:])
	text = text[6:]
	switch {
	case r == 0:
		return 0, text, NUL
	case !utf16.IsSurrogate(r):
		return r, text, 0
	case len(text) >= 6 && text[0] == '\\' && text[1] == 'u':
		if pair := utf16.DecodeRune(r, hex4(text[2:])); pair != utf8.RuneError {
			return pair, text[6:], 0
		}
	}
	return utf8.RuneError, text, Surrogate
}

// hex4 parses four hexadecimal digits, which must be valid.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c <= '9':
			c -= '0'
		default:
			c = c | 0x20 - 'a' + 10
		}
		r = r<<4 | rune(c)
	}
	return r
}

// AppendJSON appends a JSON value verbatim, except for flaws. It replaces flaws that are not in
// keep, and returns those that it replaced. Bytes that are not UTF-8 are always replaced.
func AppendJSON(dst, raw []byte, keep Flaw) ([]byte, Flaw) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return AppendValid(dst, raw)
	}
	var flaws Flaw
	for {
		n := bytes.IndexByte(raw, '\\')
		plain := raw
		if n >= 0 {
			plain = raw[:n]
		}
		var f Flaw
		dst, f = AppendValid(dst, plain)
		flaws |= f
		if n < 0 {
			return dst, flaws
		}
		raw = raw[n:]
		if raw[1] != 'u' {
			dst = append(dst, raw[:2]...)
			raw = raw[2:]
			continue
		}
		_, rest, f := unescape(raw)
		if f &^= keep; f == 0 {
			dst = append(dst, raw[:len(raw)-len(rest)]...)
		} else {
			dst = append(dst, Replacement...)
			flaws |= f
		}
		raw = rest
	}
}

// AppendBytes appends the binary data in a JSON string. CockroachDB and PostgreSQL send bytes as \x
// followed by hexadecimal digits. If the string has any other form, the text of the string is the
// data.
func AppendBytes(dst, raw []byte) []byte {
	text := rawjson.Text(raw)
	if digits, ok := bytes.CutPrefix(text, []byte(`\x`)); ok {
		if grown, err := hex.AppendDecode(dst, digits); err == nil {
			return grown
		}
	}
	return append(dst, text...)
}
