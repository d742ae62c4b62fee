package change

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// AppendKey appends a canonical form of the raw value of one key column to dst. The form of a
// string depends on its text, and the form of a number on its value. Values that a database
// considers equal have equal forms. A sequence of forms can be split into values in only one way.
func AppendKey(dst, raw []byte) []byte {
	kind, text := byte('v'), raw
	switch {
	case rawjson.IsString(raw):
		kind, text = 's', rawjson.Text(raw)
	case len(raw) > 0 && (raw[0] == '-' || raw[0]-'0' <= 9):
		kind, text = 'n', canonicalNumber(raw)
	}
	dst = append(dst, kind)
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}

// canonicalNumber returns the same text for all spellings of a number. It returns plain integers,
// which most keys are, unchanged. It also returns very long spellings unchanged.
func canonicalNumber(raw []byte) []byte {
	if string(raw) == "-0" {
		return raw[1:]
	}
	if !bytes.ContainsAny(raw, ".eE") || len(raw) > 64 {
		return raw
	}
	exponent := bytes.IndexAny(raw, "eE")
	if exponent >= 0 && len(raw)-exponent > 5 { // 1e99999 keeps its spelling
		return raw
	}
	if r, ok := new(big.Rat).SetString(string(raw)); ok {
		return []byte(r.RatString())
	}
	return raw
}

// RowKeys and LetterKeys hash row keys, so that two events of the same row can be recognised. For
// an applied event, the exact key is known, which is also the key by which batches are compacted. A
// dead letter may belong to a table with an unknown layout, so only its possible keys are known. If
// the two events have a hash in common, they may concern the same row. The hashes do not
// distinguish a number from a string with the same digits, or two spellings of a UUID. Whether such
// values are equal depends on the column type, which may be unknown.

// RowKeys returns the hashes of the keys of all rows that the event e writes or deletes. The second
// argument is the effect of e. If an UPDATE changed the key, RowKeys returns the hashes of both the
// old and the new key. If effect has no Table, RowKeys returns the hashes of all possible keys. The
// result is empty if e has no key.
func RowKeys(e *cdc.Event, effect Effect) []string {
	elements := keyElements(e)
	if effect.Table == nil {
		return possibleKeys(e, elements)
	}
	keys := exactKeys(effect)
	if len(elements) == effect.Table.Keys {
		return keys
	}
	for _, key := range possibleKeys(e, elements) { // dead letters of such events have these keys
		keys = appendNew(keys, key)
	}
	return keys
}

// LetterKeys returns two results about the keys of the rows that e concerns. It does not need the
// layout of the table, so the second argument may be the zero Effect. The first result holds the
// hashes of all possible keys of these rows, and is empty if e may concern any row. The second
// result has one element for each written or deleted row. Each element holds the hashes by which a
// later change of that row is recognised. If it is unknown which key belongs to which row, the
// second result is nil.
func LetterKeys(e *cdc.Event, effect Effect) (keys []string, rows [][]string) {
	elements := keyElements(e)
	keys = possibleKeys(e, elements)
	if effect.Table != nil {
		for _, row := range []*Row{effect.Upsert, effect.Delete} {
			if row != nil {
				key := rowKey(effect.Table, row)
				keys, rows = appendNew(keys, key), append(rows, []string{key})
			}
		}
		return keys, rows
	}
	moved := movedValues(e, elements)
	switch {
	case len(moved) == 0 && len(keys) == 0:
		return nil, nil
	case len(moved) == 0 && !idChanges(e):
		own := keys
		if n := len(elements); n > 0 && !hasID(e, elements[n-1]) { // the id may be the key of another row
			own = appendHash(nil, elements...)
		}
		return keys, [][]string{slices.Clone(own)}
	case len(elements) > 1 && len(moved) > 0: // the rest of the other key is unknown
		return nil, nil
	}
	for _, value := range moved {
		keys = appendHash(keys, value)
	}
	if len(moved) == 2 {
		rows = [][]string{appendHash(nil, moved[1]), appendHash(nil, moved[0])}
	}
	return keys, rows
}

// idChanges reports whether the two row images of e have different ids.
func idChanges(e *cdc.Event) bool {
	ids := imageIDs(e)
	return len(ids) == 2 && !same(ids[0], ids[1])
}

// hasID reports whether every id in the row images of e equals id.
func hasID(e *cdc.Event, id []byte) bool {
	return !slices.ContainsFunc(imageIDs(e), func(other []byte) bool { return !same(other, id) })
}

// imageIDs returns the ids in the row images of e: first the new one, then the old one. Images
// without an id are omitted.
func imageIDs(e *cdc.Event) [][]byte {
	var ids [][]byte
	for _, image := range [][]byte{e.After, e.Before} {
		eachMember(image, func(name, value []byte) {
			if string(name) == "id" && !rawjson.IsNull(value) {
				ids = append(ids, value)
			}
		})
	}
	return ids
}

// Without returns the effect without the rows whose key is in keys. The keys are hashes as
// returned by LetterKeys.
func (e Effect) Without(keys []string) Effect {
	if e.Upsert != nil && slices.Contains(keys, rowKey(e.Table, e.Upsert)) {
		e.Upsert = nil
	}
	if e.Delete != nil && slices.Contains(keys, rowKey(e.Table, e.Delete)) {
		e.Delete = nil
	}
	return e
}

