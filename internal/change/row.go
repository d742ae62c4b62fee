// Package change represents changes that are ready to be applied. It splits row images into
// columns, and compacts batches of events to the last state of each key.
package change

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Row is one row image of a table. It has one raw JSON value per column, indexed by the column's
// slot in schema.Table.Columns. A Row shares memory with its event or file, and must not be
// modified.
type Row struct {
	Image []byte         // the text that Spans refers to
	Spans []rawjson.Span // one per column; in a key-only row, one per key column
	Op    cdc.Op
	Clock cdc.Timestamp
}

// Value returns the raw JSON value in the given slot. If the row has no value in that slot, Value
// returns nil; if the value is null, it returns the literal null. Both mean SQL NULL.
func (r *Row) Value(slot int) []byte {
	s := r.Spans[slot]
	if s.IsZero() {
		return nil
	}
	return r.Image[s.Start:s.End]
}

// IsNull reports whether the slot is empty or contains null.
func (r *Row) IsNull(slot int) bool {
	v := r.Value(slot)
	return v == nil || rawjson.IsNull(v)
}

// Splitter splits row objects of one table into slots. It expects the members of a row in the same
// order as in the previous row. If the order is the same, finding a slot takes one comparison. A
// Splitter is not safe for concurrent use.
type Splitter struct {
	table *schema.Table
	order []memberSlot
	slab  []rawjson.Span
	// Unknown, if not nil, is called with the name of each member for which the table has no
	// column. The name is valid only during the call.
	Unknown func(name []byte)
}

// memberSlot is a member of the previous row and its slot.
type memberSlot struct {
	name  string
	plain string // equal to name if JSON needs no escapes in it, otherwise ""
	slot  int    // -1 if the table has no such column
}

// slabSpans is the number of spans that are allocated at once.
const slabSpans = 8192

// NewSplitter returns a Splitter for rows of t.
func NewSplitter(t *schema.Table) *Splitter { return &Splitter{table: t} }

// Split validates image, which must be one JSON object, and returns the spans of the columns'
// values. If a name occurs twice, the last value counts. Members for which the table has no column
// are skipped.
func (s *Splitter) Split(image []byte) ([]rawjson.Span, error) {
	if len(image) > math.MaxUint32 {
		return nil, errors.New("the row is larger than 4 GiB")
	}
	spans := s.spans(len(s.table.Columns))
	m, err := rawjson.OpenObject(image)
	if err != nil {
		return nil, err
	}
	for i := 0; ; i++ {
		if i < len(s.order) {
			m.Expect(s.order[i].plain)
		} else {
			m.Expect("")
		}
		if !m.Next() {
			return spans, m.Err()
		}
		s.setSlot(spans, i, m.Name(), m.Span())
	}
}

const (
	// spareMembers is added to twice the number of columns to give the maximum number of members
	// whose order is remembered.
	spareMembers = 64
	// maxName is the maximum length of a remembered name in bytes.
	maxName = 256
)

// setSlot stores value, the span of the i-th member of a row, in the slot for the member's name.
func (s *Splitter) setSlot(spans []rawjson.Span, i int, name []byte, value rawjson.Span) {
	if slot := s.slot(i, name); slot >= 0 {
		spans[slot] = value
	} else if s.Unknown != nil {
		s.Unknown(name)
	}
}

// slot returns the slot of the i-th member of a row, or -1 if the table has no column for that
// member.
func (s *Splitter) slot(i int, name []byte) int {
	switch {
	case i < len(s.order) && s.order[i].name == string(name):
	case len(name) > maxName || i > len(s.order) || i >= 2*len(s.table.Columns)+spareMembers:
		return s.table.Slot(name)
	case i < len(s.order):
		s.order[i] = s.member(name)
	default:
		s.order = append(s.order, s.member(name))
	}
	return s.order[i].slot
}

// row returns the new row image of an event as a Row.
func (s *Splitter) row(e *cdc.Event) (*Row, error) {
	if e.Members == nil { // the event was not decoded from the wire, or After is an empty object
		spans, err := s.Split(e.After)
		return &Row{Image: e.After, Spans: spans, Op: e.Op, Clock: e.Clock}, err
	}
	spans := s.spans(len(s.table.Columns))
	for i, m := range e.Members {
		s.setSlot(spans, i, rawjson.Text(e.Payload[m.Name.Start:m.Name.End]), m.Value)
	}
	return &Row{Image: e.Payload, Spans: spans, Op: e.Op, Clock: e.Clock}, nil
}

func (s *Splitter) member(name []byte) memberSlot {
	m := memberSlot{name: string(name), slot: s.table.Slot(name)}
	special := func(c byte) bool { return c < 0x20 || c == '"' || c == '\\' }
	if !slices.ContainsFunc(name, special) {
		m.plain = m.name
	}
	return m
}

func (s *Splitter) spans(n int) []rawjson.Span {
	if len(s.slab) < n {
		s.slab = make([]rawjson.Span, max(slabSpans, n))
	}
	spans := s.slab[:n:n]
	s.slab = s.slab[n:]
	return spans
}

// Effect is the effect of an event on its table. It is a row to write, a key to delete, or both if
// an UPDATE changed the primary key.
type Effect struct {
	Table  *schema.Table
	Upsert *Row // the whole row; nil for a DELETE
	Delete *Row // key columns only; nil for an INSERT
}

// MaxKey is the maximum size of a primary key value, in bytes of JSON. The size is limited because
// batches copy keys when they compact changes of the same row. Most destinations accept only much
// shorter keys anyway.
const MaxKey = 1 << 20

