package sinktest

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// worse is the reference sink with some methods replaced.
type worse struct {
	*memorySink
	apply      func(ctx context.Context, b *change.Batch) error
	checkpoint func(ctx context.Context) (cdc.Position, error)
	filters    func(ctx context.Context) ([]string, error)
	read       func(c schema.Column, raw []byte) []byte
	load       func(l sink.Load) sink.Load
	begin      func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error)
	adopt      func(t *schema.Table) error
	migrate    func(ctx context.Context, tables []*schema.Table) ([]string, error)
	probe      func(ctx context.Context) error
	missing    func(t *schema.Table) error // of a read
	closed     func() error
}

func (w *worse) Close(ctx context.Context) error {
	if w.closed != nil {
		return w.closed()
	}
	return w.memorySink.Close(ctx)
}

func (w *worse) Apply(ctx context.Context, b *change.Batch) error {
	if w.apply != nil {
		return w.apply(ctx, b)
	}
	return w.memorySink.Apply(ctx, b)
}

func (w *worse) Checkpoint(ctx context.Context) (cdc.Position, error) {
	if w.checkpoint != nil {
		return w.checkpoint(ctx)
	}
	return w.memorySink.Checkpoint(ctx)
}

func (w *worse) OtherFilters(ctx context.Context) ([]string, error) {
	if w.filters != nil {
		return w.filters(ctx)
	}
	return w.memorySink.OtherFilters(ctx)
}

func (w *worse) Migrate(ctx context.Context, tables []*schema.Table) ([]string, error) {
	if w.migrate != nil {
		return w.migrate(ctx, tables)
	}
	return w.memorySink.Migrate(ctx, tables)
}

func (w *worse) Probe(ctx context.Context) error {
	if w.probe != nil {
		return w.probe(ctx)
	}
	return w.memorySink.Probe(ctx)
}

func (w *worse) Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error] {
	rows := w.memorySink.Read(ctx, t)
	if w.read == nil && w.missing == nil {
		return rows
	}
	return func(yield func(*change.Row, error) bool) {
		if w.missing != nil {
			if err := w.missing(t); err != nil {
				yield(nil, err)
				return
			}
		}
		for row, err := range rows {
			if err == nil && w.read != nil {
				row = altered(t, row, w.read)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// altered returns the row with each value changed.
func altered(t *schema.Table, row *change.Row, alter func(c schema.Column, raw []byte) []byte) *change.Row {
	out := &change.Row{Image: []byte{' '}, Spans: make([]rawjson.Span, len(t.Columns))}
	for slot, c := range t.Columns {
		raw := row.Value(slot)
		if raw != nil && !c.PrimaryKey {
			raw = alter(c, raw)
		}
		if raw != nil {
			out.Spans[slot] = rawjson.Span{Start: uint32(len(out.Image)), End: uint32(len(out.Image) + len(raw))}
			out.Image = append(out.Image, raw...)
		}
	}
	return out
}

func (w *worse) Adopt(ctx context.Context, t *schema.Table) error {
	if w.adopt != nil {
		return w.adopt(t)
	}
	return w.memorySink.Adopt(ctx, t)
}

func (w *worse) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	begin := w.memorySink.BeginLoad
	if w.begin != nil {
		begin = w.begin
	}
	l, err := begin(ctx, job, t, mode, scope)
	if err == nil && w.load != nil {
		l = w.load(l)
	}
	return l, err
}

// worseLoad is a load with some methods replaced.
type worseLoad struct {
	*memoryLoad
	loaded    func(file string) bool
	loadFile  func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error)
	loadRows  func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error)
	finish    func(ctx context.Context) (int64, error)
	discarded func(ctx context.Context) error
}

func (w *worseLoad) Loaded(file string) bool {
	if w.loaded != nil {
		return w.loaded(file)
	}
	return w.memoryLoad.Loaded(file)
}

func (w *worseLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	if w.loadFile != nil {
		return w.loadFile(ctx, file, rows)
	}
	return w.memoryLoad.LoadFile(ctx, file, rows)
}

type refusedRow = func(row *change.Row, number int64, reason error) error

func (w *worseLoad) LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error) {
	if w.loadRows != nil {
		return w.loadRows(ctx, file, rows, refused)
	}
	return w.memoryLoad.LoadRows(ctx, file, rows, refused)
}

func (w *worseLoad) Finish(ctx context.Context) (int64, error) {
	if w.finish != nil {
		return w.finish(ctx)
	}
	return w.memoryLoad.Finish(ctx)
}

func (w *worseLoad) Discard(ctx context.Context) error {
	if w.discarded != nil {
		return w.discarded(ctx)
	}
	return w.memoryLoad.Discard(ctx)
}

// rewriting returns a defect: the sink applies a copy of each batch with altered sets.
func rewriting(alter func(set *change.RowSet)) func(w *worse) {
	return func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			c := *b
			c.Sets = nil
			for _, set := range b.Sets {
				s := *set
				s.Upserts, s.Deletes = slices.Clone(s.Upserts), slices.Clone(s.Deletes)
				alter(&s)
				c.Sets = append(c.Sets, &s)
			}
			return w.memorySink.Apply(ctx, &c)
		}
	}
}

func reading(alter func(c schema.Column, raw []byte) []byte) func(w *worse) {
	return func(w *worse) { w.read = alter }
}

func loading(alter func(l *memoryLoad, w *worseLoad)) func(w *worse) {
	return func(w *worse) {
		w.load = func(l sink.Load) sink.Load {
			bad := &worseLoad{memoryLoad: l.(*memoryLoad)}
			alter(bad.memoryLoad, bad)
			return bad
		}
	}
}

// onceOnly returns a defect that applies only to the first sink of each destination.
func onceOnly(with func(w *worse)) func(w *worse) {
	var opened sync.Map // by destination
	return func(w *worse) {
		if _, again := opened.LoadOrStore(w.m, true); !again {
			with(w)
		}
	}
}

// withKeys returns a defect that alters the keys of sets.
func withKeys(alter func(text string) string) func(w *worse) {
	return rewriting(func(set *change.RowSet) {
		for _, rows := range [][]change.Row{set.Upserts, set.Deletes} {
			for i, row := range rows {
				image := append(slices.Clone(row.Image), ' ')
				spans := slices.Clone(row.Spans)
				for slot := range set.Table.Keys {
					raw := row.Value(slot)
					if rawjson.IsString(raw) {
						raw = rawjson.AppendQuoted(nil, alter(string(rawjson.Text(raw))))
					}
					spans[slot] = rawjson.Span{Start: uint32(len(image)), End: uint32(len(image) + len(raw))}
					image = append(image, raw...)
				}
				rows[i] = change.Row{Image: image, Spans: spans, Op: row.Op, Clock: row.Clock}
			}
		}
	})
}

// alteredKey returns the row with the numbers of its key changed.
func alteredKey(t *schema.Table, row *change.Row, alter func(raw []byte) []byte) *change.Row {
	image, spans := append(slices.Clone(row.Image), ' '), slices.Clone(row.Spans)
	for slot := range t.Keys {
		raw := alter(row.Value(slot))
		spans[slot] = rawjson.Span{Start: uint32(len(image)), End: uint32(len(image) + len(raw))}
		image = append(image, raw...)
	}
	return &change.Row{Image: image, Spans: spans, Op: row.Op, Clock: row.Clock}
}
