package postgres

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// PostgreSQL's text is valid UTF-8 without U+0000, and its jsonb has no lone
// surrogates. What breaks these rules is replaced, and counted, by the flaw's name.
type flaw uint8

const (
	flawNUL       flaw = 1 << iota // U+0000 becomes U+FFFD
	flawSurrogate                  // half a surrogate pair becomes U+FFFD
	flawUTF8                       // bytes that are not UTF-8 become U+FFFD
)

const replacement = "\uFFFD"

// appendText appends the text of a JSON string.
func appendText(dst, raw []byte) ([]byte, flaw) {
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		return appendUnescaped(dst, text)
	}
	return appendValid(dst, text)
}

// appendValid appends text, which has no escapes, as valid UTF-8.
func appendValid(dst, text []byte) ([]byte, flaw) {
	if utf8.Valid(text) {
		return append(dst, text...), 0
	}
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		dst = utf8.AppendRune(dst, r) // RuneError is U+FFFD
		text = text[n:]
	}
	return dst, flawUTF8
}

func appendUnescaped(dst, text []byte) ([]byte, flaw) {
	var flaws flaw
	for {
		n := bytes.IndexByte(text, '\\')
		plain := text
		if n >= 0 {
			plain = text[:n]
		}
		var f flaw
		dst, f = appendValid(dst, plain)
		flaws |= f
		if n < 0 {
			return dst, flaws
		}
		text = text[n:]
		switch text[1] {
		case 'u':
			var r rune
			r, text, f = unescape(text)
			flaws |= f
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

// unescape reads the \uXXXX, or the pair of them, that text begins with, and
// returns the rest. What PostgreSQL can not hold is already replaced.
func unescape(text []byte) (rune, []byte, flaw) {
	r := hex4(text[2:])
	text = text[6:]
	switch {
	case r == 0:
		return utf8.RuneError, text, flawNUL
	case !utf16.IsSurrogate(r):
		return r, text, 0
	case len(text) >= 6 && text[0] == '\\' && text[1] == 'u':
		if pair := utf16.DecodeRune(r, hex4(text[2:])); pair != utf8.RuneError {
			return pair, text[6:], 0
		}
	}
	return utf8.RuneError, text, flawSurrogate
}

// hex4 reads four hexadecimal digits, which were validated.
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

// appendJSON appends a JSON value as PostgreSQL takes it: the same text, but for flaws.
func appendJSON(dst, raw []byte) ([]byte, flaw) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return appendValid(dst, raw)
	}
	var flaws flaw
	for {
		n := bytes.IndexByte(raw, '\\')
		plain := raw
		if n >= 0 {
			plain = raw[:n]
		}
		var f flaw
		dst, f = appendValid(dst, plain)
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
		if f == 0 {
			dst = append(dst, raw[:len(raw)-len(rest)]...)
		} else {
			dst = append(dst, replacement...)
			flaws |= f
		}
		raw = rest
	}
}
