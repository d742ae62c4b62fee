package sqlite

import (
	"bytes"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Rules by which a value is changed that its column can not hold as it is. The
// names are those that metrics and the documentation use.
const (
	ruleUTF8          = "sqlite_invalid_utf8"    // bytes that are not UTF-8 become U+FFFD
	ruleSurrogate     = "sqlite_surrogate"       // an escaped half of a surrogate pair becomes U+FFFD
	ruleTimePrecision = "sqlite_time_precision"  // digits beyond microseconds are cut off
	ruleFloat         = "sqlite_float_precision" // the nearest REAL
)

// appendText appends the text of raw: of a string without its quotes and escapes,
// of anything else as it stands. It returns the rule that it had to apply, or "".
// U+0000 stays: SQLite stores a text by its length.
func appendText(dst, raw []byte) (text []byte, rule string) {
	if !rawjson.IsString(raw) {
		return appendValid(dst, raw)
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return appendValid(dst, raw[1:len(raw)-1])
	}
	start := len(dst)
	dst = rawjson.AppendString(dst, raw)
	if made := bytes.Count(dst[start:], replacement); made > 0 && made > replacements(raw) {
		rule = ruleSurrogate
	}
	if utf8.Valid(dst[start:]) {
		return dst, rule
	}
	return append(dst[:start], bytes.ToValidUTF8(dst[start:], replacement)...), ruleUTF8
}

// appendValid appends text as valid UTF-8.
func appendValid(dst, text []byte) ([]byte, string) {
	if utf8.Valid(text) {
		return append(dst, text...), ""
	}
	return append(dst, bytes.ToValidUTF8(text, replacement)...), ruleUTF8
}

var replacement = []byte("\uFFFD")

// replacements counts the U+FFFD that a JSON string holds by its own will: as it
// is, or escaped.
func replacements(raw []byte) int {
	n := bytes.Count(raw, replacement)
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return n
		}
		if raw[i+1] == 'u' && bytes.EqualFold(raw[i+2:i+6], []byte("fffd")) {
			n++
		}
		raw = raw[i+2:]
	}
}
