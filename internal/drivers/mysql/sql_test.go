package mysql

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
	folds   bool // the collation of the key ignores case
}

// native returns the attributes of a column that eds has created.
func native(srv *flavour, c schema.Column, key, folds bool) *attribute {
	kinds := map[schema.Type]attribute{
		schema.String:   {kind: kindText, data: "longtext", length: 1<<32 - 1, charset: "utf8mb4", collation: "utf8mb4_general_ci"},
		schema.Enum:     {kind: kindText, data: "varchar", length: 255, charset: "utf8mb4", collation: "utf8mb4_general_ci"},
		schema.Integer:  {kind: kindInt, data: "bigint", scale: -1},
		schema.Boolean:  {kind: kindTruth, data: "tinyint", scale: -1},
		schema.DateTime: {kind: kindDateTime, data: "datetime", precision: 6, scale: -1},
		schema.Number:   {kind: kindDouble, data: "double", scale: -1},
		schema.Object:   {kind: kindJSON, data: "json", scale: -1},
	}
	a := kinds[c.Type]
	if key && c.Type == schema.String {
		a.data, a.length, a.collation, a.key = "varchar", 255, srv.exact, true
		if folds {
			a.collation = "utf8mb4_general_ci"
		}
	}
	return &a
}

// layout maps all columns of the table.
func (d described) layout(t testing.TB, srv *flavour) *sqlsink.Layout {
	t.Helper()
	var key []string
	for _, c := range d.columns[:d.keys] {
		key = append(key, c.Name)
	}
	table, err := schema.New(d.name, "1", key, d.columns)
	if err != nil {
		t.Fatal(err)
	}
	real := &sqlsink.RealTable{Name: d.name, Key: key, Native: &relation{create: "\n) ENGINE=InnoDB", uniques: [][]string{key}}}
	l := &sqlsink.Layout{Table: table, Real: real, Keys: d.keys}
	types := map[sqlsink.Meta]schema.Type{
		sqlsink.MetaOp: schema.String, sqlsink.MetaVersion: schema.String,
		sqlsink.MetaSynced: schema.DateTime, sqlsink.MetaDeleted: schema.Boolean,
	}
	add := func(slot int, meta sqlsink.Meta, c schema.Column) {
		key := slot >= 0 && slot < d.keys
		spelling, _, _ := strings.Cut(srv.typeOf(c.Type), " ")
		if key && c.Type == schema.String || meta == sqlsink.MetaVersion {
			spelling = "VARCHAR(255)"
		}
		column := &sqlsink.RealColumn{
			Name: c.Name, Type: strings.ToLower(spelling), Nullable: !key,
			Native: native(srv, c, key || meta == sqlsink.MetaVersion, d.folds && key),
		}
		real.Columns = append(real.Columns, *column)
		l.Columns = append(l.Columns, sqlsink.Target{Slot: slot, Type: c.Type, Meta: meta, Key: key, Real: column})
	}
	for slot, c := range table.Columns {
		add(slot, 0, c)
	}
	for _, m := range d.metas {
		add(-1, m, schema.Column{Name: m.Name(), Type: types[m]})
		l.Guard = l.Guard || m == sqlsink.MetaVersion
		l.Soft = l.Soft || m == sqlsink.MetaDeleted
	}
	return l
}

// titled is a list of statements with a title.
type titled struct {
	title      string
	statements []string
}

func text(name string) schema.Column { return schema.Column{Name: name, Type: schema.String} }

// tablesShown has one table for each way in which eds writes rows.
var tablesShown = []described{
	{name: "order", keys: 2, columns: []schema.Column{
		text("companyId"),
		{Name: "id", Type: schema.Integer},
		text("it's `odd`"),
		{Name: "meta", Type: schema.Object},
		{Name: "at", Type: schema.DateTime},
	}},
	{name: "link", keys: 2, columns: []schema.Column{text("a"), text("b")}},
	{name: "folding", keys: 1, columns: []schema.Column{text("id"), text("n")}, folds: true},
	{
		name: "guarded", keys: 1, columns: []schema.Column{text("id"), text("n")},
		metas: []sqlsink.Meta{sqlsink.MetaOp, sqlsink.MetaVersion, sqlsink.MetaSynced, sqlsink.MetaDeleted},
	},
	{name: "newer", keys: 1, columns: []schema.Column{text("id"), text("n")}, metas: []sqlsink.Meta{sqlsink.MetaVersion}, folds: true},
}

