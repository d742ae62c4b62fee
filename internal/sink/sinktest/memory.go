package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Memory is a destination in memory that keeps every value unchanged. It is the shortest
// implementation of the contract of package sink, and replaces a real destination in tests of the
// code that uses sinks. In an integer column, it refuses a value that is not a number as poison.
//
// The zero value is an empty destination. Memory is safe for concurrent use.
type Memory struct {
	mu          sync.Mutex
	tables      map[string]*memoryTable
	checkpoints map[[3]string]cdc.Position
	loads       map[[2]string]*memoryLoad // by job and table

	steps, limit int
	mode         Mode
	stalled      chan struct{} // closed by Repair; nil unless stalled
}

type memoryTable struct {
	key     []string // the key columns that the table was created with
	columns map[string]schema.Type
	rows    map[string]*memoryRow
}

type memoryRow struct {
	values  map[string][]byte
	op      cdc.Op
	clock   cdc.Timestamp
	deleted bool
}

var memoryOptions = []sink.Option{
	{Name: "metadata", Type: sink.Bool{}, Help: "true adds metadata columns"},
	{Name: "delete", Type: sink.OneOf("hard", "soft"), Help: "soft keeps deleted rows"},
}

// Driver returns a driver that opens m for every URL. It has the options metadata=true and
// delete=soft.
func (m *Memory) Driver() sink.Driver {
	return sink.Driver{
		Name: "memory", Title: "Memory", Schemes: []string{"memory"}, Example: "memory://name",
		Summary: "Keeps rows in memory.", Help: "It is gone when the program ends.",
		Options: memoryOptions,
		Limits:  sink.Limits{Rows: 1000, Bytes: 1 << 20}, KeepsRows: true,
		Open: m.open,
	}
}

func (m *Memory) open(_ context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	v, err := sink.ParseOptions(target, memoryOptions)
	if err != nil {
		return nil, err
	}
	soft := v.Text("delete") == "soft"
	return &memorySink{m: m, env: env, soft: soft, metadata: soft || v.Bool("metadata")}, nil
}

// Steps returns the number of calls that sinks have made. With Steps, Break, Stall and Repair,
// Memory is a Staller.
func (m *Memory) Steps() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}

// Break lets the next n calls succeed, and breaks all later calls.
func (m *Memory) Break(n int, mode Mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit, m.mode = m.steps+n, mode
}

// Stall makes every call wait until Repair is called.
func (m *Memory) Stall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalled = make(chan struct{})
}

// Repair ends the effects of Break and Stall.
func (m *Memory) Repair() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mode = ""
	if m.stalled != nil {
		close(m.stalled)
		m.stalled = nil
	}
}

