package sinktest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// worse is the reference with one method or another replaced.
type worse struct {
	*memorySink
	apply      func(ctx context.Context, b *change.Batch) error
	checkpoint func(ctx context.Context) (cdc.Position, error)
	read       func(c schema.Column, raw []byte) []byte
	load       func(l sink.Load) sink.Load
	begin      func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error)
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

func (w *worse) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
	begin := w.memorySink.BeginLoad
	if w.begin != nil {
		begin = w.begin
	}
	l, err := begin(ctx, job, t, mode)
	if err == nil && w.load != nil {
		l = w.load(l)
	}
	return l, err
}

// worseLoad is a load with one method or another replaced.
type worseLoad struct {
	*memoryLoad
	loaded            func(file string) bool
	loadFile          func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error)
	finish, discarded func(ctx context.Context) error
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

func (w *worseLoad) Finish(ctx context.Context) error {
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

// rewriting applies a copy of each batch whose sets were changed.
func rewriting(alter func(set *change.Set)) func(w *worse) {
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

// onceOnly makes the first sink worse that is opened.
func onceOnly(with func(w *worse)) func(w *worse) {
	var once sync.Once
	return func(w *worse) { once.Do(func() { with(w) }) }
}

// withKeys makes sets whose keys went through alter.
func withKeys(alter func(text string) string) func(w *worse) {
	return rewriting(func(set *change.Set) {
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

var errSoon = errors.New("come back later")

// rowDefects maps each defect to the checks that must find it.
var rowDefects = []struct {
	name   string
	checks []string
	with   func(w *worse)
}{
	{"an upsert is lost", []string{"inserts, updates and deletes", "many rows and tables in one batch", "any history, any batches, any replay"}, rewriting(func(s *change.Set) { s.Upserts = s.Upserts[:len(s.Upserts)*4/5] })},
	{"deletes are ignored", []string{"inserts, updates and deletes", "composite keys", "keys that move", "any history, any batches, any replay"}, rewriting(func(s *change.Set) { s.Deletes = nil })},
	{"the last delete is ignored", []string{"any history, any batches, any replay"}, rewriting(func(s *change.Set) { s.Deletes = s.Deletes[:max(0, len(s.Deletes)-1)] })},
	{"keys fold case", []string{"keys that differ by case, accents and spaces"}, withKeys(strings.ToLower)},
	{"keys lose trailing blanks", []string{"keys that differ by case, accents and spaces"}, withKeys(func(s string) string { return strings.TrimRight(s, " ") })},
	{"rows do not start anew", []string{"a row deleted and inserted again starts anew", "any history, any batches, any replay"}, rewriting(func(s *change.Set) {
		s.Deletes = slices.DeleteFunc(s.Deletes, func(d change.Row) bool {
			return slices.ContainsFunc(s.Upserts, func(u change.Row) bool { return canonicalKey(s.Table, &u) == canonicalKey(s.Table, &d) })
		})
	})},
	{"columns of other layouts are forgotten", []string{"two layouts of a table", "a row deleted and inserted again starts anew"}, rewriting(func(s *change.Set) { s.Deletes = append(s.Deletes, s.Upserts...) })},
	{"a second set is lost", []string{"many rows and tables in one batch", "two layouts of a table"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			c := *b
			c.Sets = c.Sets[:min(1, len(c.Sets))]
			return w.memorySink.Apply(ctx, &c)
		}
	}},
	{"the caller's batch is changed", []string{"inserts, updates and deletes"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			b.Sets = nil
			return err
		}
	}},
	{"memory of the batch is kept", []string{"inserts, updates and deletes", "any history, any batches, any replay"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			for _, set := range b.Sets {
				for i := range set.Upserts {
					row := &set.Upserts[i]
					for slot, c := range set.Table.Columns {
						w.m.tables[set.Table.Name].rows[canonicalKey(set.Table, row)].values[c.Name] = row.Value(slot)
					}
				}
			}
			return err
		}
	}},

	{"a table that does not exist can't be read", []string{"tables without a batch are empty"}, func(w *worse) {
		w.missing = func(t *schema.Table) error {
			if w.m.tables[t.Name] == nil {
				return errSoon
			}
			return nil
		}
	}},
	{"a batch without rows is an error", []string{"batches that settle without changing rows"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if len(b.Sets) == 0 {
				return errSoon
			}
			return w.memorySink.Apply(ctx, b)
		}
	}},
	{"closing twice is an error", []string{"close while a batch is applied"}, func(w *worse) {
		closed := false
		w.closed = func() error {
			if closed {
				return errSoon
			}
			closed = true
			return nil
		}
	}},
	{"a call that meets the end is poison", []string{"close while a batch is applied"}, onceOnly(func(w *worse) {
		closing := make(chan struct{})
		w.closed = sync.OnceValue(func() error { close(closing); return nil })
		w.apply = func(context.Context, *change.Batch) error {
			<-closing
			return fault.Mark(fault.Poison, errSoon)
		}
	})},
	{"the first of two members of a name counts", []string{"events that contradict themselves"}, reading(func(_ schema.Column, raw []byte) []byte {
		return bytes.Replace(raw, []byte(`"last"`), []byte(`"first"`), 1)
	})},
	{"what follows a refusal is skipped", []string{"what is left when a poison event is taken out is applied"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			if fault.Of(err) == fault.Poison {
				w.m.checkpoints[w.place()] = b.Last
			}
			return err
		}
	}},

	{"no checkpoint is stored", []string{"the checkpoint comes with the batch"}, func(w *worse) {
		w.checkpoint = func(context.Context) (cdc.Position, error) { return cdc.Position{}, nil }
	}},
	{"the checkpoint runs ahead", []string{"any history, any batches, any replay", "the checkpoint comes with the batch"}, func(w *worse) {
		w.checkpoint = func(ctx context.Context) (cdc.Position, error) {
			p, err := w.memorySink.Checkpoint(ctx)
			p.Sequence++
			p.Stored++
			return p, err
		}
	}},
	{"the checkpoint moves, the batch does not", []string{"inserts, updates and deletes", "any history, any batches, any replay"}, rewriting(func(s *change.Set) { s.Upserts, s.Deletes = nil, nil })},
	{"checkpoints are shared", []string{"each consumer and filter has a checkpoint of its own"}, func(w *worse) { w.env.Filter = "" }},
	{"a checkpoint without a consumer", []string{"no consumer, no checkpoint"}, func(w *worse) {
		if w.env.Consumer == "" {
			w.env.Consumer = "eds-conformance"
		}
	}},
	{"a covered batch is applied again", []string{"a batch that the checkpoint covers changes nothing"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			was := w.m.checkpoints[w.place()]
			delete(w.m.checkpoints, w.place())
			err := w.memorySink.Apply(ctx, b)
			if w.m.checkpoints == nil {
				w.m.checkpoints = make(map[[3]string]cdc.Position)
			}
			w.m.checkpoints[w.place()] = was.Advance(b.Last)
			return err
		}
	}},
	{"only the sequence counts", []string{"a stream that was made anew is not covered"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if b.Last.Sequence <= w.m.checkpoints[w.place()].Sequence {
				return nil
			}
			return w.memorySink.Apply(ctx, b)
		}
	}},
	{"a cancelled call is fatal", []string{"a cancelled call is no verdict on the batch"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return fault.Mark(fault.Fatal, w.memorySink.Apply(ctx, b))
		}
	}},

	{"migrations say the same again", []string{"a migration that is done is not done again"}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			_, err := w.memorySink.Migrate(ctx, tables)
			return []string{"one", "two"}, err
		}
	}},
	{"migrations empty the table", []string{"new columns and new tables", "columns become wider and keep their values", "a table that another tool made"}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			for _, t := range tables {
				delete(w.m.tables, t.Name)
			}
			return w.memorySink.Migrate(ctx, tables)
		}
	}},
	{"wide integers are rounded", []string{"columns become wider and keep their values", "every value survives, or is refused by name", "columns that become narrower stay as they are", "integer keys"}, func(w *worse) {
		round := func(raw []byte) []byte {
			if f, err := strconv.ParseFloat(string(raw), 64); err == nil {
				return strconv.AppendFloat(nil, f, 'f', -1, 64)
			}
			return raw
		}
		reading(func(_ schema.Column, raw []byte) []byte { return round(raw) })(w)
		rewriting(func(s *change.Set) {
			for i := range s.Upserts {
				s.Upserts[i] = *alteredKey(s.Table, &s.Upserts[i], round)
			}
		})(w)
	}},
	{"columns that left are emptied", []string{"columns that left the schema keep their values"}, reading(func(c schema.Column, raw []byte) []byte {
		if c.Name == "gone" {
			return nil
		}
		return raw
	})},
	{"names are cut at 63 bytes", []string{"names that a database might trip over"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			c := *b
			c.Sets = nil
			for _, set := range b.Sets {
				s := *set
				t := *s.Table
				t.Name = t.Name[:min(len(t.Name), 63)]
				s.Table = &t
				c.Sets = append(c.Sets, &s)
			}
			return w.memorySink.Apply(ctx, &c)
		}
	}},

	{"an empty string is null", []string{"inserts, updates and deletes", "every value survives, or is refused by name", "every value survives an import, or is refused by name"}, reading(func(_ schema.Column, raw []byte) []byte {
		if string(raw) == `""` {
			return nil
		}
		return raw
	})},
	{"null is an empty string", []string{"inserts, updates and deletes", "all types in one row"}, reading(func(_ schema.Column, raw []byte) []byte {
		if rawjson.IsNull(raw) {
			return []byte(`""`)
		}
		return raw
	})},
	{"dates lose microseconds", []string{"every value survives, or is refused by name", "wide tables"}, reading(func(c schema.Column, raw []byte) []byte {
		if c.Type != schema.DateTime || len(raw) < 21 {
			return raw
		}
		return append(slices.Clone(raw[:20]), `Z"`...)
	})},
	{"text that looks like a date is one", []string{"every value survives, or is refused by name"}, reading(func(c schema.Column, raw []byte) []byte {
		if c.Type == schema.String && string(raw) == `"2026-01-02"` {
			return []byte(`"2026-01-02T00:00:00Z"`)
		}
		return raw
	})},
	{"text is cut", []string{"every value survives, or is refused by name", "values of ten megabytes"}, reading(func(_ schema.Column, raw []byte) []byte {
		if rawjson.IsString(raw) && len(raw) > 70_000 {
			return append(slices.Clone(raw[:60_000]), '"')
		}
		return raw
	})},
	{"U+0000 is dropped and nobody is told", []string{"every value survives, or is refused by name"}, reading(func(_ schema.Column, raw []byte) []byte { return bytes.ReplaceAll(raw, []byte(`\u0000`), nil) })},
	{"U+0000 is replaced and nobody is told", []string{"every value survives, or is refused by name"}, reading(func(_ schema.Column, raw []byte) []byte {
		return bytes.ReplaceAll(raw, []byte(`\u0000`), []byte(`\ufffd`))
	})},
	{"a scalar becomes an object", []string{"every value survives, or is refused by name"}, reading(func(c schema.Column, raw []byte) []byte {
		if c.Type.IsJSON() && raw[0] != '{' && raw[0] != '[' {
			return []byte(`{}`)
		}
		return raw
	})},
	{"JSON is stored as a string of JSON", []string{"all types in one row", "every value survives, or is refused by name"}, reading(func(c schema.Column, raw []byte) []byte {
		if c.Type.IsJSON() && !rawjson.IsNull(raw) {
			return rawjson.AppendQuoted(nil, raw)
		}
		return raw
	})},
	{"a refusal tells the value", []string{"every value survives, or is refused by name"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			if err != nil {
				err = fault.Mark(fault.Poison, errors.New(err.Error()+string(b.Sets[0].Upserts[0].Image)))
			}
			return err
		}
	}},
	{"a refusal names no column", []string{"every value survives, or is refused by name"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if w.memorySink.Apply(ctx, b) != nil {
				return fault.Mark(fault.Poison, errors.New("a value of all_values is out of range"))
			}
			return nil
		}
	}},
	{"a refusal is transient", []string{"every value survives, or is refused by name"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return fault.Mark(fault.Transient, w.memorySink.Apply(ctx, b))
		}
	}},
	{"everything is refused", []string{"every value survives, or is refused by name"}, func(w *worse) {
		w.apply = func(context.Context, *change.Batch) error {
			return fault.Mark(fault.Poison, errors.New(`column "col_string" of table "all_values"`))
		}
	}},
	{"a refused row is there", []string{"every value survives, or is refused by name", "of a batch with a poison event nothing is applied"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			for _, set := range b.Sets {
				for i := range set.Upserts {
					if fault.Of(err) == fault.Poison {
						w.put(w.table(set.Table), set.Table, &set.Upserts[i])
					}
				}
			}
			return err
		}
	}},
	{"a refused batch moves the checkpoint", []string{"of a batch with a poison event nothing is applied"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			if err != nil {
				w.m.checkpoints[w.place()] = b.Last
			}
			return err
		}
	}},

	{"older changes win", []string{"update strategy after: an older change never wins", "metadata columns keep older changes out"}, func(w *worse) { w.env.After, w.metadata = false, false }},
	{"clocks are compared as text", []string{"update strategy after: an older change never wins"}, func(w *worse) {
		rewriting(func(s *change.Set) {
			for i := range s.Upserts {
				s.Upserts[i].Clock.Wall = -s.Upserts[i].Clock.Wall
			}
		})(w)
	}},
	{"an equal clock is refused", []string{"update strategy after: an older change never wins"}, func(w *worse) {
		rewriting(func(s *change.Set) {
			s.Upserts = slices.DeleteFunc(s.Upserts, func(u change.Row) bool {
				old := w.table(s.Table).rows[canonicalKey(s.Table, &u)]
				return old != nil && old.clock == u.Clock
			})
		})(w)
	}},
	{"no metadata", []string{"metadata columns"}, rewriting(func(s *change.Set) {
		for i := range s.Upserts {
			s.Upserts[i].Op = 0
		}
	})},
	{"soft deletes are hard", []string{"soft deletes"}, func(w *worse) { w.soft = false }},

	{"a load is seen at once", []string{"a load replaces a table, when it is finished and not before", "an interrupted load goes on where it was"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, err := l.LoadFile(ctx, file, rows)
			for k, row := range l.stage.rows {
				l.s.table(l.t).rows[k] = row
			}
			return n, err
		}
	})},
	{"replace merges", []string{"a load replaces a table, when it is finished and not before", "a load of no files"}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Merge })},
	{"merge replaces", []string{"a load merges into a table", "a load of no files"}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Replace })},
	{"rows before an error stay staged", []string{"of a file that fails nothing is staged", "an interrupted load goes on where it was", "a cancelled load leaves the table alone", "of a file with a row that is refused nothing is staged"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			return l.LoadFile(ctx, file, func(yield func(*change.Row, error) bool) {
				for row, err := range rows {
					if err == nil && refuse(l.t, []change.Row{*row}) == nil {
						l.s.put(l.stage, l.t, row)
					}
					if !yield(row, err) {
						return
					}
				}
			})
		}
	})},
	{"an error of a file is swallowed", []string{"of a file that fails nothing is staged"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, _ := l.LoadFile(ctx, file, rows)
			return n, nil
		}
	})},
	{"loads are forgotten", []string{"an interrupted load goes on where it was"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
			delete(w.m.loads, t.Name)
			return w.memorySink.BeginLoad(ctx, job, t, mode)
		}
	}},
	{"every file counts as loaded", []string{"an interrupted load goes on where it was", "of a file that fails nothing is staged"}, loading(func(_ *memoryLoad, w *worseLoad) { w.loaded = func(string) bool { return true } })},
	{"all jobs are one", []string{"another job starts afresh"}, func(w *worse) {
		w.begin = func(ctx context.Context, _ string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
			return w.memorySink.BeginLoad(ctx, "job", t, mode)
		}
	}},
	{"the first of two rows of a key stays", []string{"of a key that comes twice the last row stays"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			var kept []change.Row
			for row, err := range rows {
				if err != nil {
					return 0, err
				}
				kept = append(kept, *altered(l.t, row, func(_ schema.Column, raw []byte) []byte { return raw }))
			}
			slices.Reverse(kept)
			return l.LoadFile(ctx, file, func(yield func(*change.Row, error) bool) {
				for i := range kept {
					if !yield(&kept[i], nil) {
						return
					}
				}
			})
		}
	})},
	{"finishing takes two steps", []string{"readers see the old rows or the new ones"}, func(w *worse) {
		loading(func(l *memoryLoad, bad *worseLoad) {
			bad.finish = func(ctx context.Context) error {
				staged := l.stage.rows
				l.stage.rows = nil
				if err := l.Finish(ctx); err != nil {
					return err
				}
				for range 1000 { // time to look
					runtime.Gosched()
					_ = slices.Collect(maps.Keys(staged))
				}
				return l.s.m.call(ctx, func() error {
					l.s.table(l.t).rows = staged
					return nil
				})
			}
		})(w)
	}},
	{"discard finishes", []string{"a discarded load leaves the table alone"}, loading(func(l *memoryLoad, w *worseLoad) { w.discarded = l.Finish })},
	{"discard does nothing", []string{"a discarded load leaves the table alone"}, loading(func(_ *memoryLoad, w *worseLoad) { w.discarded = func(context.Context) error { return nil } })},
	{"finishing does nothing", []string{"a load of a large file", "tables load concurrently", "changes go on after a load", "a file is loaded once"}, loading(func(_ *memoryLoad, w *worseLoad) { w.finish = func(context.Context) error { return nil } })},

	{"loaded rows have no version", []string{"loads fill metadata columns"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) error {
			for _, row := range l.stage.rows {
				row.clock = cdc.Timestamp{}
			}
			return l.Finish(ctx)
		}
	})},
	{"an error of finishing is forgotten", []string{"a load converges, wherever it breaks"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) error {
			_ = l.Finish(ctx)
			return nil
		}
	})},

	{"the probe leaves a row", []string{"a probe succeeds and leaves nothing"}, func(w *worse) {
		w.probe = func(context.Context) error {
			for _, t := range w.m.tables {
				t.rows["probe"] = &memoryRow{values: map[string][]byte{"id": []byte(`"probe"`)}}
			}
			return nil
		}
	}},
	{"errors are fatal", []string{"a batch converges, wherever it breaks"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return fault.Mark(fault.Fatal, w.memorySink.Apply(ctx, b))
		}
	}},
	{"a migration that fails is given up", []string{"a migration converges, wherever it breaks"}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			lines, err := w.memorySink.Migrate(ctx, tables)
			return lines, fault.Mark(fault.Fatal, err)
		}
	}},
	{"keys are cut", []string{"keys that can not be kept are refused, or stay apart"}, withKeys(func(s string) string { return s[:min(len(s), 255)] })},
	{"U+0000 in keys is replaced", []string{"keys that can not be kept are refused, or stay apart"}, withKeys(func(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") })},
	{"deadlines are forgotten", []string{"a destination that does not answer is left in time"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return w.memorySink.Apply(context.WithoutCancel(ctx), b)
		}
	}},
	{"an error is forgotten", []string{"a batch converges, wherever it breaks"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			_ = w.memorySink.Apply(ctx, b)
			return nil
		}
	}},
	{"a sink that failed never works again", []string{"a batch converges, wherever it breaks"}, func(w *worse) {
		failed := false
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if failed {
				return errSoon
			}
			err := w.memorySink.Apply(ctx, b)
			failed = err != nil
			return err
		}
	}},
}

// alteredKey returns the row with its key's numbers changed.
func alteredKey(t *schema.Table, row *change.Row, alter func(raw []byte) []byte) *change.Row {
	image, spans := append(slices.Clone(row.Image), ' '), slices.Clone(row.Spans)
	for slot := range t.Keys {
		raw := alter(row.Value(slot))
		spans[slot] = rawjson.Span{Start: uint32(len(image)), End: uint32(len(image) + len(raw))}
		image = append(image, raw...)
	}
	return &change.Row{Image: image, Spans: spans, Op: row.Op, Clock: row.Clock}
}

// TestTheSuiteFindsDefects proves of every check that it can fail.
func TestTheSuiteFindsDefects(t *testing.T) {
	for _, d := range rowDefects {
		t.Run(d.name, func(t *testing.T) {
			c := memories(func(s *memorySink) sink.Sink {
				w := &worse{memorySink: s}
				d.with(w)
				return w
			})
			c.Patience = 3 * time.Second // what hangs here hangs on purpose
			for _, name := range d.checks {
				mustFail(t, c, name)
			}
		})
	}
}