// migrations returns the statements of every kind of step.
func migrations(srv *flavour) []titled {
	d := &dialect{}
	d.server.Store(srv)
	real := func(kind schema.Type, spelling, definition string) *sqlsink.RealColumn {
		a := native(srv, schema.Column{Type: kind}, false, false)
		a.definition = spelling + definition
		return &sqlsink.RealColumn{Name: "total", Type: spelling, Holds: kind, Native: a}
	}
	return []titled{
		{"create a table", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.CreateTable, Table: "every", Keys: 2, Columns: []sqlsink.NewColumn{
			{Name: "companyId", Type: schema.String, Key: true},
			{Name: "id", Type: schema.Integer, Key: true},
			{Name: "it's `odd`", Type: schema.Enum},
			{Name: "createdDate", Type: schema.DateTime},
			{Name: "total", Type: schema.Integer},
			{Name: "rate", Type: schema.Number},
			{Name: "taxed", Type: schema.Boolean},
			{Name: "meta", Type: schema.Object},
			{Name: "tags", Type: schema.Array},
			{Name: "note", Type: schema.String},
			{Name: "_eds_version", Type: schema.String, Meta: sqlsink.MetaVersion},
		}})},
		{"add a column", d.DDL(sqlsink.MigrationStep{
			Kind: sqlsink.AddColumn, Table: "every",
			Columns: []sqlsink.NewColumn{{Name: "email", Type: schema.String}},
		})},
		{"relax a column", d.DDL(sqlsink.MigrationStep{
			Kind: sqlsink.RelaxColumn, Table: "every",
			Real: real(schema.Integer, "bigint", " NOT NULL DEFAULT 5 COMMENT 'is NOT NULL'"),
		})},
		{"widen integers to numbers", d.DDL(sqlsink.MigrationStep{
			Kind: sqlsink.WidenColumn, Table: "every",
			Real: real(schema.Integer, "bigint", " DEFAULT NULL"), To: schema.Number, Nullable: true,
		})},
		{"widen instants to text", d.DDL(sqlsink.MigrationStep{
			Kind: sqlsink.WidenColumn, Table: "every",
			Real: real(schema.DateTime, "datetime(6)", " DEFAULT NULL COMMENT 'when'"), To: schema.String, Nullable: true,
		})},
	}
}

// writes returns the statements that write into a table.
func writes(t testing.TB, srv *flavour, table described) []titled {
	t.Helper()
	live := table.layout(t, srv)
	ts := newTableStatements(*srv, live, nil)
	var all []titled
	show := func(title string, statements ...string) { all = append(all, titled{title, statements}) }
	step := sqlsink.MigrationStep{Kind: sqlsink.CreateTable, Table: table.name, Keys: table.keys}
	for _, c := range live.Columns {
		step.Columns = append(step.Columns, sqlsink.NewColumn{Name: c.Real.Name, Type: c.Type, Key: c.Key, Meta: c.Meta})
	}
	show("make "+table.name, srv.createTable(step))
	if ts.keyOnly {
		show("upsert a few rows into "+table.name, ts.upsertRows.insert+ts.upsertRows.row+", "+ts.upsertRows.row+ts.upsertRows.suffix)
	} else {
		show("upsert a row into "+table.name, ts.updateRow.sql, ts.insertRow.sql)
	}
	show("delete from "+table.name, ts.deleteRows.sql+ts.deleteRows.condition)
	file := "LOAD DATA LOCAL INFILE 'Reader::rows' "
	show("upsert many rows into "+table.name, append([]string{ts.upsertStage.create, file + ts.upsertStage.writer.load},
		ts.upsertStage.apply...)...)
	show("delete many rows from "+table.name, append([]string{ts.deleteStage.create, file + ts.deleteStage.writer.load},
		ts.deleteStage.apply...)...)
	stage := quote("_eds_load_" + table.name)
	show("make a stage for "+table.name, stageText(ts, stage))
	show("load into it", file+ts.loadText("IGNORE ", stage, ts.layout.All()), file+ts.loadText("REPLACE ", stage, ts.layout.All()))
	show("put it in place of "+table.name, placeTexts(ts, stage, sink.Replace)...)
	show("merge it into "+table.name, placeTexts(ts, stage, sink.Merge)...)
	live.Scope = []sqlsink.Within{{Column: live.Columns[0].Real, Values: []string{"x", `it's \ odd`}}}
	show("put it in place of some rows of "+table.name, append(placeTexts(ts, stage, sink.Replace), srv.countText(live))...)
	return all
}

// TestStatements_MatchGolden compares every SQL text for MySQL 8 and for MariaDB with testdata.
func TestStatements_MatchGolden(t *testing.T) {
	for file, srv := range map[string]*flavour{
		"mysql.sql":   {exact: "utf8mb4_0900_bin"},
		"mariadb.sql": {maria: true, exact: "utf8mb4_nopad_bin"},
	} {
		all := migrations(srv)
		for _, table := range tablesShown {
			all = append(all, writes(t, srv, table)...)
		}
		var out strings.Builder
		for _, s := range all {
			fmt.Fprintf(&out, "-- %s\n%s;\n\n", s.title, strings.Join(s.statements, ";\n"))
		}
		golden.Compare(t, file, out.String())
	}
}
