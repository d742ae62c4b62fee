package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Bounds of the parts of an object's name, in bytes. The longest name is shorter than the 255
// bytes that file systems allow.
const (
	maxTable = 200
	maxPart  = 100
)

// ObjectName returns <table>/<unix seconds>-<key>-<event id>.json, the name of one event's
// object. Segment escapes table, key and id, so the name is always a path of two elements.
// Different events have different names: the id has no dash unless it is a UUID.
func ObjectName(e *cdc.Event) string {
	return Segment(e.Table, maxTable) + "/" + strconv.FormatInt(unixSeconds(e), 10) + "-" +
		Segment(e.RowID(), maxPart) + "-" + idSegment(e.ID) + ".json"
}

var (
	uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	// tail matches the last part of a UUID. No other id may look like it.
	tail = regexp.MustCompile(`^[0-9a-fA-F]{12}$`)
)

// idSegment returns the last part of a name. Its beginning is unambiguous although keys have
// dashes.
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

// Segment returns one element of a path for any text: a file can have that name on any system,
// and it is neither hidden nor a way to another directory. Letters, digits and _ - . @ + = ,
// stay. Any other byte, a dot at either end, and the first letter of a name that Windows or eds
// reserves, become % and two hexadecimal digits. A result longer than limit, which is at least
// 60, is cut and ends in %- and a hash. Different texts have different segments.
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

// cut shortens the segment of text.
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

// own is eds's own directory among files and objects.
const own = "_eds"

// escape escapes the bytes that are not plain, a dot or blank at either end, and the first
// letter of a name that is reserved by Windows or for eds's own directory.
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

// reservedName reports whether Windows treats the name, with any extension, as a device.
func reservedName(name string) bool {
	name, _, _ = strings.Cut(strings.ToUpper(name), ".")
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(name) == 4 && (name[:3] == "COM" || name[:3] == "LPT") && name[3] >= '0' && name[3] <= '9'
}
