package sinktest

import (
	"bytes"
	"context"
	"errors"
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

var errSoon = errors.New("come back later")

// rowDefect is a defect of a sink that keeps rows, with the checks that must find it.
type rowDefect struct {
	name   string
	checks []string
	with   func(w *worse)
}

var rowDefects = []rowDefect{
	{"an upsert is lost", []string{
		"inserts, updates and deletes", "many rows and tables in one batch",
		"any history, any batches, any replay",
	}, rewriting(func(s *change.RowSet) { s.Upserts = s.Upserts[:len(s.Upserts)*4/5] })},
	{"deletes are ignored", []string{
		"inserts, updates and deletes", "composite keys", "keys that move",
		"any history, any batches, any replay",
	}, rewriting(func(s *change.RowSet) { s.Deletes = nil })},
	{
		"the last delete is ignored",
		[]string{"any history, any batches, any replay"},
		rewriting(func(s *change.RowSet) { s.Deletes = s.Deletes[:max(0, len(s.Deletes)-1)] }),
	},
	{"keys fold case", []string{"keys that differ by case, accents and spaces"}, withKeys(strings.ToLower)},
	{
		"keys lose trailing blanks",
		[]string{"keys that differ by case, accents and spaces"},
		withKeys(func(s string) string { return strings.TrimRight(s, " ") }),
	},
	{
		"rows keep their old values",
		[]string{"a row deleted and inserted again starts empty", "any history, any batches, any replay"},
		rewriting(func(s *change.RowSet) {
			s.Deletes = slices.DeleteFunc(s.Deletes, func(d change.Row) bool {
				return slices.ContainsFunc(s.Upserts,
					func(u change.Row) bool { return canonicalKey(s.Table, &u) == canonicalKey(s.Table, &d) })
			})
		}),
	},
	{
		"columns of other layouts are forgotten",
		[]string{"two layouts of a table", "a row deleted and inserted again starts empty"},
		rewriting(func(s *change.RowSet) { s.Deletes = append(s.Deletes, s.Upserts...) }),
	},
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
	{
		"the first of two members of a name counts",
		[]string{"events that contradict themselves"},
		reading(func(_ schema.Column, raw []byte) []byte {
			return bytes.Replace(raw, []byte(`"last"`), []byte(`"first"`), 1)
		}),
	},
	{"changes after a refusal are skipped", []string{"the rest of a batch applies once its poison event is removed"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			if fault.Of(err) == fault.Poison {
				w.m.checkpoints[w.checkpointKey()] = b.Last
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
	{
		"the checkpoint moves, the batch does not",
		[]string{"inserts, updates and deletes", "any history, any batches, any replay"},
		rewriting(func(s *change.RowSet) { s.Upserts, s.Deletes = nil, nil }),
	},
	{"filters of other consumers are not reported", []string{"the filters of checkpoints"}, func(w *worse) {
		w.filters = func(context.Context) ([]string, error) { return nil, nil }
	}},
	{"checkpoints are shared", []string{"each consumer and filter has a checkpoint of its own"}, func(w *worse) { w.env.Filter = "" }},
	{"a checkpoint without a consumer", []string{"no consumer, no checkpoint"}, func(w *worse) {
		if w.env.Consumer == "" {
			w.env.Consumer = "eds-conformance"
		}
	}},
	{"a covered batch is applied again", []string{"a batch that the checkpoint covers changes nothing"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			was := w.m.checkpoints[w.checkpointKey()]
			delete(w.m.checkpoints, w.checkpointKey())
			err := w.memorySink.Apply(ctx, b)
			if w.m.checkpoints == nil {
				w.m.checkpoints = make(map[[3]string]cdc.Position)
			}
			w.m.checkpoints[w.checkpointKey()] = was.Advance(b.Last)
			return err
		}
	}},
	{"only the sequence counts", []string{"a recreated stream is not covered"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if b.Last.Sequence <= w.m.checkpoints[w.checkpointKey()].Sequence {
				return nil
			}
			return w.memorySink.Apply(ctx, b)
		}
	}},
	{"a cancelled call is fatal", []string{"a cancelled call is transient"}, func(w *worse) {
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
	{"a sink changes its own tables", []string{"a reopened sink leaves its own tables alone"}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			lines, err := w.memorySink.Migrate(ctx, tables)
			w.env.Logger.Info("migrated", "step", "widened a column")
			return lines, err
		}
	}},
	{"migrations empty the table", []string{
		"new columns and new tables", "columns become wider and keep their values",
		"a table that another tool made",
	}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			for _, t := range tables {
				delete(w.m.tables, t.Name)
			}
			return w.memorySink.Migrate(ctx, tables)
		}
	}},
	{"wide integers are rounded", []string{
		"columns become wider and keep their values", "every value survives, or is refused by name",
		"columns that become narrower stay as they are", "integer keys",
	}, func(w *worse) {
		round := func(raw []byte) []byte {
			if f, err := strconv.ParseFloat(string(raw), 64); err == nil {
				return strconv.AppendFloat(nil, f, 'f', -1, 64)
			}
			return raw
		}
		reading(func(_ schema.Column, raw []byte) []byte { return round(raw) })(w)
		rewriting(func(s *change.RowSet) {
			for i := range s.Upserts {
				s.Upserts[i] = *alteredKey(s.Table, &s.Upserts[i], round)
			}
		})(w)
	}},
	{
		"columns that left are emptied",
		[]string{"columns that left the schema keep their values"},
		reading(func(c schema.Column, raw []byte) []byte {
			if c.Name == "gone" {
				return nil
			}
			return raw
		}),
	},
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

	{"its own tables are written", []string{"names that are the sink's own"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			if err := w.memorySink.Apply(ctx, b); !errors.Is(err, schema.ErrReserved) {
				return err
			}
			return nil
		}
	}},
	{"an empty string is null", []string{
		"inserts, updates and deletes", "every value survives, or is refused by name",
		"every value survives an import, or is refused by name",
	}, reading(func(_ schema.Column, raw []byte) []byte {
		if string(raw) == `""` {
			return nil
		}
		return raw
	})},
	{
		"null is an empty string",
		[]string{"inserts, updates and deletes", "all types in one row"},
		reading(func(_ schema.Column, raw []byte) []byte {
			if rawjson.IsNull(raw) {
				return []byte(`""`)
			}
			return raw
		}),
	},
	{
		"dates lose microseconds",
		[]string{"every value survives, or is refused by name", "wide tables"},
		reading(func(c schema.Column, raw []byte) []byte {
			if c.Type != schema.DateTime || len(raw) < 21 {
				return raw
			}
			return append(slices.Clone(raw[:20]), `Z"`...)
		}),
	},
	{
		"text that looks like a date is one",
		[]string{"every value survives, or is refused by name"},
		reading(func(c schema.Column, raw []byte) []byte {
			if c.Type == schema.String && string(raw) == `"2026-01-02"` {
				return []byte(`"2026-01-02T00:00:00Z"`)
			}
			return raw
		}),
	},
	{
		"text is cut",
		[]string{"every value survives, or is refused by name", "values of ten megabytes"},
		reading(func(_ schema.Column, raw []byte) []byte {
			if rawjson.IsString(raw) && len(raw) > 70_000 {
				return append(slices.Clone(raw[:60_000]), '"')
			}
			return raw
		}),
	},
	{
		"U+0000 is dropped silently",
		[]string{"every value survives, or is refused by name"},
		reading(func(_ schema.Column, raw []byte) []byte { return bytes.ReplaceAll(raw, []byte(`\u0000`), nil) }),
	},
	{
		"U+0000 is replaced silently",
		[]string{"every value survives, or is refused by name"},
		reading(func(_ schema.Column, raw []byte) []byte {
			return bytes.ReplaceAll(raw, []byte(`\u0000`), []byte(`\ufffd`))
		}),
	},
	{
		"a scalar becomes an object",
		[]string{"every value survives, or is refused by name"},
		reading(func(c schema.Column, raw []byte) []byte {
			if c.Type.IsJSON() && raw[0] != '{' && raw[0] != '[' {
				return []byte(`{}`)
			}
			return raw
		}),
	},
	{
		"JSON is stored as a string of JSON",
		[]string{"all types in one row", "every value survives, or is refused by name"},
		reading(func(c schema.Column, raw []byte) []byte {
			if c.Type.IsJSON() && !rawjson.IsNull(raw) {
				return rawjson.AppendQuoted(nil, raw)
			}
			return raw
		}),
	},
	{"a refusal contains the value", []string{"every value survives, or is refused by name"}, func(w *worse) {
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
	{"a refused row is there", []string{
		"every value survives, or is refused by name",
		"a batch with a poison event applies nothing",
	}, func(w *worse) {
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
	{"a refused batch moves the checkpoint", []string{"a batch with a poison event applies nothing"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.memorySink.Apply(ctx, b)
			if err != nil {
				w.m.checkpoints[w.checkpointKey()] = b.Last
			}
			return err
		}
	}},

	{
		"older changes win",
		[]string{"update strategy after: an older change never wins", "metadata columns keep older changes out"},
		func(w *worse) { w.env.After, w.metadata = false, false },
	},
	{"clocks are compared as text", []string{"update strategy after: an older change never wins"}, func(w *worse) {
		rewriting(func(s *change.RowSet) {
			for i := range s.Upserts {
				s.Upserts[i].Clock.Wall = -s.Upserts[i].Clock.Wall
			}
		})(w)
	}},
	{"an equal clock is refused", []string{"update strategy after: an older change never wins"}, func(w *worse) {
		rewriting(func(s *change.RowSet) {
			s.Upserts = slices.DeleteFunc(s.Upserts, func(u change.Row) bool {
				old := w.table(s.Table).rows[canonicalKey(s.Table, &u)]
				return old != nil && old.clock == u.Clock
			})
		})(w)
	}},
	{"no metadata", []string{"metadata columns"}, rewriting(func(s *change.RowSet) {
		for i := range s.Upserts {
			s.Upserts[i].Op = 0
		}
	})},
	{"soft deletes are hard", []string{"soft deletes"}, func(w *worse) { w.soft = false }},

	{"the probe leaves a row", []string{"a probe succeeds and leaves nothing"}, func(w *worse) {
		w.probe = func(context.Context) error {
			for _, t := range w.m.tables {
				t.rows["probe"] = &memoryRow{values: map[string][]byte{"id": []byte(`"probe"`)}}
			}
			return nil
		}
	}},
	{"probing makes the table", []string{"opening, probing and reading make nothing"}, func(w *worse) {
		w.probe = func(ctx context.Context) error {
			t, err := schema.New("probe", "1", []string{"id"}, []schema.Column{{Name: "id", Type: schema.String}})
			if err == nil {
				_, err = w.memorySink.Migrate(ctx, []*schema.Table{t})
			}
			return err
		}
	}},
	{"reading makes the table", []string{"opening, probing and reading make nothing"}, func(w *worse) {
		w.missing = func(t *schema.Table) error {
			_, err := w.memorySink.Migrate(context.Background(), []*schema.Table{t})
			return err
		}
	}},
	{"errors are fatal", []string{"a batch survives a fault at any step"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return fault.Mark(fault.Fatal, w.memorySink.Apply(ctx, b))
		}
	}},
	{"a migration that fails is given up", []string{"a migration survives a fault at any step"}, func(w *worse) {
		w.migrate = func(ctx context.Context, tables []*schema.Table) ([]string, error) {
			lines, err := w.memorySink.Migrate(ctx, tables)
			return lines, fault.Mark(fault.Fatal, err)
		}
	}},
	{
		"keys are cut",
		[]string{"keys that the destination cannot keep are refused or stay apart"},
		withKeys(func(s string) string { return s[:min(len(s), 255)] }),
	},
	{
		"U+0000 in keys is replaced",
		[]string{"keys that the destination cannot keep are refused or stay apart"},
		withKeys(func(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }),
	},
	{"deadlines are forgotten", []string{"a call to a silent destination ends in time"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			return w.memorySink.Apply(context.WithoutCancel(ctx), b)
		}
	}},
	{"an error is forgotten", []string{"a batch survives a fault at any step"}, func(w *worse) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			_ = w.memorySink.Apply(ctx, b)
			return nil
		}
	}},
	{"a sink that failed never works again", []string{"a batch survives a fault at any step"}, func(w *worse) {
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

// TestRun_FindsDefects proves that every check of rows fails for a sink with a defect.
func TestRun_FindsDefects(t *testing.T) {
	for _, d := range slices.Concat(rowDefects, loadDefects) {
		t.Run(d.name, func(t *testing.T) {
			c := memories(func(s *memorySink) sink.Sink {
				w := &worse{memorySink: s}
				d.with(w)
				return w
			})
			c.Patience = 3 * time.Second // defects that hang do so on purpose
			for _, name := range d.checks {
				mustFail(t, c, name)
			}
		})
	}
}
