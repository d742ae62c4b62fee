package rawjson

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendString appends the text of raw to dst. The argument raw must be a valid JSON string,
// including its quotes. A lone escaped surrogate becomes U+FFFD. Bytes that are not UTF-8 are kept.
func AppendString(dst, raw []byte) []byte {
	raw = raw[1 : len(raw)-1]
	for {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:n]...)
		raw = raw[n:]
		switch raw[1] {
		case 'u':
			var r rune
			r, raw = unescapeRune(raw)
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
		default: // quote, backslash and slash represent themselves
			dst = append(dst, raw[1])
		}
		raw = raw[2:]
	}
}

// unescapeRune decodes the \uXXXX at the start of raw, or two of them if they form a surrogate
// pair. It also returns the rest of raw.
func unescapeRune(raw []byte) (rune, []byte) {
	r, _ := hex4(raw, 2)
	raw = raw[6:]
	if !utf16.IsSurrogate(r) {
		return r, raw
	}
	if len(raw) >= 6 && raw[0] == '\\' && raw[1] == 'u' {
		low, _ := hex4(raw, 2)
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, raw[6:]
		}
	}
	return utf8.RuneError, raw
}

// Text returns the text of a JSON string without quotes and escapes. Any other value is returned
// unchanged. If the string has no escapes, the result shares the memory of raw.
func Text(raw []byte) []byte {
	if !IsString(raw) {
		return raw
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	return AppendString(make([]byte, 0, len(raw)), raw)
}

const hexDigits = "0123456789abcdef"

// AppendQuoted appends text to dst as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendQuoted[T string | []byte](dst []byte, text T) []byte {
	return append(AppendEscaped(append(dst, '"'), text), '"')
}

// AppendEscaped is like AppendQuoted, but does not append the quotes.
func AppendEscaped[T string | []byte](dst []byte, text T) []byte {
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				dst = append(dst, '\\', c)
			case c == '\n':
				dst = append(dst, '\\', 'n')
			case c == '\r':
				dst = append(dst, '\\', 'r')
			case c == '\t':
				dst = append(dst, '\\', 't')
			case c < 0x20:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			default:
				dst = append(dst, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}
