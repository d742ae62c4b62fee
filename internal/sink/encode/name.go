package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Bounds, in bytes, of the parts of an object's name. The longest name of a
// file is then shorter than the 255 that file systems allow.
const (
	maxTable = 200
	maxPart  = 100
)

// ObjectName returns <table>/<unix seconds>-<key>-<event id>.json, the object
// that one event is written to. Table, key and id are as Segment makes them, so
// the name is a path of two elements whatever they hold, and different events
// have different names: the id has no dash, unless it is a UUID.
func ObjectName(e *cdc.Event) string {
	return Segment(e.Table, maxTable) + "/" + strconv.FormatInt(unixSeconds(e), 10) + "-" + Segment(e.RowID(), maxPart) + "-" + idSegment(e.ID) + ".json"
}

var (
	uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	// tail is what a UUID ends in, and no other id may be.
	tail = regexp.MustCompile(`^[0-9a-fA-F]{12}$`)
)

// idSegment makes the last part of a name such that where it begins can be
// told, though keys hold dashes.
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

// Segment makes one element of a path out of any text: on any system a file
// can have that name, which hides nowhere and leads nowhere else. Letters,
// digits and _ - . @ + = , stay; any other byte, a dot at either end, and the
// first letter of a name that Windows reserves, or eds, become % and two hexadecimal
// digits. A result longer than limit, which is 60 at least, is cut, and ends in
// %- and a hash. Different texts have different segments.
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

// cut shortens a segment, which stands for text.
func cut(segment, text string, limit int) string {
	sum := sha256.Sum256([]byte(text))
	hash := "%-" + hex.EncodeToString(sum[:16])
	segment = segment[:limit-len(hash)]
	// Half an escape would be none, nor would half a rune.
	if i := strings.LastIndexByte(segment, '%'); i >= 0 && i > len(segment)-3 {
		segment = segment[:i]
	}
	return strings.ToValidUTF8(segment, "") + hash
}

// own is the directory of what eds keeps for itself among files and objects.
const own = "_eds"

// escape escapes the bytes that are not plain, a dot or blank at either end, and
// the first letter of a reserved name, as that of eds's own directory is.
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

// reservedName reports whether Windows takes the name, whatever its extension,
// for a device.
func reservedName(name string) bool {
	name, _, _ = strings.Cut(strings.ToUpper(name), ".")
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(name) == 4 && (name[:3] == "COM" || name[:3] == "LPT") && name[3] >= '0' && name[3] <= '9'
}
