package sinktest

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// marker is part of row values. No error may contain it.
const marker = "S3CR3T"

// stream creates changes, and applies each change at once to models of the tables. Batches must
// give the same result as this simple method.
type stream struct {
	t        T
	sequence *uint64 // sequence of the latest change
	models   map[string]*tableModel
}

func newStream(t T, sequence *uint64) *stream {
	return &stream{t: t, sequence: sequence, models: make(map[string]*tableModel)}
}

// textChange is one change, stored as text, so that it can be decoded into any number of batches.
type textChange struct {
	position cdc.Position
	table    *schema.Table
	payload  string
	object   string
}

// startClock is the clock of the first change, in nanoseconds.
const startClock = 1_767_323_045_000_000_000

// add creates the next change of t. The parameters before and after are the row as a JSON object,
// or "" if there is none.
func (s *stream) add(t *schema.Table, op cdc.Op, before, after string) textChange {
	s.t.Helper()
	return s.at(t, op, before, after, startClock+int64(*s.sequence+1)*1_000_000)
}

// at creates a change with the given clock.
func (s *stream) at(t *schema.Table, op cdc.Op, before, after string, clock int64) textChange {
	s.t.Helper()
	*s.sequence++
	image := after
	if op == cdc.Delete {
		image = before
	}
	payload := fmt.Appendf(nil, `{"operation":%q,"id":"ev%d","table":%s,"key":%s,"modelVersion":%s,"companyId":"c1","locationId":"l1"`,
		op, *s.sequence, rawjson.AppendQuoted(nil, t.Name), keyOf(s.t, t, image), rawjson.AppendQuoted(nil, t.Version))
	if before != "" {
		payload = append(append(payload, `,"before":`...), before...)
	}
	if after != "" {
		payload = append(append(payload, `,"after":`...), after...)
	}
	payload = fmt.Appendf(payload, `,"timestamp":%d,"mvccTimestamp":"%d.0000000000"}`, clock/1_000_000, clock)
	st := textChange{position: s.position(), table: t, payload: string(payload)}
	_, effect := st.decode(s.t)
	s.model(t.Name).apply(effect)
	return st
}

// position returns the position of the latest change.
func (s *stream) position() cdc.Position {
	return cdc.Position{Sequence: *s.sequence, Stored: startClock + int64(*s.sequence)}
}

func (s *stream) insert(t *schema.Table, row string) textChange { return s.add(t, cdc.Insert, "", row) }

func (s *stream) update(t *schema.Table, row string) textChange { return s.add(t, cdc.Update, "", row) }

func (s *stream) delete(t *schema.Table, row string) textChange { return s.add(t, cdc.Delete, row, "") }

// move creates an UPDATE that changes the primary key.
func (s *stream) move(t *schema.Table, before, after string) textChange {
	return s.add(t, cdc.Update, before, after)
}

// keyOf returns the key of an event as a JSON array: the values of the key columns in image.
func keyOf(t T, table *schema.Table, image string) []byte {
	t.Helper()
	spans, err := change.NewSplitter(table).Split([]byte(image))
	if err != nil {
		t.Fatalf("the suite's own row is broken: %v", err)
	}
	key := []byte{'['}
	for slot := range table.Keys {
		if slot > 0 {
			key = append(key, ',')
		}
		key = append(key, image[spans[slot].Start:spans[slot].End]...)
	}
	return append(key, ']')
}

// decode decodes the step into a new event with its own memory.
func (st textChange) decode(t T) (*cdc.Event, change.Effect) {
	t.Helper()
	e := &cdc.Event{Position: st.position}
	d := cdc.NewDecoder()
	d.Members = true // as the pipeline does for sinks that keep rows
	if err := d.Decode(e, []byte(st.payload), ""); err != nil {
		t.Fatalf("the suite's own event is broken: %v", err)
	}
	e.Object = st.object
	effect, err := change.NewSplitter(st.table).Effect(e)
	if err != nil {
		t.Fatalf("the suite's own event has no effect: %v", err)
	}
	return e, effect
}

// guardedBatch delivers one batch. It overwrites the batch afterwards, to detect sinks that keep
// parts of the batch.
type guardedBatch struct{ batch *change.Batch }

// batches returns the steps as one batch, or as several batches if one batch cannot hold them.
func (s *stream) batches(t T, steps []textChange) []guardedBatch {
	t.Helper()
	var all []guardedBatch
	var b change.Builder
	for _, st := range steps {
		e, effect := st.decode(t)
		if !b.Accepts(effect) {
			all = append(all, guardedBatch{b.Batch()})
		}
		b.Add(e, effect)
	}
	if !b.Empty() {
		all = append(all, guardedBatch{b.Batch()})
	}
	return all
}

