package change

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Batch is a run of events in ascending stream order, with their effect on rows compacted to the
// last state of each key.
type Batch struct {
	// First and Last are the positions of the batch's first and last message, including skipped and
	// rejected ones. Last is the checkpoint once the batch is durable.
	First, Last cdc.Position
	// Sets are the effect on rows. A key is in one set only. Sinks that keep rows apply the sets in
	// any order, and the deletes of each set first.
	Sets []*Set
	// Events are the batch's events in stream order, uncompacted, for sinks that keep history.
	Events []*cdc.Event
	// Bytes is the size of the payloads.
	Bytes int
}

// Set is the compacted effect on the rows of one table layout.
type Set struct {
	Table *schema.Table
	// Upserts are whole rows, at most one per key.
	Upserts []Row
	// Deletes are key columns only, at most one per key. A key that is also in Upserts was deleted
	// and inserted again: nothing of the old row stays.
	Deletes []Row
}

// SortByKey sorts both halves of the set by primary key, bytewise, the order that databases write
// fastest. Numbers sort by length first, then by digits.
func (s *Set) SortByKey() {
	s.Upserts = sortByKey(s.Upserts, s.Table.Keys)
	s.Deletes = sortByKey(s.Deletes, s.Table.Keys)
}

// handle represents a row during sorting. Most comparisons end at the prefix, so they neither read
// a row's image nor move the row.
type handle struct {
	prefix uint64
	row    uint32
}

// sortByKey returns rows in the order of their first keys columns.
func sortByKey(rows []Row, keys int) []Row {
	if len(rows) < 2 {
		return rows
	}
	same := commonPrefix(rows)
	handles := make([]handle, len(rows))
	for i := range rows {
		handles[i] = handle{prefixOf(rows[i].Value(0), same), uint32(i)}
	}
	slices.SortFunc(handles, func(a, b handle) int {
		if a.prefix != b.prefix {
			return cmp.Compare(a.prefix, b.prefix)
		}
		return compareKeys(&rows[a.row], &rows[b.row], keys)
	})
	sorted := make([]Row, len(rows))
	for i, h := range handles {
		sorted[i] = rows[h.row]
	}
	return sorted
}

// commonPrefix returns the length of the common prefix of the first column's values, opening quote
// included; 0 unless they are strings.
func commonPrefix(rows []Row) int {
	first := rows[0].Value(0)
	n := len(first)
	for i := range rows {
		v := rows[i].Value(0)
		if len(v) == 0 || v[0] != '"' {
			return 0
		}
		n = min(n, len(v))
		for j := range n {
			if v[j] != first[j] {
				n = j
				break
			}
		}
	}
	return n
}

// prefixOf returns leading bytes of a raw key value, as a number. If two values' prefixes differ,
// the values have the same order. It skips the first same bytes. If same is 0, the prefix separates
// numbers from strings, and a number's begins with its length.
func prefixOf(raw []byte, same int) uint64 {
	var p [8]byte
	switch {
	case same > 0:
		copy(p[:], raw[same:])
	case len(raw) == 0:
	case raw[0] == '"':
		p[0] = 0xff
		copy(p[1:], raw[1:])
	case len(raw) < 0xfe:
		p[0] = byte(len(raw))
		copy(p[1:], raw)
	default: // longer numbers need the full comparison
		p[0] = 0xfe
	}
	return binary.BigEndian.Uint64(p[:])
}

