package sqlite

import "github.com/shopmonkeyus/eds/internal/value"

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
	text, flaws := value.AppendText(dst, raw, value.NUL)
	switch {
	case flaws&value.UTF8 != 0:
		rule = ruleUTF8
	case flaws != 0:
		rule = ruleSurrogate
	}
	return text, rule
}