// CheckKey returns an error if a key column has a value of more than MaxKey bytes.
func CheckKey(t *schema.Table, row *Row) error {
	for slot, c := range t.Key() {
		if len(row.Value(slot)) > MaxKey {
			return fmt.Errorf("the value of %q of the primary key is larger than %d MiB", c.Name, MaxKey>>20)
		}
	}
	return nil
}

// Effect returns the effect of e, which must be an event of the splitter's table. If there is an
// error, the event can never be applied. The error quotes no value of the row.
func (s *Splitter) Effect(e *cdc.Event) (Effect, error) {
	effect, err := s.effect(e)
	for _, row := range []*Row{effect.Upsert, effect.Delete} {
		if row != nil && err == nil {
			err = CheckKey(s.table, row)
		}
	}
	return effect, err
}

func (s *Splitter) effect(e *cdc.Event) (Effect, error) {
	if e.Op == cdc.Delete {
		key, err := s.deletedKey(e)
		return Effect{Table: s.table, Delete: key}, err
	}
	if e.After == nil {
		return Effect{}, fmt.Errorf("the %v has no row image", e.Op)
	}
	row, err := s.row(e)
	if err != nil {
		return Effect{}, fmt.Errorf("row image: %w", err)
	}
	if err := s.fillKey(row, e); err != nil {
		return Effect{}, err
	}
	moved, err := s.movedKey(e, row)
	return Effect{Table: s.table, Upsert: row, Delete: moved}, err
}

// fillKey adds the missing key columns to a row image. The values of these columns come from the
// event's key.
func (s *Splitter) fillKey(row *Row, e *cdc.Event) error {
	for slot := range s.table.Keys {
		if row.IsNull(slot) {
			key, err := s.eventKey(e)
			if err != nil {
				return err
			}
			// All spans of a row refer to one text. That text usually contains the event's key as
			// well; otherwise, fillKey appends the key.
			at := bytes.Index(row.Image, key.Image)
			if at < 0 {
				at = len(row.Image)
				row.Image = append(row.Image[:at:at], key.Image...)
			}
			offset := uint32(at)
			for i := range s.table.Keys {
				if row.IsNull(i) {
					row.Spans[i] = rawjson.Span{Start: key.Spans[i].Start + offset, End: key.Spans[i].End + offset}
				}
			}
			return nil
		}
	}
	return nil
}

// deletedKey returns the key of the row that a DELETE removes. It takes the key from the old row
// image or, if that has none, from the event's own key.
func (s *Splitter) deletedKey(e *cdc.Event) (*Row, error) {
	if e.Before != nil {
		key, err := s.keyOf(e.Before)
		if err != nil {
			return nil, fmt.Errorf("row image before: %w", err)
		}
		if key != nil {
			key.Op, key.Clock = e.Op, e.Clock
			return key, nil
		}
	}
	return s.eventKey(e)
}

// movedKey returns the old key of the row if an UPDATE changed the key. Otherwise it returns nil.
func (s *Splitter) movedKey(e *cdc.Event, row *Row) (*Row, error) {
	if e.Op != cdc.Update || e.Before == nil || e.Diff != nil && !s.diffNamesKey(e.Diff) {
		return nil, nil
	}
	key, err := s.keyOf(e.Before)
	if err != nil || key == nil {
		return nil, err
	}
	var before, after []byte
	for slot := range s.table.Keys {
		before = AppendKey(before, key.Value(slot))
		after = AppendKey(after, row.Value(slot))
	}
	if string(before) == string(after) {
		return nil, nil
	}
	key.Op, key.Clock = cdc.Delete, e.Clock
	return key, nil
}

func (s *Splitter) diffNamesKey(diff []byte) bool {
	named := false
	_ = rawjson.Elements(diff, func(el rawjson.Span) error {
		slot := s.table.Slot(rawjson.Text(diff[el.Start:el.End]))
		named = named || slot >= 0 && slot < s.table.Keys
		return nil
	})
	return named
}

// keyOf returns the key columns of a row image, or nil if a key column is missing or null.
func (s *Splitter) keyOf(image []byte) (*Row, error) {
	spans, err := s.Split(image)
	if err != nil {
		return nil, err
	}
	key := &Row{Image: image, Spans: spans[:s.table.Keys:s.table.Keys]}
	for slot := range s.table.Keys {
		if key.IsNull(slot) {
			return nil, nil
		}
	}
	return key, nil
}

// eventKey returns the row's key, taken from the event's own key. If the event's key has as many
// elements as the table has key columns, eventKey uses all of them. If it has more and the table
// has one key column, eventKey uses the last element.
func (s *Splitter) eventKey(e *cdc.Event) (*Row, error) {
	var elements []rawjson.Span
	if e.Key != nil {
		if err := rawjson.Elements(e.Key, func(el rawjson.Span) error {
			elements = append(elements, el)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	switch {
	case len(elements) == s.table.Keys:
	case len(elements) > 0 && s.table.Keys == 1:
		elements = elements[len(elements)-1:]
	default:
		return nil, fmt.Errorf("the event has neither the key columns of table %q in its row image nor a key of %d elements", e.Table,
			s.table.Keys)
	}
	for _, el := range elements {
		if rawjson.IsNull(e.Key[el.Start:el.End]) {
			return nil, fmt.Errorf("the key of the event of table %q has a null element", e.Table)
		}
	}
	return &Row{Image: e.Key, Spans: elements, Op: e.Op, Clock: e.Clock}, nil
}
