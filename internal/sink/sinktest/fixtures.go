package sinktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Table makes version v1 of a table. Columns read "name type", with the types of schemas; the first
// keys of them are the key.
func Table(t testing.TB, name string, keys int, columns ...string) *schema.Table {
	t.Helper()
	types := map[string]schema.Type{
		"string": schema.String, "enum": schema.Enum, "date-time": schema.DateTime, "integer": schema.Integer,
		"number": schema.Number, "boolean": schema.Boolean, "object": schema.Object, "array": schema.Array,
	}
	var key []string
	var cs []schema.Column
	for i, c := range columns {
		at := strings.LastIndexByte(c, ' ')
		column, kind := c[:at], types[c[at+1:]]
		if kind == 0 {
			t.Fatalf("unknown type in %q", c)
		}
		cs = append(cs, schema.Column{Name: column, Type: kind})
		if i < keys {
			key = append(key, column)
		}
	}
	made, err := schema.New(name, "v1", key, cs)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Changes makes batches of row images, for destinations that hold rows. Positions
// and clocks count up from Clock.
type Changes struct {
	Clock int64 // of the change before, as its position and the nanoseconds of its clock

	t       testing.TB
	builder change.Builder
}

// NewChanges returns Changes that continue after a clock.
func NewChanges(t testing.TB, after int64) *Changes { return &Changes{t: t, Clock: after} }

// Event adds a change of the row that image is.
func (c *Changes) Event(op cdc.Op, t *schema.Table, image string) *Changes {
	c.t.Helper()
	return c.EventAt(cdc.Timestamp{Wall: c.Clock + 1}, op, t, image)
}

// EventAt adds a change with a clock of its own.
func (c *Changes) EventAt(clock cdc.Timestamp, op cdc.Op, t *schema.Table, image string) *Changes {
	c.t.Helper()
	c.Clock++
	e := &cdc.Event{
		Position: cdc.Position{Sequence: uint64(c.Clock), Stored: c.Clock}, Op: op, Table: t.Name, Clock: clock,
		Payload: []byte(image),
	}
	if op == cdc.Delete {
		e.Before = []byte(image)
	} else {
		e.After = []byte(image)
	}
	effect, err := change.NewSplitter(t).Effect(e)
	if err != nil {
		c.t.Fatal(err)
	}
	c.builder.Add(e, effect)
	return c
}

// Put adds updates, which insert missing rows.
func (c *Changes) Put(t *schema.Table, images ...string) *Changes {
	c.t.Helper()
	for _, image := range images {
		c.Event(cdc.Update, t, image)
	}
	return c
}

// Delete adds deletes of the rows with the keys of images.
func (c *Changes) Delete(t *schema.Table, images ...string) *Changes {
	c.t.Helper()
	for _, image := range images {
		c.Event(cdc.Delete, t, image)
	}
	return c
}

// Batch returns the changes since the last batch.
func (c *Changes) Batch() *change.Batch { return c.builder.Batch() }

// Repeat returns n texts, with # replaced by their number in three digits.
func Repeat(n int, format string) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = strings.ReplaceAll(format, "#", fmt.Sprintf("%03d", i))
	}
	return texts
}

// Rows reads a table: one line per row, sorted, with name=raw for each column that has a value.
func Rows(t testing.TB, s sink.Reader, table *schema.Table) []string {
	t.Helper()
	var lines []string
	for row, err := range s.Read(t.Context(), table) {
		if err != nil {
			t.Fatal(err)
		}
		var values []string
		for slot, c := range table.Columns {
			if v := row.Value(slot); v != nil {
				values = append(values, c.Name+"="+string(v))
			}
		}
		lines = append(lines, strings.Join(values, " "))
	}
	slices.Sort(lines)
	return lines
}

// Equal compares lines.
func Equal(t testing.TB, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Open opens a destination, and closes it at the end of the test.
func Open(t testing.TB, d sink.Driver, raw string, env sink.Env) (sink.Sink, error) {
	t.Helper()
	target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), target, env)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, nil
}

// Event makes the nth event of a stream of its payload.
func Event(t testing.TB, n int, payload string) *cdc.Event {
	t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: int64(n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// Numbered makes the nth event of a stream over three rows.
func Numbered(t testing.TB, n int) *cdc.Event {
	t.Helper()
	return Event(t, n, fmt.Sprintf(`{"operation":"UPDATE","id":"ev%d","table":"order","key":["k%d"],"companyId":"c",`+
		`"after":{"id":"k%d","n":%d},"timestamp":%d,"mvccTimestamp":"%d"}`,
		n, n%3, n%3, n, 1700000000000+n, 1700000000000000000+n))
}

// Batch makes a batch of events, for destinations that keep history.
func Batch(events ...*cdc.Event) *change.Batch {
	var b change.Builder
	for _, e := range events {
		b.Add(e, change.Effect{})
	}
	return b.Batch()
}

// NumberedBatch makes a batch of the numbered events from first to last.
func NumberedBatch(t testing.TB, first, last int) *change.Batch {
	t.Helper()
	var events []*cdc.Event
	for n := first; n <= last; n++ {
		events = append(events, Numbered(t, n))
	}
	return Batch(events...)
}

// LoseStageSQL returns the statement for Config.LoseStage in a database that quotes identifiers
// with quote.
func LoseStageSQL(quote, job, table, id string) string {
	stage := quote + sqlsink.StageName(job, table) + quote
	if id == "" {
		return "DROP TABLE " + stage
	}
	return "DELETE FROM " + stage + " WHERE " + quote + "id" + quote + " = '" + id + "'"
}

// Apply applies a batch. The test ends if that fails.
func Apply(t testing.TB, s sink.Sink, b *change.Batch) {
	t.Helper()
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// ApplyWithin tries a batch as the pipeline does, at most attempts times.
func ApplyWithin(t testing.TB, attempts int, s sink.Sink, b *change.Batch) {
	t.Helper()
	var err error
	for range attempts {
		if err = s.Apply(t.Context(), b); err == nil {
			return
		}
		if fault.Of(err) != fault.Transient {
			break
		}
	}
	t.Fatalf("the batch is not applied: %v (%v)", err, fault.Of(err))
}

// WideEvents makes count events for a benchmark: updates that cycle through the rows of one table,
// whose columns hold about 70 bytes each. As in the pipeline, one decoder decodes them into
// contiguous memory.
func WideEvents(t testing.TB, count, rows, columns int) []*cdc.Event {
	t.Helper()
	const run = 256
	decoder := cdc.NewDecoder()
	var events []*cdc.Event
	var memory []cdc.Event
	for n := 1; n <= count; n++ {
		if len(memory) == 0 {
			memory = make([]cdc.Event, run)
		}
		e := &memory[0]
		memory = memory[1:]
		e.Position = cdc.Position{Sequence: uint64(n), Stored: int64(n)}
		var row strings.Builder
		for c := range columns {
			fmt.Fprintf(&row, `,"column%02d":"a value of this column, %08d %s"`, c, n*7919+c, "0123456789abcdef")
		}
		payload := fmt.Sprintf(`{"operation":"UPDATE","id":"%024d","table":"order","key":["%036d"],"companyId":"c",`+
			`"after":{"id":"%036d"%s},"timestamp":1700000000000,"mvccTimestamp":"%d"}`,
			n, n%rows, n%rows, row.String(), 1_700_000_000_000_000_000+n)
		if err := decoder.Decode(e, []byte(payload), ""); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}
