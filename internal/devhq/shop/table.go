package shop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// tableRows holds the rows of one table, each as the JSON text that is published. Its state depends
// only on the rows and the order in which they are stored, so that loading a snapshot restores it
// exactly.
type tableRows struct {
	index    int // index in model.tables
	layouts  []*rowLayout
	rows     []slot // in no particular order; remove fills a gap with the last row
	byKey    map[string]int32
	children map[string][]string // parent key -> sorted keys of the rows that belong to the parent; see definition.parent
	next     uint64              // number of rows ever inserted
}

// slot is the stored form of one row.
type slot struct {
	key               string
	image             []byte // immutable
	layout            uint16 // index in table.layouts
	company, location uint16 // indexes in model.owners
}

func (t *tableRows) latest() *rowLayout { return t.layouts[len(t.layouts)-1] }
func (t *tableRows) name() string       { return t.layouts[0].table }

// cutRow is one row, split into columns. It is immutable. Its spans are valid as long as their
// buffer is not reused.
type cutRow struct {
	table  *tableRows
	layout *rowLayout
	slot   int
	image  []byte
	spans  []rawjson.Span
}

// cut returns the spans of the columns in a row image. The image must have the form that
// generator.row and row.rewrite write: columns in the layout's order, some of them omitted, and no
// white space.
func cut(l *rowLayout, image []byte, spans []rawjson.Span) []rawjson.Span {
	spans = slices.Grow(spans[:0], len(l.columns))[:len(l.columns)]
	clear(spans)
	at := 1
	for i, name := range l.names {
		if len(image)-at <= len(name) || string(image[at:at+len(name)]) != name {
			continue
		}
		start := at + len(name)
		end := skipValue(image, start)
		spans[i] = rawjson.Span{Start: uint32(start), End: uint32(end)}
		at = end + 1
	}
	if at != len(image) {
		panic(fmt.Sprintf("shop: a row of %s is not in its layout", l.table))
	}
	return spans
}

