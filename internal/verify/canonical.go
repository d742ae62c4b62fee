// Package verify compares two sets of rows of one table, value by value. The two sides may write
// equal values differently.
package verify

import (
	"bytes"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Canonical returns a text that is the same for all raw JSON values that are equal in a column of
// c's type. It also reports whether the value is NULL. An absent value counts as NULL.
//
//   - Strings are equal if their texts are equal. Some destinations cannot hold U+0000, lone
//     surrogates or bytes that are not UTF-8, so a run of these counts as one U+FFFD.
//   - Integers of any size are equal if their exact values are equal.
//   - Numbers are equal if their nearest doubles are equal. As an exception, an integer that no
//     double holds is compared by its exact value.
//   - Booleans are true, false, 1 or 0.
//   - Date-times are equal if their instants are equal, to the microsecond. Further digits are
//     dropped. A date-time without an offset is in UTC. A date without a time means midnight.
//   - JSON values are equal if their parsed forms are equal. The order of members does not count.
//     If a name is repeated, only its last member counts. Numbers are compared by their exact
//     values.
//
// Except in a JSON column, a string that contains a value of the column's type is equal to that
// value. A value that does not fit the type of its column is equal only to the same text. Invalid
// JSON is not equal to any JSON.
func Canonical(c schema.Column, raw []byte) (text string, null bool) {
	if raw == nil || rawjson.IsNull(raw) {
		return "", true
	}
	return string(appendCanonical(nil, c.Type, raw)), false
}

// appendCanonical appends the canonical text of a value that is not NULL.
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

// appendText appends the given text, but replaces each run of characters that some destination
// cannot hold with one U+FFFD.
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

// portable reports whether every destination can hold the given text unchanged.
func portable(text []byte) bool {
	return utf8.Valid(text) && bytes.IndexByte(text, 0) < 0 && !bytes.Contains(text, []byte("\ufffd"))
}
