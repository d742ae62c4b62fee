package sinktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var migrationChecks = []property{
	{"a migration that is done is not done again", keepsTables, checkMigrateTwice},
	{"a reopened sink leaves its own tables alone", keepsTables, checkOpenedAgain},
	{"new columns and new tables", keepsTables, checkNewColumns},
	{"columns become wider and keep their values", keepsTables, checkWidenedColumns},
	{"columns that become narrower stay as they are", keepsTables, checkNarrowedColumns},
	{"columns that left the schema keep their values", keepsTables, checkLeftColumns},
	{"wide tables", keepsTables, checkWideTable},
	{"a table that another tool made", func(c features) bool { return c.rows && c.migrates && c.foreign }, checkForeignTable},
	{"names that a database might trip over", keepsRows, checkNames},
	{"names that are the sink's own", keepsRows, checkReservedNames},
}

func keepsTables(c features) bool { return c.rows && c.migrates }

func checkMigrateTwice(h *harness) {
	v1, other := customers(h), newTable(h, "other", "1", 1, column("id", schema.String))
	v2 := newTable(h, "customer", "2", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Number),
		column("email", schema.String))
	s := h.open()
	if lines := h.migrate(s, v1); len(lines) == 0 {
		h.Error("a new table was not reported")
	}
	if lines := h.migrate(s, v1, v2, other); len(lines) < 2 {
		h.Errorf("a new column and a new table were reported as %q", lines)
	}
	for _, s := range []sink.Sink{s, h.open()} {
		lines, err := s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{v1, v2, other})
		if err != nil || len(lines) > 0 {
			h.Errorf("the second time: %q, %v", lines, err)
		}
	}
}

// samples has one value of each type that a key column might have.
var samples = map[schema.Type]string{
	schema.String: `"text"`, schema.Enum: `"open"`, schema.DateTime: `"2026-01-02T03:04:05.123456Z"`, schema.Integer: `-42`,
	schema.Number: `0.25`, schema.Boolean: `true`, schema.Object: `{"a":[1]}`, schema.Array: `[{"b":null}]`,
}

// checkOpenedAgain creates tables with keys of one to four columns of each type, and opens the
// destination again. The second sink must change nothing and log no warning.
func checkOpenedAgain(h *harness) {
	urls := []string{h.url}
	can := featuresOf(h.outer, h.config)
	if can.metadata {
		urls = append(urls, h.option("metadata=true"))
	}
	if can.softDelete {
		urls = append(urls, h.option("delete=soft"))
	}
	for i, url := range urls {
		for _, after := range []bool{false, true} {
			h.openedAgain(fmt.Sprintf("t%d%v", i, after), url, after)
		}
	}
}

func (h *harness) openedAgain(prefix, url string, after bool) {
	h.Helper()
	var tables []*schema.Table
	var steps []func() textChange
	for kind := schema.String; kind <= schema.Array; kind++ {
		for keys := 1; keys <= 4; keys++ {
			t, row := keyedTable(h, fmt.Sprintf("%s_%v_%d", prefix, kind, keys), kind, keys)
			tables = append(tables, t)
			steps = append(steps, func() textChange { return h.update(t, row) })
		}
	}
	work := func(s sink.Sink, job string) []string {
		h.Helper()
		lines := h.migrate(s, tables...)
		var batch []textChange
		for _, make := range steps {
			batch = append(batch, make())
		}
		h.apply(s, batch...)
		h.end(h.begin(s, job, tables[0], sink.Merge), true)
		return lines
	}
	changed := func(env *sink.Env) { env.After = after }
	log := &changes{}
	open := func() sink.Sink {
		h.Helper()
		return h.openURL(url, changed, func(env *sink.Env) { env.Logger = slog.New(log) })
	}
	s := open()
	setUp := log.take() // changes that the empty destination needs
	work(s, "first")
	log.take()
	s = open()
	lines := work(s, "second")
	lines = append(lines, slices.DeleteFunc(log.take(), func(said string) bool { return slices.Contains(setUp, said) })...)
	if len(lines) > 0 {
		h.Errorf("opened again as %s, after %v, %d times, as in %q", url, after, len(lines), lines[:min(len(lines), 3)])
	}
	for _, t := range tables {
		h.expect(s, t)
	}
}