// answers returns when the destination can answer: it waits while the destination is stalled.
func (m *Memory) answers(ctx context.Context) error {
	m.mu.Lock()
	stalled := m.stalled
	m.mu.Unlock()
	if stalled == nil {
		return ctx.Err()
	}
	select {
	case <-stalled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errGone is the error of a broken call.
var errGone = errors.New("the destination is gone")

// call runs the callback do as one transaction, with m locked. If a fault is due, call returns
// errGone. In mode Lost, it does not run the callback. In mode Answered, it runs the callback
// first.
func (m *Memory) call(ctx context.Context, do func() error) error {
	if err := m.answers(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps++
	broken := m.mode != "" && m.steps > m.limit
	if broken && m.mode == Lost {
		return errGone
	}
	if err := do(); err != nil {
		return err
	}
	if broken {
		return errGone
	}
	return nil
}

// memorySink is a sink that writes to a Memory.
type memorySink struct {
	m              *Memory
	env            sink.Env
	metadata, soft bool
}

func (s *memorySink) Close(context.Context) error { return nil }
func (s *memorySink) Probe(context.Context) error { return nil }

// checkpointKey identifies the checkpoint.
func (s *memorySink) checkpointKey() [3]string {
	return [3]string{s.env.Stream, s.env.Consumer, s.env.Filter}
}

func (s *memorySink) Apply(ctx context.Context, b *change.Batch) error {
	return s.m.call(ctx, func() error {
		at := s.m.checkpoints[s.checkpointKey()]
		if s.env.Consumer != "" && at.Covers(b.Last) {
			return nil
		}
		for _, set := range b.Sets {
			if err := errors.Join(set.Table.Check(), refuse(set.Table, set.Upserts)); err != nil {
				return err
			}
		}
		for _, set := range b.Sets {
			t := s.table(set.Table)
			for i := range set.Deletes {
				s.remove(t, set.Table, &set.Deletes[i])
			}
			for i := range set.Upserts {
				s.put(t, set.Table, &set.Upserts[i])
			}
		}
		if s.env.Consumer != "" {
			if s.m.checkpoints == nil {
				s.m.checkpoints = make(map[[3]string]cdc.Position)
			}
			s.m.checkpoints[s.checkpointKey()] = at.Advance(b.Last)
		}
		return nil
	})
}

// refuse returns a poison error if a row has a value that the sink refuses.
func refuse(t *schema.Table, rows []change.Row) error {
	for i := range rows {
		for slot, c := range t.Columns {
			raw := rows[i].Value(slot)
			if c.Type != schema.Integer || raw == nil || rawjson.IsNull(raw) {
				continue
			}
			if text := rawjson.Text(raw); len(text) == 0 || text[0] != '-' && text[0]-'0' > 9 {
				return fault.Mark(fault.Poison, fmt.Errorf("column %q of table %q: the value is not an integer", c.Name, t.Name))
			}
		}
	}
	return nil
}

// table returns the stored table of t. If necessary, it creates the table, adds columns, and widens
// the types of columns.
func (s *memorySink) table(t *schema.Table) *memoryTable {
	m := s.m.tables[t.Name]
	if m == nil {
		m = &memoryTable{key: keyNames(t), columns: make(map[string]schema.Type), rows: make(map[string]*memoryRow)}
		if s.m.tables == nil {
			s.m.tables = make(map[string]*memoryTable)
		}
		s.m.tables[t.Name] = m
	}
	for _, c := range t.Columns {
		m.columns[c.Name] = max(m.columns[c.Name], c.Type)
	}
	return m
}

// guarded reports whether a change with the given clock must be ignored, because it is older than
// the row.
func (s *memorySink) guarded(row *memoryRow, clock cdc.Timestamp) bool {
	return row != nil && (s.env.After || s.metadata) && row.clock.Compare(clock) > 0
}

func (s *memorySink) remove(m *memoryTable, t *schema.Table, key *change.Row) {
	k := canonicalKey(t, key)
	row := m.rows[k]
	switch {
	case row == nil || s.guarded(row, key.Clock):
	case s.soft:
		row.op, row.clock, row.deleted = cdc.Delete, key.Clock, true
	default:
		delete(m.rows, k)
	}
}

func (s *memorySink) put(m *memoryTable, t *schema.Table, row *change.Row) {
	k := canonicalKey(t, row)
	old := m.rows[k]
	if s.guarded(old, row.Clock) {
		return
	}
	fresh := &memoryRow{values: make(map[string][]byte), op: row.Op, clock: row.Clock}
	if old != nil && !old.deleted {
		maps.Copy(fresh.values, old.values)
	}
	for slot, c := range t.Columns {
		fresh.values[c.Name] = slices.Clone(row.Value(slot))
	}
	m.rows[k] = fresh
}

func (s *memorySink) Checkpoint(ctx context.Context) (p cdc.Position, err error) {
	err = s.m.call(ctx, func() error {
		p = s.m.checkpoints[s.checkpointKey()]
		return nil
	})
	return p, err
}

func (s *memorySink) ResetCheckpoint(ctx context.Context) error {
	return s.m.call(ctx, func() error {
		delete(s.m.checkpoints, s.checkpointKey())
		return nil
	})
}

func (s *memorySink) OtherFilters(ctx context.Context) (filters []string, err error) {
	err = s.m.call(ctx, func() error {
		for place := range s.m.checkpoints {
			if place[2] != s.env.Filter {
				filters = append(filters, place[2])
			}
		}
		return nil
	})
	return filters, err
}

func (s *memorySink) Migrate(ctx context.Context, tables []*schema.Table) (lines []string, err error) {
	err = s.m.call(ctx, func() error {
		for _, t := range tables {
			if err := t.Check(); err != nil {
				return err
			}
			var before map[string]schema.Type
			if m := s.m.tables[t.Name]; m != nil {
				before = maps.Clone(m.columns)
			}
			if !maps.Equal(before, s.table(t).columns) {
				lines = append(lines, fmt.Sprintf("changed table %q", t.Name))
			}
		}
		return nil
	})
	return lines, err
}

func (s *memorySink) Adopt(ctx context.Context, t *schema.Table) error {
	return s.m.call(ctx, func() error {
		m := s.m.tables[t.Name]
		if m == nil || len(m.rows) == 0 {
			return nil
		}
		missing := 0
		for _, c := range t.Columns {
			if m.columns[c.Name] == 0 {
				missing++
			}
		}
		if !slices.Equal(m.key, keyNames(t)) || 2*missing > len(t.Columns)-t.Keys {
			return fault.Mark(fault.Fatal, sink.ErrForeign)
		}
		return nil
	})
}

func keyNames(t *schema.Table) []string {
	var names []string
	for _, c := range t.Columns[:t.Keys] {
		names = append(names, c.Name)
	}
	return names
}

func (s *memorySink) Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		var rows []*change.Row
		err := s.m.call(ctx, func() error {
			rows = s.rows(t)
			return nil
		})
		if err != nil {
			yield(nil, err)
			return
		}
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

// rows returns the rows of t. The rows include the metadata for which t has columns.
func (s *memorySink) rows(t *schema.Table) []*change.Row {
	m := s.m.tables[t.Name]
	if m == nil {
		return nil
	}
	var rows []*change.Row
	for _, r := range m.rows {
		if r.deleted && s.soft {
			continue
		}
		row := &change.Row{Spans: make([]rawjson.Span, len(t.Columns)), Image: []byte{' '}}
		for slot, c := range t.Columns {
			value := cmp.Or(string(r.values[c.Name]), r.meta(c.Name))
			if value != "" {
				row.Spans[slot] = rawjson.Span{Start: uint32(len(row.Image)), End: uint32(len(row.Image) + len(value))}
				row.Image = append(row.Image, value...)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (r *memoryRow) meta(column string) string {
	switch column {
	case "_eds_op":
		return quoted(r.op.String())
	case "_eds_version":
		return quoted(r.clock.Sortable())
	case "_eds_synced_at":
		return `"2026-01-02T03:04:05Z"`
	case "_eds_deleted":
		return fmt.Sprint(r.deleted)
	}
	return ""
}
