package mysql_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestMain(m *testing.M) { sinktest.Main(m) }

// destination is a sink over a database of its own.
type destination struct {
	*sqlsink.Sink
	t        testing.TB
	url      string
	db       *testpeers.MySQL
	adjusted map[string]int // rule -> times
	log      *bytes.Buffer
}

// open opens a sink on a new database; options go to its URL.
func open(t testing.TB, options ...string) *destination {
	t.Helper()
	return openURL(t, testpeers.MariaDB(t), sink.Env{}, options...)
}

func openURL(t testing.TB, raw string, env sink.Env, options ...string) *destination {
	t.Helper()
	d := &destination{t: t, url: raw, adjusted: make(map[string]int), log: new(bytes.Buffer)}
	env.Logger = slog.New(slog.NewTextHandler(d.log, nil))
	env.Adjusted = func(table, column, rule string) { d.adjusted[rule]++ }
	if len(options) > 0 {
		raw += "?" + strings.Join(options, "&")
	}
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := mysql.Driver().Open(t.Context(), target, env)
	if err != nil {
		t.Fatal(err)
	}
	d.Sink = opened.(*sqlsink.Sink)
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// beside is a session beside the sink's, and kept.
func (d *destination) beside() *testpeers.MySQL {
	d.t.Helper()
	if d.db == nil {
		d.db = beside(d.t, d.url)
	}
	return d.db
}

func (d *destination) exec(sql string) {
	d.t.Helper()
	d.beside().Run(d.t, sql)
}

// query returns the rows of an answer, values joined by |.
func (d *destination) query(sql string) []string {
	d.t.Helper()
	return d.beside().Lines(d.t, sql)
}

// rows reads a table back: name=raw of the columns that have a value, sorted.
func (d *destination) rows(t *schema.Table) []string {
	d.t.Helper()
	var lines []string
	for row, err := range d.Read(d.t.Context(), t) {
		if err != nil {
			d.t.Fatal(err)
		}
		var values []string
		for slot, c := range t.Columns {
			if v := row.Value(slot); v != nil {
				values = append(values, c.Name+"="+string(v))
			}
		}
		lines = append(lines, strings.Join(values, " "))
	}
	slices.Sort(lines)
	return lines
}

// table makes a schema: columns are "name type", the first keys of them the key.
func table(t testing.TB, name string, keys int, columns ...string) *schema.Table {
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

// history forms batches of row images; its positions and clocks count up.
type history struct {
	t       testing.TB
	clock   int64
	builder change.Builder
}

func (h *history) event(op cdc.Op, t *schema.Table, image string) *history {
	h.t.Helper()
	h.clock++
	return h.eventAt(cdc.Timestamp{Wall: h.clock}, op, t, image)
}

func (h *history) eventAt(clock cdc.Timestamp, op cdc.Op, t *schema.Table, image string) *history {
	h.t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(h.clock), Stored: h.clock}, Op: op, Table: t.Name, Clock: clock, Payload: []byte(image)}
	if op == cdc.Delete {
		e.Before = []byte(image)
	} else {
		e.After = []byte(image)
	}
	effect, err := change.NewSplitter(t).Effect(e)
	if err != nil {
		h.t.Fatal(err)
	}
	h.builder.Add(e, effect)
	return h
}

func (h *history) put(t *schema.Table, images ...string) *history {
	h.t.Helper()
	for _, image := range images {
		h.event(cdc.Update, t, image)
	}
	return h
}

func (h *history) del(t *schema.Table, images ...string) *history {
	h.t.Helper()
	for _, image := range images {
		h.event(cdc.Delete, t, image)
	}
	return h
}

func (h *history) batch() *change.Batch { return h.builder.Batch() }

func (d *destination) apply(b *change.Batch) {
	d.t.Helper()
	if err := d.Apply(d.t.Context(), b); err != nil {
		d.t.Fatal(err)
	}
}

func equal(t testing.TB, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func (d *destination) adjustments(want map[string]int) {
	d.t.Helper()
	if diff := cmp.Diff(want, maps.Clone(d.adjusted)); diff != "" {
		d.t.Errorf("adjusted (-want +got)\n%s", diff)
	}
}

func TestBatchesOfAnySizeMakeTheSameRows(t *testing.T) {
	for _, width := range []int{2, 40} {
		for _, infile := range []string{"auto", "false"} {
			for _, size := range []int{1, 10, 63, 64, 500, 3000} {
				t.Run(fmt.Sprintf("columns=%d,rows=%d,infile=%s", width, size, infile), func(t *testing.T) {
					d := open(t, "local_infile="+infile)
					columns := []string{"id string"}
					for i := range width - 1 {
						columns = append(columns, fmt.Sprintf("c%02d string", i))
					}
					order := table(t, "order", 1, columns...)
					h := &history{t: t}
					row := func(i int, value string) string {
						var b strings.Builder
						fmt.Fprintf(&b, `{"id":"row%05d"`, i)
						for c := range width - 1 {
							fmt.Fprintf(&b, `,"c%02d":"%s %d"`, c, value, c)
						}
						return b.String() + "}"
					}
					for i := range size {
						h.put(order, row(i, "first"))
					}
					d.apply(h.batch())
					var want []string
					for i := range size {
						switch i % 5 {
						case 0:
							h.del(order, row(i, "first"))
							continue
						case 1:
							h.del(order, row(i, "first")).put(order, row(i, "again"))
							want = append(want, fmt.Sprintf("row%05d|again 0", i))
						case 2:
							want = append(want, fmt.Sprintf("row%05d|first 0", i))
						default:
							h.put(order, row(i, "second"))
							want = append(want, fmt.Sprintf("row%05d|second 0", i))
						}
					}
					d.apply(h.batch())
					equal(t, want, d.query("SELECT id, c00 FROM `order` ORDER BY id"))
				})
			}
		}
	}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

func quoted(name string) string { return string(rawjson.AppendQuoted(nil, name)) }
