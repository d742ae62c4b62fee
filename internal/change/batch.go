package change

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Batch is a run of events in ascending stream order. It also holds the effect of the events on
// rows, compacted to the last state of each key.
type Batch struct {
	// First and Last are the positions of the first and last message that the batch covers,
	// including skipped and rejected messages. Once the batch is durable, Last is the checkpoint.
	First, Last cdc.Position
	// Sets holds the effect of the events on rows. A key occurs in one set only. A sink that keeps
	// rows may apply the sets in any order, but has to apply the deletes of a set before its
	// upserts.
	Sets []*RowSet
	// Events holds the uncompacted events in stream order, for sinks that keep history.
	Events []*cdc.Event
	// Bytes is the total size of the events' payloads in bytes.
	Bytes int
}

// RowSet is the compacted effect of a batch on the rows of one table layout.
type RowSet struct {
	Table *schema.Table
	// Upserts holds whole rows, with at most one row per key.
	Upserts []Row
	// Deletes holds rows with key columns only, with at most one row per key. If a key is also in
	// Upserts, the row was deleted and then inserted again, so no value of the old row may remain.
	Deletes []Row
}

// SortByKey sorts the upserts and the deletes by primary key, because databases write rows in key
// order fastest. Strings are compared bytewise. Numbers are compared by length first and then by
// digits.
func (s *RowSet) SortByKey() {
	s.Upserts = sortByKey(s.Upserts, s.Table.Keys)
	s.Deletes = sortByKey(s.Deletes, s.Table.Keys)
}

// handle represents a row during sorting. Most comparisons are decided by the prefix, so sorting
// rarely reads a row's image and never moves a row.
type handle struct {
	prefix uint64
	row    uint32
}

// sortByKey returns the rows sorted by primary key. The key consists of the first columns of a row.
// The second argument is the number of these columns.
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

// commonPrefix returns the length of the longest common prefix of the first column's values,
// including the opening quote. It returns 0 if any of the values is not a string.
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

// prefixOf returns a few bytes of a raw key value as a number. The second argument is the number of
// leading bytes to skip. If the prefixes of two values differ, the values are in the order of their
// prefixes. If no bytes are skipped, the prefix separates numbers from strings, and the prefix of a
// number begins with the length of that number.
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
	default: // the prefix cannot order longer numbers, so they are compared in full
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

// compareKey compares two raw key values. Missing values come before numbers, and numbers before
// strings.
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

// Rows returns the number of upserts and deletes in all sets.
func (b *Batch) Rows() int {
	n := 0
	for _, s := range b.Sets {
		n += len(s.Upserts) + len(s.Deletes)
	}
	return n
}

// Builder builds one batch at a time. The zero value is ready to use.
type Builder struct {
	batch  Batch
	tables map[string]map[string]keyState // table name -> canonical key -> location of the key's changes
	sets   map[*schema.Table]*growingSet
	key    []byte
}

// keyState locates the changes of one key in a set. It holds the index of the upsert and the index
// of the delete. An index is -1 if there is no such change.
type keyState struct {
	set            *growingSet
	upsert, delete int
}

// growingSet is a set under construction. A superseded upsert is replaced by an empty row, so that
// the indexes in keyStates stay valid. Empty rows are dropped when the batch is complete.
type growingSet struct {
	table            *schema.Table
	upserts, deletes []Row
}

// Accepts reports whether the effect can join the batch without loss. Accepts returns false if the
// batch has a change of the same row under another layout of the table. Merging these two changes
// would lose the columns that one of the layouts lacks.
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

// Add appends an event and its effect. If the effect has no Table, the event changes no rows.
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

// Pass records that the batch covers the message at p. Call it for skipped and rejected messages,
// which add nothing else to the batch.
func (b *Builder) Pass(p cdc.Position) {
	if b.batch.First == (cdc.Position{}) {
		b.batch.First = p
	}
	b.batch.Last = b.batch.Last.Advance(p)
}

// Len returns the number of events added.
func (b *Builder) Len() int { return len(b.batch.Events) }

// Empty reports whether neither Add nor Pass has been called for the current batch.
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

// replace stores row in rows at the index *index. If *index is -1, replace appends row instead and
// sets *index.
func replace(rows *[]Row, index *int, row *Row) {
	if *index >= 0 {
		(*rows)[*index] = *row
		return
	}
	*index = len(*rows)
	*rows = append(*rows, *row)
}

// live returns the rows that are not empty. Empty rows are the replacements of superseded upserts.
func live(rows []Row) []Row {
	return slices.DeleteFunc(rows, func(r Row) bool { return r.Image == nil })
}

// Batch returns the batch, with each set sorted by key, and resets the builder to empty.
func (b *Builder) Batch() *Batch {
	out := b.batch
	for _, g := range b.sets {
		s := &RowSet{Table: g.table, Upserts: live(g.upserts), Deletes: g.deletes}
		s.SortByKey()
		out.Sets = append(out.Sets, s)
	}
	// Sort the sets, so that two servers, or a server and its retry, take locks in the same order.
	slices.SortFunc(out.Sets, func(a, b *RowSet) int {
		return compareTables(a.Table, b.Table)
	})
	*b = Builder{key: b.key}
	return &out
}

func compareTables(a, b *schema.Table) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
}
