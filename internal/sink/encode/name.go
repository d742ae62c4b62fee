package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Maximum lengths of the parts of an object's name, in bytes. The longest possible name is
// shorter than the 255 bytes that file systems allow.
const (
	maxTable = 200
	maxPart  = 100
)

// ObjectName returns the name of the object for one event: <table>/<unix seconds>-<key>-<event
// id>.json. Segment escapes table, key and id, so the name always has two path elements.
// Different events have different names, although keys may have dashes, because the last part has
// no dash unless it is a UUID.
func ObjectName(e *cdc.Event) string {
	return Segment(e.Table, maxTable) + "/" + strconv.FormatInt(unixSeconds(e), 10) + "-" +
		Segment(e.RowID(), maxPart) + "-" + idSegment(e.ID) + ".json"
}

var (
	uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	// tail matches the last part of a UUID. No other id may look like such a part.
	tail = regexp.MustCompile(`^[0-9a-fA-F]{12}$`)
)

// idSegment returns the last part of an object's name. A reader can always tell where this part
// starts, even if the key contains dashes.
func idSegment(id string) string {
	if uuid.MatchString(id) {
		return id
	}
	segment := strings.ReplaceAll(Segment(id, maxPart/2), "-", "%2D")
	if tail.MatchString(segment) {
		segment = escaped(segment[0]) + segment[1:]
	}
	return segment
}

// Segment returns a path element for any text. The element is a valid file name on any system, is
// not hidden, and does not lead to another directory. Letters, digits and _ - . @ + = , are kept.
// Any other byte becomes % and two hexadecimal digits. So does a dot at either end, and the first
// letter of a name that Windows or eds reserves. The parameter limit is the maximum length in
// bytes, and must be at least 60. A longer element is cut, and ends in %- and a hash. Different
// texts have different elements.
func Segment(text string, limit int) string {
	if text == "" {
		return "%-"
	}
	segment := escape(text, plainByte)
	if len(segment) <= limit {
		return segment
	}
	return cut(segment, text, limit)
}

// cut shortens segment, the escaped form of text, to at most limit bytes, including a hash of
// text.
func cut(segment, text string, limit int) string {
	sum := sha256.Sum256([]byte(text))
	hash := "%-" + hex.EncodeToString(sum[:16])
	segment = segment[:limit-len(hash)]
	// Do not cut an escape or a rune in half.
	if i := strings.LastIndexByte(segment, '%'); i >= 0 && i > len(segment)-3 {
		segment = segment[:i]
	}
	return strings.ToValidUTF8(segment, "") + hash
}

// own is the name of eds's own directory among files and objects.
const own = "_eds"

// escape escapes every byte for which the callback plain returns false. It also escapes a dot or
// blank at either end, and the first letter of a name that is reserved by Windows or for eds's own
// directory.
func escape(text string, plain func(c byte) bool) string {
	var b strings.Builder
	reserved := reservedName(text) || strings.EqualFold(text, own)
	for i := range len(text) {
		c := text[i]
		edge := (c == '.' || c == ' ') && (i == 0 || i == len(text)-1)
		if plain(c) && !edge && !(reserved && i == 0) {
			b.WriteByte(c)
		} else {
			b.WriteString(escaped(c))
		}
	}
	return b.String()
}

func escaped(c byte) string {
	const digits = "0123456789ABCDEF"
	return string([]byte{'%', digits[c>>4], digits[c&15]})
}

func plainByte(c byte) bool {
	switch {
	case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return true
	}
	return strings.IndexByte("_-.@+=,", c) >= 0
}

// reservedName reports whether Windows treats the name as a device. The extension of a name does
// not matter.
func reservedName(name string) bool {
	name, _, _ = strings.Cut(strings.ToUpper(name), ".")
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(name) == 4 && (name[:3] == "COM" || name[:3] == "LPT") && name[3] >= '0' && name[3] <= '9'
}