// exactKeys returns the hashes of the keys of the rows in effect.
func exactKeys(effect Effect) []string {
	var keys []string
	for _, row := range []*Row{effect.Upsert, effect.Delete} {
		if row != nil {
			keys = appendNew(keys, rowKey(effect.Table, row))
		}
	}
	return keys
}

// rowKey returns the hash of the key of a row of the table.
func rowKey(table *schema.Table, row *Row) string {
	values := make([][]byte, table.Keys)
	for slot := range values {
		values[slot] = row.Value(slot)
	}
	return appendHash(nil, values...)[0]
}

// possibleKeys returns the hashes of the keys that rows of e may have. There are three kinds of
// possible keys: the event's own key; the id of the row, which is the last element of that key; and
// the ids in the row images. The parameter elements holds the elements of the event's own key.
func possibleKeys(e *cdc.Event, elements [][]byte) []string {
	var keys []string
	if n := len(elements); n > 0 {
		keys = appendHash(keys, elements...)
		keys = appendHash(keys, elements[n-1])
	}
	for _, id := range imageIDs(e) {
		keys = appendHash(keys, id)
	}
	return keys
}

// KeyText returns the key of the event's row for display, with its elements separated by commas.
// It returns "" if the event has no key.
func KeyText(e *cdc.Event) string {
	elements := keyElements(e)
	if ids := imageIDs(e); len(elements) == 0 && len(ids) > 0 {
		elements = ids[:1]
	}
	texts := make([]string, len(elements))
	for i, raw := range elements {
		texts[i] = string(raw)
		if rawjson.IsString(raw) {
			texts[i] = string(rawjson.Text(raw))
		}
	}
	return strings.Join(texts, ", ")
}

// maxKeyColumns is the maximum number of members that movedValues considers as key columns.
const maxKeyColumns = 64

// movedValues returns the old and new values of members that an UPDATE changed and that may be key
// columns. A member may be a key column if its old or new value is an element of the event's key.
// The values come in pairs, the old one first.
func movedValues(e *cdc.Event, elements [][]byte) [][]byte {
	if e.Op != cdc.Update || len(elements) == 0 {
		return nil
	}
	columns := make(map[string][]byte) // old values by column name
	for _, image := range [][]byte{e.After, e.Before} {
		eachMember(image, func(name, value []byte) {
			if len(columns) < maxKeyColumns && slices.ContainsFunc(elements, func(el []byte) bool { return same(el, value) }) {
				columns[string(name)] = nil
			}
		})
	}
	eachMember(e.Before, func(name, value []byte) {
		if _, ok := columns[string(name)]; ok {
			columns[string(name)] = value
		}
	})
	var moved [][]byte
	eachMember(e.After, func(name, value []byte) {
		if before := columns[string(name)]; before != nil && !same(before, value) {
			moved = append(moved, before, value)
		}
	})
	return moved
}

func same(a, b []byte) bool { return string(looseText(a)) == string(looseText(b)) }

// keyElements returns the elements of the event's own key, or nil if an element is null.
func keyElements(e *cdc.Event) [][]byte {
	if e.Key == nil {
		return nil
	}
	var elements [][]byte
	null := false
	err := rawjson.Elements(e.Key, func(s rawjson.Span) error {
		elements = append(elements, e.Key[s.Start:s.End])
		null = null || rawjson.IsNull(elements[len(elements)-1])
		return nil
	})
	if err != nil || null {
		return nil
	}
	return elements
}

// eachMember calls yield for each member of a row image. A nil or malformed image has no members.
func eachMember(image []byte, yield func(name, value []byte)) {
	if image == nil {
		return
	}
	m, err := rawjson.OpenObject(image)
	if err != nil {
		return
	}
	for m.Next() {
		yield(m.Name(), m.Value())
	}
}

// appendHash appends the hash of the key with the given raw values, unless keys already contains
// it.
func appendHash(keys []string, values ...[]byte) []string {
	var text []byte
	for _, raw := range values {
		value := looseText(raw)
		text = binary.AppendUvarint(text, uint64(len(value)))
		text = append(text, value...)
	}
	return appendNew(keys, strconv.FormatUint(xxhash.Sum64(text), 16))
}

func appendNew(keys []string, key string) []string {
	if slices.Contains(keys, key) {
		return keys
	}
	return append(keys, key)
}

// looseText returns a text for comparing values of unknown type. It returns the same text for any
// two values that some column type considers equal.
func looseText(raw []byte) []byte {
	if !rawjson.IsString(raw) {
		return canonicalNumber(raw)
	}
	text := rawjson.Text(raw)
	if id, ok := canonicalUUID(text); ok {
		return id
	}
	return text
}

// canonicalUUID returns the hexadecimal digits of a UUID in lower case. If text is not a UUID, it
// returns false. Databases also accept UUIDs in braces, without hyphens and in upper case.
func canonicalUUID(text []byte) ([]byte, bool) {
	if len(text) < 32 || len(text) > 41 {
		return nil, false
	}
	if text[0] == '{' && text[len(text)-1] == '}' {
		text = text[1 : len(text)-1]
	}
	id := make([]byte, 0, 32)
	for _, c := range text {
		switch {
		case c == '-':
			continue
		case c >= 'A' && c <= 'F':
			c += 'a' - 'A'
		case c-'0' > 9 && (c < 'a' || c > 'f'):
			return nil, false
		}
		id = append(id, c)
	}
	return id, len(id) == 32
}
