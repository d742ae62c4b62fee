package sinktest

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var migrationChecks = []check{
	{"a migration that is done is not done again", keepsTables, checkMigrateTwice},
	{"new columns and new tables", keepsTables, checkNewColumns},
	{"columns become wider and keep their values", keepsTables, checkWidenedColumns},
	{"columns that become narrower stay as they are", keepsTables, checkNarrowedColumns},
	{"columns that left the schema keep their values", keepsTables, checkLeftColumns},
	{"wide tables", keepsTables, checkWideTable},
	{"a table that another tool made", func(c capabilities) bool { return c.rows && c.migrates && c.foreign }, checkForeignTable},
	{"names that a database might trip over", keepsRows, checkNames},
}

func keepsTables(c capabilities) bool { return c.rows && c.migrates }

func checkMigrateTwice(h *harness) {
	v1, other := customers(h), newTable(h, "other", "1", 1, column("id", schema.String))
	v2 := newTable(h, "customer", "2", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Number), column("email", schema.String))
	s := h.open()
	if lines := h.migrate(s, v1); len(lines) == 0 {
		h.Error("nothing was said about a new table")
	}
	if lines := h.migrate(s, v1, v2, other); len(lines) < 2 {
		h.Errorf("about a new column and a new table only this was said: %q", lines)
	}
	for _, s := range []sink.Sink{s, h.open()} {
		lines, err := s.(sink.Migrator).Migrate(h.ctx, []*schema.Table{v1, v2, other})
		if err != nil || len(lines) > 0 {
			h.Errorf("the second time: %q, %v", lines, err)
		}
	}
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
		{`1.5`, `0.1`, `-2.25`, `123456789012.5`}, // which every destination spells alike as text
		{`"text"`, `""`, `"9007199254740993.5"`},
	}
	var t *schema.Table
	for i, kind := range kinds {
		// Two columns, of which one becomes a string without having been a number.
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
	was := newTable(h, "reading", "1", 1, column("id", schema.String), required("gone", schema.Integer), required("soft", schema.String), column("stays", schema.String))
	is := newTable(h, "reading", "2", 1, column("id", schema.String), column("soft", schema.String), column("stays", schema.String))
	s := h.open()
	h.migrate(s, was)
	h.apply(s, h.insert(was, `{"id":"1","gone":1,"soft":"a","stays":"a"}`), h.insert(was, `{"id":"2","gone":2,"soft":"b","stays":"b"}`))
	h.migrate(s, is)
	h.apply(s, h.update(is, `{"id":"1","soft":null,"stays":"new"}`), h.insert(is, `{"id":"3","stays":"c"}`), h.delete(is, `{"id":"2"}`), h.insert(is, `{"id":"2","stays":"anew"}`))
	h.expect(s, was)
}

func checkWideTable(h *harness) {
	columns := []schema.Column{column("id", schema.String)}
	row := `{"id":"1"`
	samples := map[schema.Type]string{
		schema.String: `"text"`, schema.Enum: `"open"`, schema.DateTime: `"2026-01-02T03:04:05.123456Z"`, schema.Integer: `-42`,
		schema.Number: `0.25`, schema.Boolean: `true`, schema.Object: `{"a":[1]}`, schema.Array: `[{"b":null}]`,
	}
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
	var steps []step
	for i := range 100 {
		steps = append(steps, h.insert(t, strings.Replace(row, `"1"`, fmt.Sprintf(`"%d"`, i), 1)+"}"))
	}
	h.apply(s, steps...)
	h.expect(s, t)
	h.apply(s, h.update(t, `{"id":"7"}`))
	h.expect(s, t)
}

// foreignRow is the row of the table that Config.Foreign makes.
const foreignRow = `{"id":"old","n":7,"s":"short","must":"there","extra":"kept"}`

func foreignColumns() []schema.Column {
	return []schema.Column{column("id", schema.String), column("n", schema.Integer), column("s", schema.String), column("must", schema.String), column("extra", schema.String)}
}

func checkForeignTable(h *harness) {
	h.config.Foreign(h.outer, h.url, "thing")
	old := newTable(h, "thing", "0", 1, foreignColumns()...)
	h.model("thing").load(h, old, foreignRow)
	t := newTable(h, "thing", "1", 1, column("id", schema.String), column("n", schema.Integer), column("s", schema.String), column("fresh", schema.Boolean))
	all := newTable(h, "thing", "2", 1, column("id", schema.String), column("n", schema.Integer), column("s", schema.String), column("fresh", schema.Boolean), column("must", schema.String), column("extra", schema.String))
	s := h.open()
	h.expect(s, old)
	if lines := h.migrate(s, t); len(lines) == 0 {
		h.Error("nothing was said about the migration")
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
	"a b", " a", `a"b`, `"a"`, "a'b", "a`b", "[a]", "a]b", "a.b", "a..b", "a/b", `a\b`, "../a", "a;b", "a--b", "a/*b*/", "$1", "$$", "?", ":a", "@a", "%s", "#a",
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
	var steps []step
	for i, name := range hostileNames {
		t := newTable(h, name, "1", 1, column("id", schema.String), column(name, schema.Integer))
		tables = append(tables, t)
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"a","%s":1}`, "x")), h.insert(t, fmt.Sprintf(`{"id":"b",%s:%d}`, quoted(name), i)), h.delete(t, `{"id":"a"}`))
	}
	h.migrate(s, tables...)
	h.apply(s, steps...)
	for _, t := range tables {
		h.expect(s, t)
	}
	h.expect(s, wide)
}