// keyedTable returns a table whose key has the given number of columns of one type, and a row of
// the table.
func keyedTable(h *harness, name string, kind schema.Type, keys int) (*schema.Table, string) {
	var columns []schema.Column
	row := "{"
	for i := range keys {
		c := column(fmt.Sprintf("k%d", i), kind)
		columns = append(columns, c)
		row += fmt.Sprintf("%q:%s,", c.Name, samples[kind])
	}
	for other := schema.String; other <= schema.Array; other++ {
		c := column(fmt.Sprintf("v%d", other), other)
		columns = append(columns, c)
		row += fmt.Sprintf("%q:%s,", c.Name, samples[other])
	}
	return newTable(h, name, "1", keys, columns...), strings.TrimSuffix(row, ",") + "}"
}

// changes is a log handler that collects a sink's changes and warnings.
type changes struct {
	mu   sync.Mutex
	said []string
}

func (c *changes) Enabled(context.Context, slog.Level) bool { return true }
func (c *changes) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *changes) WithGroup(string) slog.Handler            { return c }

func (c *changes) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn && r.Message != "migrated" {
		return nil
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, text)
	return nil
}

// take returns the lines that were logged since the last call of take.
func (c *changes) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := c.said
	c.said = nil
	return said
}

func checkNewColumns(h *harness) {
	v1 := customers(h)
	s := h.open()
	h.migrate(s, v1)
	h.apply(s, h.insert(v1, `{"id":"1","name":"one","visits":1}`))
	v2 := newTable(h, "customer", "2", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Integer),
		column("born", schema.DateTime), column("vip", schema.Boolean), column("tags", schema.Array), column("rate", schema.Number),
		schema.Column{Name: "must", Type: schema.String, Required: true})
	fresh := newTable(h, "vehicle", "1", 1, column("id", schema.String), column("vin", schema.String))
	h.migrate(s, v2, fresh)
	h.expect(s, v2)
	h.apply(s,
		h.insert(v2, `{"id":"2","name":"two","born":"1999-12-31T23:59:59Z","vip":false,"tags":["a"],"rate":0.5,"must":"x"}`),
		h.insert(fresh, `{"id":"v1","vin":"abc"}`),
		h.update(v1, `{"id":"1","name":"under the old layout","visits":2}`),
	)
	h.expect(s, v2)
	h.expect(s, fresh)
}

func checkWidenedColumns(h *harness) {
	s := h.open()
	kinds := []schema.Type{schema.Integer, schema.Number, schema.String}
	values := [][]string{
		{`0`, `-5`, `9007199254740993`, `9223372036854775807`, `-9223372036854775808`},
		{`1.5`, `0.1`, `-2.25`, `123456789012.5`}, // every destination writes these the same as text
		{`"text"`, `""`, `"9007199254740993.5"`},
	}
	var t *schema.Table
	for i, kind := range kinds {
		// Two columns become strings; one of them was never a number.
		direct := kind
		if direct == schema.Number {
			direct = schema.Integer
		}
		t = newTable(h, "reading", fmt.Sprint(i), 1, column("id", schema.String), column("value", kind), column("direct", direct))
		h.migrate(s, t)
		for k, v := range values[i] {
			row := fmt.Sprintf(`{"id":"%d-%d","value":%s}`, i, k, v)
			if kind == direct {
				row = fmt.Sprintf(`{"id":"%d-%d","value":%s,"direct":%s}`, i, k, v, v)
			}
			h.apply(s, h.insert(t, row))
		}
		h.expect(s, t)
	}
	h.expect(h.open(), t)
}

func checkNarrowedColumns(h *harness) {
	s := h.open()
	was := newTable(h, "reading", "1", 1, column("id", schema.String), column("value", schema.String), column("object", schema.Object))
	is := newTable(h, "reading", "2", 1, column("id", schema.String), column("value", schema.Integer), column("object", schema.Object))
	h.migrate(s, was)
	h.apply(s, h.insert(was, `{"id":"1","value":"text","object":{"a":1}}`))
	h.migrate(s, is)
	h.apply(s, h.insert(is, `{"id":"2","value":9007199254740993,"object":{}}`))
	h.expect(s, was)
	h.expect(s, is)
}

