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

// Table returns version v1 of a table. Each column has the form "name type"; the type is the name
// of a schema type. The parameter keys is the number of columns in the primary key, which are
// listed first.
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

// Changes builds batches of row images, for destinations that keep rows. The positions and clocks
// of the changes count up from Clock.
type Changes struct {
	Clock int64 // sequence of the latest change, and its clock in nanoseconds

	t       testing.TB
	builder change.Builder
}

// NewChanges returns Changes whose first change has the sequence and clock after+1.
func NewChanges(t testing.TB, after int64) *Changes { return &Changes{t: t, Clock: after} }

// Event adds a change. The parameter image is the row after the change, or the deleted row.
func (c *Changes) Event(op cdc.Op, t *schema.Table, image string) *Changes {
	c.t.Helper()
	return c.EventAt(cdc.Timestamp{Wall: c.Clock + 1}, op, t, image)
}

// EventAt is like Event, with the given clock for the change.
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

// Put adds one update per image. An update inserts a missing row.
func (c *Changes) Put(t *schema.Table, images ...string) *Changes {
	c.t.Helper()
	for _, image := range images {
		c.Event(cdc.Update, t, image)
	}
	return c
}

// Delete adds a delete for the key of each image.
func (c *Changes) Delete(t *schema.Table, images ...string) *Changes {
	c.t.Helper()
	for _, image := range images {
		c.Event(cdc.Delete, t, image)
	}
	return c
}

// Batch returns the changes that were added since the last call of Batch.
func (c *Changes) Batch() *change.Batch { return c.builder.Batch() }

// Repeat returns n texts, each made from format. In the text with index i, each # is replaced with
// i as three digits.
func Repeat(n int, format string) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = strings.ReplaceAll(format, "#", fmt.Sprintf("%03d", i))
	}
	return texts
}

// Rows returns the rows of a table as sorted lines. A line has name=raw for each column of its
// row that has a value.
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

// Equal reports a test error with a diff if want and got differ.
func Equal(t testing.TB, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Open opens a destination. The sink is closed at the end of the test.
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

// Event returns the nth event of a stream, decoded from payload.
func Event(t testing.TB, n int, payload string) *cdc.Event {
	t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: int64(n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// Numbered returns the nth event of a stream that updates three rows in turn.
func Numbered(t testing.TB, n int) *cdc.Event {
	t.Helper()
	return Event(t, n, fmt.Sprintf(`{"operation":"UPDATE","id":"ev%d","table":"order","key":["k%d"],"companyId":"c",`+
		`"after":{"id":"k%d","n":%d},"timestamp":%d,"mvccTimestamp":"%d"}`,
		n, n%3, n%3, n, 1700000000000+n, 1700000000000000000+n))
}

// Batch returns a batch of events, for destinations that keep history.
func Batch(events ...*cdc.Event) *change.Batch {
	var b change.Builder
	for _, e := range events {
		b.Add(e, change.Effect{})
	}
	return b.Batch()
}

// NumberedBatch returns a batch of the events that Numbered returns for the numbers first to
// last.
func NumberedBatch(t testing.TB, first, last int) *change.Batch {
	t.Helper()
	var events []*cdc.Event
	for n := first; n <= last; n++ {
		events = append(events, Numbered(t, n))
	}
	return Batch(events...)
}

// LoseStageSQL returns the SQL statement for Config.LoseStage, for a database that quotes
// identifiers with the given quote character.
func LoseStageSQL(quote, job, table, id string) string {
	stage := quote + sqlsink.StageName(job, table) + quote
	if id == "" {
		return "DROP TABLE " + stage
	}
	return "DELETE FROM " + stage + " WHERE " + quote + "id" + quote + " = '" + id + "'"
}

// Apply applies a batch, and ends the test if Apply of the sink fails.
func Apply(t testing.TB, s sink.Sink, b *change.Batch) {
	t.Helper()
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// ApplyWithin applies a batch, and retries transient errors as the pipeline does. It makes at
// most the given number of attempts.
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

// WideEvents returns count events for a benchmark. The events are updates that cycle through the
// given number of rows of one table. Each column has a value of about 70 bytes. As in the
// pipeline, a single decoder decodes the events into contiguous memory.
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