// skipValue returns the index after the value that starts at text[i]. The value must be valid and
// inside an object.
func skipValue(text []byte, i int) int {
	switch text[i] {
	case '"':
		return skipString(text, i)
	case '{', '[':
		for depth := 0; ; i++ {
			switch text[i] {
			case '"':
				i = skipString(text, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default:
		for text[i] != ',' && text[i] != '}' {
			i++
		}
		return i
	}
}

func skipString(text []byte, i int) int {
	for {
		i += 1 + bytes.IndexByte(text[i+1:], '"')
		escapes := i
		for text[escapes-1] == '\\' {
			escapes--
		}
		if (i-escapes)%2 == 0 {
			return i + 1
		}
	}
}

// raw returns the raw value of the column in slot i, or nil if the row has none.
func (r *cutRow) raw(i int) []byte {
	if i < 0 || r.spans[i].IsZero() {
		return nil
	}
	return r.image[r.spans[i].Start:r.spans[i].End]
}

func (r *cutRow) text(column string) string {
	raw := r.raw(r.layout.slot(column))
	if raw == nil || rawjson.IsNull(raw) {
		return ""
	}
	return string(rawjson.Text(raw))
}

func (r *cutRow) int(column string) int64 {
	n, _ := strconv.ParseInt(r.text(column), 10, 64)
	return n
}

// hundredths returns the value of a number column times 100. The number must have no more than two
// decimal places.
func (r *cutRow) hundredths(column string) int64 {
	whole, decimals, _ := strings.Cut(r.text(column), ".")
	n, _ := strconv.ParseInt(whole+(decimals + "00")[:2], 10, 64)
	return n
}

func (r *cutRow) key() string { return r.table.rows[r.slot].key }

// keyOf returns the key that identifies the row in table.byKey. It consists of the texts of the
// key columns, separated by NULs.
func (r *cutRow) keyOf() string {
	if len(r.layout.key) == 1 {
		return string(rawjson.Text(r.raw(r.layout.key[0])))
	}
	var key []byte
	for i, k := range r.layout.key {
		if i > 0 {
			key = append(key, 0)
		}
		key = append(key, rawjson.Text(r.raw(k))...)
	}
	return string(key)
}

// wireKey returns the key in the JSON form in which changes contain it.
func (r *cutRow) wireKey() json.RawMessage {
	key := []byte{'['}
	if r.layout.companyKey {
		key = append(append(key, r.raw(r.layout.company)...), ',')
	}
	for i, k := range r.layout.key {
		if i > 0 {
			key = append(key, ',')
		}
		key = append(key, r.raw(k)...)
	}
	return append(key, ']')
}

// assignment is a new raw value for the column in the given slot of the newest layout.
type assignment struct {
	column int
	value  []byte
}

// rewrite returns the image of r in the newest layout of its table, with new values for some
// columns. It also returns the names of the columns whose values differ. The new values in sets
// must be in the layout's order. The image reuses the memory of scratch.
func (r *cutRow) rewrite(scratch []byte, sets []assignment) (image []byte, diff []string) {
	to := r.table.latest()
	out := append(scratch[:0], '{')
	for i := range to.columns {
		from := i
		if to != r.layout {
			from = r.layout.slot(to.columns[i].name)
		}
		was := r.raw(from)
		now := convert(was, to.columns[i].typ)
		for ; len(sets) > 0 && sets[0].column == i; sets = sets[1:] {
			now = sets[0].value
		}
		if !bytes.Equal(was, now) && !(isNull(was) && isNull(now)) {
			diff = append(diff, to.columns[i].name)
		}
		if now == nil {
			now = []byte("null")
		}
		if to.omitNulls && isNull(now) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(out, to.names[i]...), now...)
	}
	return append(out, '}'), diff
}

func isNull(raw []byte) bool { return raw == nil || rawjson.IsNull(raw) }

// convert converts a raw value from an older layout. The type of the value's column has since been
// widened. The second argument is the new type. If the new type is String, a number becomes a
// string with the same digits.
func convert(raw []byte, to schema.Type) []byte {
	if to == schema.String && len(raw) > 0 && raw[0] != '"' && !rawjson.IsNull(raw) {
		return rawjson.AppendQuoted(nil, raw)
	}
	return raw
}

// add adds a row to the table and returns the index of the row.
func (t *tableRows) add(s slot, parent string) int {
	if _, twice := t.byKey[s.key]; twice {
		panic(fmt.Sprintf("shop: a row of %s is inserted twice", t.name()))
	}
	t.byKey[s.key] = int32(len(t.rows))
	t.rows = append(t.rows, s)
	if parent != "" {
		of := t.children[parent]
		at, _ := slices.BinarySearch(of, s.key)
		t.children[parent] = slices.Insert(of, at, s.key)
	}
	t.next++
	return len(t.rows) - 1
}

// remove removes the row at the given index from the table.
func (t *tableRows) remove(at int, parent string) {
	key := t.rows[at].key
	delete(t.byKey, key)
	last := len(t.rows) - 1
	if at != last {
		t.rows[at] = t.rows[last]
		t.byKey[t.rows[at].key] = int32(at)
	}
	t.rows[last] = slot{}
	t.rows = t.rows[:last]
	if parent == "" {
		return
	}
	of := t.children[parent]
	if i, found := slices.BinarySearch(of, key); found {
		of = slices.Delete(of, i, i+1)
	}
	if len(of) == 0 {
		delete(t.children, parent)
	} else {
		t.children[parent] = of
	}
}

// operation is one change for the model to apply.
type operation struct {
	op       cdc.Op
	table    *tableRows
	row      *cutRow      // for UPDATE and DELETE: the row before the change
	image    []byte       // for INSERT and UPDATE: the row after the change
	sets     []assignment // for UPDATE: the new values, in the layout's order
	diff     []string     // for UPDATE: the names of the columns that differ
	clock    cdc.Timestamp
	user     string
	imported bool
}