func checkLeftColumns(h *harness) {
	required := func(name string, kind schema.Type) schema.Column {
		return schema.Column{Name: name, Type: kind, Required: true}
	}
	was := newTable(h, "reading", "1", 1, column("id", schema.String), required("gone", schema.Integer),
		required("soft", schema.String), column("stays", schema.String))
	is := newTable(h, "reading", "2", 1, column("id", schema.String), column("soft", schema.String), column("stays", schema.String))
	s := h.open()
	h.migrate(s, was)
	h.apply(s, h.insert(was, `{"id":"1","gone":1,"soft":"a","stays":"a"}`), h.insert(was, `{"id":"2","gone":2,"soft":"b","stays":"b"}`))
	h.migrate(s, is)
	h.apply(s, h.update(is, `{"id":"1","soft":null,"stays":"new"}`), h.insert(is, `{"id":"3","stays":"c"}`), h.delete(is, `{"id":"2"}`),
		h.insert(is, `{"id":"2","stays":"again"}`))
	h.expect(s, was)
}

func checkWideTable(h *harness) {
	columns := []schema.Column{column("id", schema.String)}
	row := `{"id":"1"`
	for i := range 200 {
		c := column(fmt.Sprintf("c%03d", i), schema.String+schema.Type(i%len(samples)))
		columns = append(columns, c)
		if i%7 > 0 {
			row += fmt.Sprintf(`,"%s":%s`, c.Name, samples[c.Type])
		}
	}
	t := newTable(h, "wide", "1", 1, columns...)
	s := h.open()
	h.migrate(s, t)
	var steps []textChange
	for i := range 100 {
		steps = append(steps, h.insert(t, strings.Replace(row, `"1"`, fmt.Sprintf(`"%d"`, i), 1)+"}"))
	}
	h.apply(s, steps...)
	h.expect(s, t)
	h.apply(s, h.update(t, `{"id":"7"}`))
	h.expect(s, t)
}

// foreignRow is the row in the table that Config.Foreign creates.
const foreignRow = `{"id":"old","n":7,"s":"short","must":"there","extra":"kept"}`

func foreignColumns() []schema.Column {
	return []schema.Column{
		column("id", schema.String), column("n", schema.Integer), column("s", schema.String),
		column("must", schema.String), column("extra", schema.String),
	}
}

func checkForeignTable(h *harness) {
	h.config.Foreign(h.outer, h.url, "thing")
	old := newTable(h, "thing", "0", 1, foreignColumns()...)
	h.model("thing").load(h, old, foreignRow)
	t := newTable(h, "thing", "1", 1, column("id", schema.String), column("n", schema.Integer), column("s", schema.String),
		column("fresh", schema.Boolean))
	all := newTable(h, "thing", "2", 1, column("id", schema.String), column("n", schema.Integer), column("s", schema.String),
		column("fresh", schema.Boolean), column("must", schema.String), column("extra", schema.String))
	s := h.open()
	h.expect(s, old)
	if lines := h.migrate(s, t); len(lines) == 0 {
		h.Error("the migration was not reported")
	}
	h.apply(s,
		h.insert(t, fmt.Sprintf(`{"id":"new","n":9007199254740993,"s":%q,"fresh":true}`, strings.Repeat("long ", 200))),
		h.insert(t, `{"id":"poor"}`),
		h.update(t, `{"id":"old","n":-9223372036854775808,"s":"","fresh":false}`),
	)
	h.expect(s, all)
	h.apply(s, h.delete(t, `{"id":"old"}`), h.insert(t, `{"id":"old","n":1}`))
	h.expect(s, all)
	if lines := h.migrate(h.open(), t); len(lines) > 0 {
		h.Errorf("the second time: %q", lines)
	}
}

