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

// table holds the rows of one table, each as the JSON text that is published. Its state follows
// from the rows and the order in which they were added, so that loading a snapshot restores it
// exactly.
type table struct {
	index    int // in model.tables
	layouts  []*layout
	rows     []slot // in no order; remove moves the last row into the gap
	byKey    map[string]int32
	children map[string][]string // parent key -> keys of its rows, ascending; see definition.parent
	next     uint64              // rows ever inserted
}

// slot is one row.
type slot struct {
	key               string
	image             []byte // immutable
	layout            uint16 // in table.layouts
	company, location uint16 // in model.owners
}

func (t *table) latest() *layout { return t.layouts[len(t.layouts)-1] }
func (t *table) name() string    { return t.layouts[0].table }

// row is one row cut into columns. It is immutable. Its spans are valid as long as the buffer that
// they were cut into.
type row struct {
	table  *table
	layout *layout
	slot   int
	image  []byte
	spans  []rawjson.Span
}

// cut returns the spans of the columns of an image that generator.row or rewrite wrote: columns in
// the layout's order, some left out, no white space.
func cut(l *layout, image []byte, spans []rawjson.Span) []rawjson.Span {
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

// skipValue returns the index after the value that begins at text[i]. The value must be valid and
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

// raw returns a column's raw value, nil if the row has none.
func (r *row) raw(i int) []byte {
	if i < 0 || r.spans[i].IsZero() {
		return nil
	}
	return r.image[r.spans[i].Start:r.spans[i].End]
}

func (r *row) text(column string) string {
	raw := r.raw(r.layout.slot(column))
	if raw == nil || rawjson.IsNull(raw) {
		return ""
	}
	return string(rawjson.Text(raw))
}

func (r *row) int(column string) int64 {
	n, _ := strconv.ParseInt(r.text(column), 10, 64)
	return n
}

// hundredths returns a number with at most two decimals, times a hundred.
func (r *row) hundredths(column string) int64 {
	whole, decimals, _ := strings.Cut(r.text(column), ".")
	n, _ := strconv.ParseInt(whole+(decimals + "00")[:2], 10, 64)
	return n
}

func (r *row) key() string { return r.table.rows[r.slot].key }

// keyOf returns the key of a row in table.byKey: the texts of its key columns.
func (r *row) keyOf() string {
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

// wireKey returns the key as it is on the wire.
func (r *row) wireKey() json.RawMessage {
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

// assignment is a new raw value for a column, by its slot in the newest layout.
type assignment struct {
	column int
	value  []byte
}

// rewrite returns the image of r in its table's newest layout with new values, and the names of
// the columns that differ. sets is in the layout's order.
func (r *row) rewrite(scratch []byte, sets []assignment) (image []byte, diff []string) {
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

// convert converts a value of an older layout to the type that its column was widened to. A number
// becomes its digits if the column is text now.
func convert(raw []byte, to schema.Type) []byte {
	if to == schema.String && len(raw) > 0 && raw[0] != '"' && !rawjson.IsNull(raw) {
		return rawjson.AppendQuoted(nil, raw)
	}
	return raw
}

// add adds a row and returns its index.
func (t *table) add(s slot, parent string) int {
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

// remove takes a row out.
func (t *table) remove(at int, parent string) {
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

// operation is one change in the terms of the model.
type operation struct {
	op       cdc.Op
	table    *table
	row      *row         // UPDATE, DELETE: the row before the change
	image    []byte       // INSERT, UPDATE: the row after the change
	sets     []assignment // UPDATE: the new values, in the layout's order
	diff     []string     // UPDATE: the columns that differ
	clock    cdc.Timestamp
	user     string
	imported bool
}
