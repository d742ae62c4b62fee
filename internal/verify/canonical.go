// Package verify compares two sets of rows of one table, value by value,
// however either side spells its values.
package verify

import (
	"bytes"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Canonical returns one spelling for all raw JSON values that are equal in a
// column of c's type, and whether the value is NULL, which an absent value is too.
//
//   - Strings are equal by their text. What not every destination can hold,
//     U+0000, lone surrogates and bytes that are not UTF-8, is U+FFFD, and a run
//     of that counts as one.
//   - Integers are equal by their exact value, however large.
//   - Numbers are equal where the nearest doubles are, except an integer that no
//     double holds, which is equal by its exact value.
//   - Booleans are true, false, 1 or 0.
//   - Date-times are equal as instants, to the microsecond, further digits
//     dropped. One without an offset is UTC, one without a time is midnight.
//   - JSON is equal where its parsed form is: the order of members does not
//     count, of equal names the last does, numbers by their exact value.
//
// A string that holds such a value is equal to the value in a column of its
// type, except in JSON. A value that is none of its column's type is equal to
// its own text only. What is not JSON at all is equal to nothing that is.
func Canonical(c schema.Column, raw []byte) (text string, null bool) {
	if raw == nil || rawjson.IsNull(raw) {
		return "", true
	}
	return string(appendCanonical(nil, c.Type, raw)), false
}

// appendCanonical appends the canonical text of a value that is not null.
func appendCanonical(dst []byte, t schema.Type, raw []byte) []byte {
	if rawjson.Valid(raw) != nil {
		return append(append(dst, 0), raw...) // no canonical text holds U+0000
	}
	raw = bytes.Trim(raw, " \t\r\n")
	if t.IsJSON() {
		dst, _ = appendJSON(dst, raw, 0)
		return dst
	}
	text := rawjson.Text(raw)
	var out []byte
	ok := false
	switch t {
	case schema.Integer:
		out, ok = appendExact(dst, text)
	case schema.Number:
		out, ok = appendNumber(dst, text)
	case schema.Boolean:
		out, ok = appendBoolean(dst, text)
	case schema.DateTime:
		out, ok = appendInstant(dst, text)
	}
	if ok {
		return out
	}
	return appendText(dst, text)
}

func appendBoolean(dst, text []byte) ([]byte, bool) {
	switch string(text) {
	case "true", "1":
		return append(dst, "true"...), true
	case "false", "0":
		return append(dst, "false"...), true
	}
	return dst, false
}

// appendText appends text with each run of what is not portable as one U+FFFD.
func appendText(dst, text []byte) []byte {
	if portable(text) {
		return append(dst, text...)
	}
	replaced := false
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		odd := r == 0 || r == utf8.RuneError
		switch {
		case !odd:
			dst = append(dst, text[:n]...)
		case !replaced:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		}
		replaced = odd
		text = text[n:]
	}
	return dst
}

func portable(text []byte) bool {
	return utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 && !bytes.Contains(text, []byte("\ufffd"))
}