// hostileNames are names that a table or column of the source might have.
var hostileNames = []string{
	"order", "select", "table", "user", "group", "primary", "from", "null", "default", "index", "key", "values", "rowid", "ctid", "oid_",
	"a b", " a", `a"b`, `"a"`, "a'b", "a`b", "[a]", "a]b", "a.b", "a..b", "a/b", `a\b`, "../a", "a;b", "a--b", "a/*b*/", "$1", "$$",
	"?", ":a", "@a", "%s", "#a",
	"x'; DROP TABLE names; --", `x"; DROP TABLE names; --`, "äöü", "日本語", "😀", "1a", "-", "_", "a\tb", "a\nb", "Upper", "camelCase",
	strings.Repeat("n", 63), strings.Repeat("n", 64), strings.Repeat("n", 65) + "1", strings.Repeat("n", 65) + "2", strings.Repeat("日", 60),
}

func checkNames(h *harness) {
	s := h.open()
	columns := []schema.Column{column("id", schema.String)}
	row := `{"id":"1"`
	for i, name := range hostileNames {
		columns = append(columns, column(name, schema.String))
		row += fmt.Sprintf(`,%s:"column %d"`, quoted(name), i)
	}
	wide := newTable(h, "names", "1", 1, columns...)
	h.migrate(s, wide)
	h.apply(s, h.insert(wide, row+"}"))
	h.expect(s, wide)
	h.apply(s, h.insert(wide, `{"id":"2","order":"x"}`), h.update(wide, `{"id":"1","select":"y"}`))
	h.expect(s, wide)

	var tables []*schema.Table
	var steps []textChange
	for i, name := range hostileNames {
		t := newTable(h, name, "1", 1, column("id", schema.String), column(name, schema.Integer))
		tables = append(tables, t)
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"a","%s":1}`, "x")),
			h.insert(t, fmt.Sprintf(`{"id":"b",%s:%d}`, quoted(name), i)), h.delete(t, `{"id":"a"}`))
	}
	h.migrate(s, tables...)
	h.apply(s, steps...)
	for _, t := range tables {
		h.expect(s, t)
	}
	h.expect(s, wide)
}

// checkReservedNames writes to tables and columns with the names of the sink's own tables and
// columns, as a faulty or malicious source might do. The sink must refuse these changes and keep
// its own rows.
func checkReservedNames(h *harness) {
	s := h.open()
	t := customers(h)
	h.apply(s, h.insert(t, `{"id":"1"}`))
	text := column("id", schema.String)
	checkpoint := []schema.Column{
		column("stream", schema.String), column("consumer", schema.String), column("filter", schema.String),
		column("position", schema.Integer), column("stored", schema.Integer),
	}
	row := fmt.Sprintf(`{"stream":%q,"consumer":%q,"filter":%q,"position":9999,"stored":9999,"id":"1"}`, h.env().Stream,
		h.env().Consumer, h.env().Filter)
	for _, bad := range []*schema.Table{
		newTable(h, "_eds_checkpoint", "", 3, checkpoint...),
		newTable(h, "_EDS_CHECKPOINT", "1", 3, checkpoint...),
		newTable(h, "_eds_load", "", 1, text),
		newTable(h, "_eds_load_customer", "1", 1, text),
		newTable(h, "order", "1", 1, text, column("_EDS_Version", schema.String)),
		newTable(h, "order", "2", 1, column("_eds_row", schema.String)),
	} {
		refused := func(what string, err error) {
			h.Helper()
			if !errors.Is(err, schema.ErrReserved) || fault.Of(err) != fault.Poison {
				h.Errorf("%s %s %q: %v", what, bad.Name, bad.Names(), err)
			}
		}
		if m, ok := s.(sink.Migrator); ok {
			_, err := m.Migrate(h.ctx(), []*schema.Table{bad})
			refused("migrate", err)
		}
		_, err := s.BeginLoad(h.ctx(), "job", bad, sink.Replace, sink.Scope{})
		refused("load", err)
		image := strings.Replace(row, `"id"`, quoted(bad.Columns[0].Name), 1)
		refused("write", h.try(s, h.insert(bad, image)))
	}
	h.apply(s, h.insert(t, `{"id":"2"}`))
	h.apply(h.open(), h.insert(t, `{"id":"3"}`))
	h.expect(s, t)
}