// passing returns a batch that has only one skipped message.
func (s *stream) passing() guardedBatch {
	*s.sequence++
	var b change.Builder
	b.Pass(s.position())
	return guardedBatch{b.Batch()}
}

func (d guardedBatch) deliver(ctx context.Context, s sink.Sink) error {
	before := fmt.Sprintf("%v", d.batchState())
	err := s.Apply(ctx, d.batch)
	if after := fmt.Sprintf("%v", d.batchState()); after != before {
		return fmt.Errorf("the sink changed the caller's batch from %s to %s", before, after)
	}
	if err == nil {
		for _, e := range d.batch.Events {
			for i := range e.Payload {
				e.Payload[i] = '!'
			}
		}
	}
	return err
}

// batchState describes the parts of a batch that a sink might change.
func (d guardedBatch) batchState() []any {
	shape := []any{d.batch.First, d.batch.Last, len(d.batch.Events)}
	for _, set := range d.batch.Sets {
		shape = append(shape, set.Table.Name, len(set.Upserts), len(set.Deletes))
	}
	return shape
}

// tableModel has the expected rows of a table. Rows are indexed by canonical key, and their values
// by column.
type tableModel struct{ rows map[string]modelRow }

type modelRow map[string][]byte

func (s *stream) model(table string) *tableModel {
	if s.models[table] == nil {
		s.models[table] = newTableModel()
	}
	return s.models[table]
}

func newTableModel() *tableModel { return &tableModel{rows: make(map[string]modelRow)} }

// apply applies one change. Columns that the layout of the change lacks keep their values until
// the row is deleted.
func (m *tableModel) apply(e change.Effect) {
	if e.Delete != nil {
		delete(m.rows, canonicalKey(e.Table, e.Delete))
	}
	if e.Upsert != nil {
		m.put(e.Table, e.Upsert)
	}
}

func (m *tableModel) put(t *schema.Table, row *change.Row) {
	key := canonicalKey(t, row)
	if m.rows[key] == nil {
		m.rows[key] = make(modelRow)
	}
	for slot, c := range t.Columns {
		delete(m.rows[key], c.Name)
		if !row.IsNull(slot) {
			m.rows[key][c.Name] = slices.Clone(row.Value(slot))
		}
	}
}

// load adds or replaces rows, given as JSON objects.
func (m *tableModel) load(t T, table *schema.Table, images ...string) {
	t.Helper()
	splitter := change.NewSplitter(table)
	for _, image := range images {
		row := split(t, splitter, image)
		m.put(table, &row)
	}
}

func (m *tableModel) clone() *tableModel {
	c := newTableModel()
	for key, row := range m.rows {
		c.rows[key] = maps.Clone(row)
	}
	return c
}

func canonicalKey(t *schema.Table, row *change.Row) string {
	var key []byte
	for slot := range t.Keys {
		key = change.AppendKey(key, row.Value(slot))
	}
	return string(key)
}

func rowOf(t T, table *schema.Table, image string) change.Row {
	t.Helper()
	return split(t, change.NewSplitter(table), image)
}

func split(t T, s *change.Splitter, image string) change.Row {
	t.Helper()
	spans, err := s.Split([]byte(image))
	if err != nil {
		t.Fatalf("the suite's own row is broken: %v", err)
	}
	return change.Row{Image: []byte(image), Spans: spans, Op: cdc.Insert, Clock: cdc.Timestamp{Wall: startClock}}
}

// images yields the model's rows as JSON objects.
func (m *tableModel) images() iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for _, key := range slices.Sorted(maps.Keys(m.rows)) {
			image := []byte{'{'}
			for name, value := range m.rows[key] {
				if len(image) > 1 {
					image = append(image, ',')
				}
				image = append(append(rawjson.AppendQuoted(image, name), ':'), value...)
			}
			if !yield(append(image, '}')) {
				return
			}
		}
	}
}

// newTable returns a table. The parameter key is the number of columns in its primary key, which
// are listed first.
func newTable(t T, name, version string, key int, columns ...schema.Column) *schema.Table {
	t.Helper()
	var names []string
	for _, c := range columns[:key] {
		names = append(names, c.Name)
	}
	table, err := schema.New(name, version, names, columns)
	if err != nil {
		t.Fatalf("the suite's own table is broken: %v", err)
	}
	return table
}

// column returns a column.
func column(name string, kind schema.Type) schema.Column {
	return schema.Column{Name: name, Type: kind}
}
