// Package verify compares two sets of rows of one table, value by value. The two sides may
// spell their values differently.
package verify

import (
	"bytes"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Canonical returns the same text for all raw JSON values that are equal in a column of c's
// type. It also reports whether the value is NULL; an absent value counts as NULL.
//
//   - Strings are equal if their text is. Some destinations cannot hold U+0000, lone
//     surrogates and bytes that are not UTF-8: a run of these counts as one U+FFFD.
//   - Integers are equal if their exact values are, at any size.
//   - Numbers are equal if their nearest doubles are. Exception: an integer that no double
//     holds is compared by its exact value.
//   - Booleans are true, false, 1 or 0.
//   - Date-times are equal if their instants are, to the microsecond; further digits are
//     dropped. Without an offset they are UTC, without a time midnight.
//   - JSON is equal if its parsed form is. The order of members does not count. If names
//     repeat, the last member counts. Numbers are compared by their exact value.
//
// A string that holds such a value is equal to the value in a column of its type, except in
// JSON. A value that does not fit the type of its column is equal to its own text only. Invalid
// JSON is not equal to any JSON.
func Canonical(c schema.Column, raw []byte) (text string, null bool) {
	if raw == nil || rawjson.IsNull(raw) {
		return "", true
	}
	return string(appendCanonical(nil, c.Type, raw)), false
}

// appendCanonical appends the canonical text of a value that is not null.
func appendCanonical(dst []byte, t schema.Type, raw []byte) []byte {
	if rawjson.Valid(raw) != nil {
		return append(append(dst, 0), raw...) // canonical texts have no U+0000
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

// appendText appends text. It replaces each run of characters that are not portable by one
// U+FFFD.
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

// portable reports whether every destination can hold the text.
func portable(text []byte) bool {
	return utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 && !bytes.Contains(text, []byte("\ufffd"))
}
