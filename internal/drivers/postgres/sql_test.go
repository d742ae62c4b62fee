package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// described is the catalogue's description of a table.
type described struct {
	name    string
	keys    int
	columns []schema.Column
	metas   []sqlsink.Meta
	loose   bool // the table has no primary key
	foreign bool // the server casts the values of a column from text
}

var natives = map[schema.Type]attribute{
	schema.String:   {kind: kindText, oid: oidText, array: oidTextArray, spelling: "pg_catalog.text", typmod: -1},
	schema.Integer:  {kind: kindInt8, oid: oidInt8, array: 1016, spelling: "pg_catalog.int8", typmod: -1},
	schema.DateTime: {kind: kindTimestampTZ, oid: 1184, array: 1185, spelling: "pg_catalog.timestamptz", typmod: -1},
	schema.Object:   {kind: kindJSONB, oid: 3802, array: 3807, spelling: "pg_catalog.jsonb", typmod: -1},
}

// layout maps all columns of the table.
func (d described) layout(t *testing.T) *sqlsink.Layout {
	t.Helper()
	var key []string
	for _, c := range d.columns[:d.keys] {
		key = append(key, c.Name)
	}
	table, err := schema.New(d.name, "1", key, d.columns)
	if err != nil {
		t.Fatal(err)
	}
	r := &relation{oid: "1", plain: true, uniques: [][]string{key}}
	if d.loose {
		r.uniques = nil
	}
	real := &sqlsink.RealTable{Name: d.name, Key: key, Native: r}
	l := &sqlsink.Layout{Table: table, Real: real, Keys: d.keys}
	types := map[sqlsink.Meta]schema.Type{
		sqlsink.MetaOp: schema.String, sqlsink.MetaVersion: schema.String,
		sqlsink.MetaSynced: schema.DateTime, sqlsink.MetaDeleted: schema.String,
	}
	add := func(slot int, meta sqlsink.Meta, name string, kind schema.Type) {
		native := natives[kind]
		column := &sqlsink.RealColumn{Name: name, Type: strings.TrimPrefix(native.spelling, "pg_catalog."), Native: &native}
		if d.foreign && slot == len(d.columns)-1 {
			native = attribute{kind: kindCast, spelling: "public.colour", typmod: -1}
			column.Type = "public.colour"
		}
		real.Columns = append(real.Columns, *column)
		l.Columns = append(l.Columns, sqlsink.Target{Slot: slot, Type: kind, Meta: meta, Key: slot >= 0 && slot < d.keys, Real: column})
	}
	for slot, c := range table.Columns {
		add(slot, 0, c.Name, c.Type)
	}
	for _, m := range d.metas {
		add(-1, m, m.Name(), types[m])
		l.Guard = l.Guard || m == sqlsink.MetaVersion
		l.Soft = l.Soft || m == sqlsink.MetaDeleted
	}
	return l
}

// TestStatements_MatchGolden compares every SQL text with testdata/statements.sql.
func TestStatements_MatchGolden(t *testing.T) {
	var out strings.Builder
	show := func(title string, statements ...string) {
		fmt.Fprintf(&out, "-- %s\n%s;\n\n", title, strings.Join(statements, ";\n"))
	}
	srv := &serverView{namespace: "shop", features: serverFeatures{KeepsState: true, TempTables: true}}
	d := &dialect{}
	d.server.Store(srv)
	real := func(kind schema.Type) *sqlsink.RealColumn {
		native := natives[kind]
		return &sqlsink.RealColumn{Name: "total", Holds: kind, Native: &native}
	}
	show("create a table", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.CreateTable, Table: "order", Keys: 2, Columns: []sqlsink.NewColumn{
		{Name: "companyId", Type: schema.String, Key: true},
		{Name: "id", Type: schema.Integer, Key: true},
		{Name: `it's "odd"`, Type: schema.Enum},
		{Name: "createdDate", Type: schema.DateTime},
		{Name: "total", Type: schema.Number},
		{Name: "taxed", Type: schema.Boolean},
		{Name: "meta", Type: schema.Object},
		{Name: "tags", Type: schema.Array},
		{Name: "_eds_version", Type: schema.String, Meta: sqlsink.MetaVersion},
	}})...)
	show("add a column", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.AddColumn, Table: "order",
		Columns: []sqlsink.NewColumn{{Name: "email", Type: schema.String}},
	})...)
	show("relax a column", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.RelaxColumn, Table: "order", Real: real(schema.String)})...)
	show("widen integers to numbers", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.WidenColumn, Table: "order", Real: real(schema.Integer),
		To: schema.Number,
	})...)
	show("widen instants to text", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.WidenColumn, Table: "order", Real: real(schema.DateTime),
		To: schema.String,
	})...)

	text := func(name string) schema.Column { return schema.Column{Name: name, Type: schema.String} }
	for _, table := range []described{
		{name: "order", keys: 2, columns: []schema.Column{
			text("companyId"),
			{Name: "id", Type: schema.Integer},
			text(`it's "odd"`),
			{Name: "meta", Type: schema.Object},
		}},
		{name: "link", keys: 2, columns: []schema.Column{text("a"), text("b")}},
		{name: "loose", keys: 1, columns: []schema.Column{text("id"), text("n")}, loose: true},
		{
			name: "guarded", keys: 1, columns: []schema.Column{text("id"), text("n")},
			metas: []sqlsink.Meta{sqlsink.MetaOp, sqlsink.MetaVersion, sqlsink.MetaSynced, sqlsink.MetaDeleted},
		},
		{name: "newer", keys: 1, columns: []schema.Column{text("id"), text("n")}, metas: []sqlsink.Meta{sqlsink.MetaVersion}, loose: true},
		{name: "paint", keys: 1, columns: []schema.Column{text("id"), text("colour")}, foreign: true},
	} {
		live := table.layout(t)
		ts := newTableStatements(srv, live, nil)
		show("upsert a few rows into "+table.name, ts.upsertArrays...)
		show("delete from "+table.name, ts.deleteArrays)
		show("upsert many rows into "+table.name, append([]string{ts.createStage, ts.copyStage}, ts.upsertStage...)...)
		if ts.direct {
			show("copy wide rows into "+table.name, ts.copyTable)
		}
		table.name = "_eds_load_" + table.name
		stage := newTableStatements(srv, table.layout(t), nil)
		show("make a stage for "+live.Real.Name, stageText(ts, stage.table))
		show("seal it", sealText(stage))
		show("remove rows that were loaded twice", duplicatesText(stage), deduplicateText(stage))
		show("put it in place of "+live.Real.Name, placeTexts(stage, ts, sink.Replace)...)
		show("merge it into "+live.Real.Name, placeTexts(stage, ts, sink.Merge)...)
		live.Scope = []sqlsink.Within{{Column: live.Columns[0].Real, Values: []string{"x", `it's \ odd`}}}
		show("put it in place of some rows of "+live.Real.Name, append(placeTexts(stage, ts, sink.Replace), countText(ts))...)
	}
	show("move a checkpoint", fmt.Sprintf(checkpointSQL, srv.qualify("_eds_checkpoint")))
	show("describe tables", strings.TrimSpace(catalogueQuery))
	golden.Compare(t, "statements.sql", out.String())
}
