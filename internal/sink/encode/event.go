// Package encode defines the form in which destinations that keep history store changes: the text
// of an event, names of objects, and partition keys. Users' own consumers depend on this form. It
// is deterministic: eds writes the same change in the same way each time, so that a replay
// overwrites its earlier output.
package encode

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// AppendEvent appends e's payload to dst: valid JSON on one line, with numbers and the order of
// members unchanged. It removes white space between values. Bytes that are not valid UTF-8, which
// JSON cannot contain, become U+FFFD. The result replaced says whether there were any such bytes.
func AppendEvent(dst []byte, e *cdc.Event) (out []byte, replaced bool) {
	return AppendPart(dst, e, e.Payload)
}

// Text returns the text that AppendEvent appends. The result may be the payload itself, so the
// caller must not modify it.
func Text(e *cdc.Event) (text []byte, replaced bool) {
	clean := valid(e.Payload)
	if clean && e.Compact {
		return e.Payload, false
	}
	return appendJSON(nil, e.Payload, clean, false), !clean
}

// AppendPart is like AppendEvent, for one value inside e's payload, such as e.After.
func AppendPart(dst []byte, e *cdc.Event, value []byte) (out []byte, replaced bool) {
	clean := valid(value)
	return appendJSON(dst, value, clean, clean && e.Compact), !clean
}

// appendCompact appends text, which must be valid JSON, with its white space removed.
func appendCompact(dst, text []byte) []byte {
	clean := valid(text)
	return appendJSON(dst, text, clean, clean && rawjson.Compact(text))
}

// valid is like utf8.Valid, but faster for ASCII.
func valid(text []byte) bool {
	rest := text
	for len(rest) >= 32 {
		w := binary.NativeEndian.Uint64(rest) | binary.NativeEndian.Uint64(rest[8:]) |
			binary.NativeEndian.Uint64(rest[16:]) | binary.NativeEndian.Uint64(rest[24:])
		if w&0x8080808080808080 != 0 {
			break
		}
		rest = rest[32:]
	}
	return utf8.Valid(rest)
}

// appendJSON does the work of appendCompact. If clean is true, text is valid UTF-8. If asIs is
// true, appendJSON appends text unchanged.
func appendJSON(dst, text []byte, clean, asIs bool) []byte {
	if asIs {
		return append(dst, text...)
	}
	start := 0 // of the next text to copy
	for i := 0; i < len(text); {
		switch text[i] {
		case ' ', '\t', '\r', '\n':
			dst = append(dst, text[start:i]...)
			i++
			start = i
		case '"':
			end, err := rawjson.Skip(text, i)
			if err != nil { // the text is not JSON: keep all of it
				return append(dst, text[start:]...)
			}
			if !clean {
				dst = appendValid(append(dst, text[start:i]...), text[i:end])
				start = end
			}
			i = end
		default:
			i++
		}
	}
	return append(dst, text[start:]...)
}

// appendValid appends text, with U+FFFD in place of each byte that is not valid UTF-8.
func appendValid(dst, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		dst = utf8.AppendRune(dst, r)
		text = text[n:]
	}
	return dst
}

// AppendImported appends an INSERT event for a row of a snapshot. The event's member "imported" is
// true. If the same row of the same snapshot is imported again, the event is the same, because the
// event's id is a hash of table, key and clock. The company and location come from the row, if the
// row has them.
func AppendImported(dst []byte, t *schema.Table, row *change.Row) []byte {
	dst = append(dst, `{"operation":"INSERT","id":"`...)
	dst = appendImportedID(dst, t, row)
	dst = rawjson.AppendQuoted(append(dst, `","table":`...), t.Name)
	dst = append(dst, `,"key":[`...)
	for slot := range t.Keys {
		if slot > 0 {
			dst = append(dst, ',')
		}
		dst = appendValue(dst, row.Value(slot))
	}
	dst = rawjson.AppendQuoted(append(dst, `],"modelVersion":`...), t.Version)
	for _, name := range []string{"companyId", "locationId"} {
		if slot := t.Slot([]byte(name)); slot >= 0 && !row.IsNull(slot) {
			dst = append(append(append(dst, `,"`...), name...), `":`...)
			dst = rawjson.AppendQuoted(dst, rawjson.Text(row.Value(slot)))
		}
	}
	dst = appendAfter(append(dst, `,"after":`...), t, row)
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), row.Clock.Wall/1_000_000, 10)
	dst = row.Clock.Append(append(dst, `,"mvccTimestamp":"`...))
	return append(dst, `","imported":true}`...)
}

// appendAfter appends the row as a JSON object. If the image of the row is an object, the result
// also has those properties of the image that the schema lacks.
func appendAfter(dst []byte, t *schema.Table, row *change.Row) []byte {
	if rawjson.Valid(row.Image) == nil && row.Image[rawjson.SkipSpace(row.Image, 0)] == '{' {
		return appendCompact(dst, row.Image)
	}
	dst = append(dst, '{')
	first := true
	for slot, c := range t.Columns {
		raw := row.Value(slot)
		if raw == nil {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(rawjson.AppendQuoted(dst, c.Name), ':')
		dst = appendCompact(dst, raw)
	}
	return append(dst, '}')
}

func appendValue(dst, raw []byte) []byte {
	if raw == nil {
		return append(dst, "null"...)
	}
	return appendCompact(dst, raw)
}

// appendImportedID appends the id of an imported row's event: 32 hexadecimal digits.
func appendImportedID(dst []byte, t *schema.Table, row *change.Row) []byte {
	text := rawjson.AppendQuoted(nil, t.Name)
	for slot := range t.Keys {
		text = change.AppendKey(text, row.Value(slot))
	}
	text = row.Clock.Append(text)
	sum := sha256.Sum256(text)
	return hex.AppendEncode(dst, sum[:16])
}
