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

// AppendKey appends a canonical form of one key column's raw value to dst: strings by their text,
// numbers by their value. Values that a database considers equal have equal forms, and a sequence
// of forms is unambiguous.
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

// canonicalNumber returns one spelling for all spellings of a number. Plain integers, the usual
// keys, are their own.
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

// RowKeys and LetterKeys recognise events of one row by hashes of the row's key. An applied event
// has the key that batches compact by. A dead letter may be of a table with unknown layout, so only
// its possible keys are known. If the two have a common hash they may concern the same row. The
// hashes do not separate a number from a string of its digits, nor two spellings of a UUID: whether
// these are equal depends on the type of a column, which may be unknown.

// RowKeys returns hashes of the keys of the rows that e writes and deletes, given its effect: if an
// UPDATE changed the key, of the key before and after. Without an effect it returns the possible
// keys. There are none if e has no key.
func RowKeys(e *cdc.Event, effect Effect) []string {
	elements := keyElements(e)
	if effect.Table == nil {
		return possibleKeys(e, elements)
	}
	keys := exactKeys(effect)
	if len(elements) == effect.Table.Keys {
		return keys
	}
	for _, key := range possibleKeys(e, elements) { // dead letters of such events have these
		keys = appendNew(keys, key)
	}
	return keys
}

// LetterKeys returns the known keys of the rows of e, whatever the layout of its table. keys has
// hashes of all their possible keys, none if e may concern any row. rows has, for each row, at most
// the written and the deleted one, the hashes of the keys by which a later change of it is
// recognised. rows is nil if it is unknown which key belongs to which row. effect may be the zero
// Effect.
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

// idChanges reports whether the row images have different ids.
func idChanges(e *cdc.Event) bool {
	ids := imageIDs(e)
	return len(ids) == 2 && !same(ids[0], ids[1])
}

// hasID reports whether no row image has another id.
func hasID(e *cdc.Event, id []byte) bool {
	return !slices.ContainsFunc(imageIDs(e), func(other []byte) bool { return !same(other, id) })
}

// imageIDs returns the ids in the row images, after and before.
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

// Without returns the effect without the rows that have one of the keys, hashed like LetterKeys.
func (e Effect) Without(keys []string) Effect {
	if e.Upsert != nil && slices.Contains(keys, rowKey(e.Table, e.Upsert)) {
		e.Upsert = nil
	}
	if e.Delete != nil && slices.Contains(keys, rowKey(e.Table, e.Delete)) {
		e.Delete = nil
	}
	return e
}

// exactKeys returns the hashes of the keys of an effect's rows.
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

// possibleKeys returns hashes of the keys that rows of e may have: the event's own key, the key's
// last element, which is the row's own id, and the id in both row images.
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

// KeyText returns the key of the event's row for display, its elements separated by commas; "" if
// there is none.
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

// maxKeyColumns bounds the members that are considered as key columns.
const maxKeyColumns = 64

// movedValues returns the values, before and after, of members that an UPDATE changed and that may
// be key columns, because one of the values is an element of the key.
func movedValues(e *cdc.Event, elements [][]byte) [][]byte {
	if e.Op != cdc.Update || len(elements) == 0 {
		return nil
	}
	columns := make(map[string][]byte) // by name; the value before
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

// keyElements returns the elements of the event's own key; nil if one is null.
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

// eachMember calls yield for each member of a row image, if there is one.
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

// appendHash appends the hash of a key with the given raw values, unless keys has it.
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

// looseText returns one text for all values that some type of column considers equal.
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

// canonicalUUID returns the digits of a UUID in lower case. Databases also read UUIDs in braces,
// without hyphens, and in upper case.
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