func compareKeys(a, b *Row, keys int) int {
	for slot := range keys {
		x, y := a.Value(slot), b.Value(slot)
		if c := compareKey(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// compareKey orders missing values before numbers, and numbers before strings.
func compareKey(x, y []byte) int {
	class := func(raw []byte) int {
		switch {
		case len(raw) == 0:
			return 0
		case raw[0] == '"':
			return 2
		}
		return 1
	}
	c := class(x)
	if d := cmp.Compare(c, class(y)); d != 0 {
		return d
	}
	if c == 1 && len(x) != len(y) {
		return cmp.Compare(len(x), len(y))
	}
	return bytes.Compare(x, y)
}

// Rows returns the number of upserts and deletes of the sets.
func (b *Batch) Rows() int {
	n := 0
	for _, s := range b.Sets {
		n += len(s.Upserts) + len(s.Deletes)
	}
	return n
}

// Builder builds one batch. The zero value is ready.
type Builder struct {
	batch  Batch
	tables map[string]map[string]keyState // table name -> canonical key -> its change
	sets   map[*schema.Table]*growingSet
	key    []byte
}

// keyState locates a key's changes in the halves of its set; -1: none.
type keyState struct {
	set            *growingSet
	upsert, delete int
}

// growingSet is a set under construction. A superseded upsert is emptied and dropped at the end, so
// that indexes stay valid.
type growingSet struct {
	table            *schema.Table
	upserts, deletes []Row
}

// Accepts reports whether effect can join the batch without loss. It cannot if the batch has a
// change of the same row under another layout of the table: merging the two would lose columns that
// one of them lacks.
func (b *Builder) Accepts(effect Effect) bool {
	for _, row := range []*Row{effect.Upsert, effect.Delete} {
		if row == nil {
			continue
		}
		p, ok := b.tables[effect.Table.Name][string(b.keyOf(effect.Table, row))]
		if ok && p.set.table != effect.Table {
			return false
		}
	}
	return true
}

// Add appends an event with its effect. An effect without a Table concerns no rows.
func (b *Builder) Add(e *cdc.Event, effect Effect) {
	b.batch.Events = append(b.batch.Events, e)
	b.batch.Bytes += len(e.Payload)
	b.Pass(e.Position)
	if effect.Table == nil {
		return
	}
	if effect.Delete != nil {
		b.put(effect.Table, effect.Delete, true)
	}
	if effect.Upsert != nil {
		b.put(effect.Table, effect.Upsert, false)
	}
}

// Pass records that the batch covers the message at p, even if nothing of it is added because it is
// skipped or rejected.
func (b *Builder) Pass(p cdc.Position) {
	if b.batch.First == (cdc.Position{}) {
		b.batch.First = p
	}
	b.batch.Last = b.batch.Last.Advance(p)
}

// Len returns the number of events added.
func (b *Builder) Len() int { return len(b.batch.Events) }

// Empty reports whether nothing was added or passed.
func (b *Builder) Empty() bool { return b.batch.First == (cdc.Position{}) }

func (b *Builder) keyOf(t *schema.Table, row *Row) []byte {
	b.key = b.key[:0]
	for i := range t.Keys {
		b.key = AppendKey(b.key, row.Value(i))
	}
	return b.key
}

func (b *Builder) put(t *schema.Table, row *Row, deletes bool) {
	if b.tables == nil {
		b.tables = make(map[string]map[string]keyState)
		b.sets = make(map[*schema.Table]*growingSet)
	}
	keys := b.tables[t.Name]
	if keys == nil {
		keys = make(map[string]keyState)
		b.tables[t.Name] = keys
	}
	set := b.sets[t]
	if set == nil {
		set = &growingSet{table: t}
		b.sets[t] = set
	}
	key := b.keyOf(t, row)
	p, known := keys[string(key)]
	was := p
	if !known {
		p = keyState{set, -1, -1}
	}
	if deletes {
		if p.upsert >= 0 {
			set.upserts[p.upsert] = Row{}
			p.upsert = -1
		}
		replace(&set.deletes, &p.delete, row)
	} else {
		replace(&set.upserts, &p.upsert, row)
	}
	if p != was {
		keys[string(key)] = p
	}
}

// replace stores row at *index of rows, or appends it if *index is -1.
func replace(rows *[]Row, index *int, row *Row) {
	if *index >= 0 {
		(*rows)[*index] = *row
		return
	}
	*index = len(*rows)
	*rows = append(*rows, *row)
}

// live drops the emptied rows.
func live(rows []Row) []Row {
	return slices.DeleteFunc(rows, func(r Row) bool { return r.Image == nil })
}

// Batch returns the batch, each set sorted by key, and leaves the builder empty.
func (b *Builder) Batch() *Batch {
	out := b.batch
	for _, g := range b.sets {
		s := &Set{Table: g.table, Upserts: live(g.upserts), Deletes: g.deletes}
		s.SortByKey()
		out.Sets = append(out.Sets, s)
	}
	// Always the same order, so that two servers, or a server and its retry, take locks in one
	// order.
	slices.SortFunc(out.Sets, func(a, b *Set) int {
		return compareTables(a.Table, b.Table)
	})
	*b = Builder{key: b.key}
	return &out
}

func compareTables(a, b *schema.Table) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
}
