package snowflake

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// real returns a column whose type is the given type of the catalogue.
func real(name, kind string, numbers ...int) *sqlsink.RealColumn {
	c := &sqlsink.RealColumn{Name: name, Type: kind, Nullable: true}
	a := &attribute{}
	a.kind, c.Holds = kindOf(kind)
	switch {
	case a.kind == kindText:
		a.length = append(numbers, defaultLength)[0]
		c.Type = fmt.Sprintf("VARCHAR(%d)", a.length)
	case a.kind == kindFixed:
		a.precision, a.scale = numbers[0], numbers[1]
		c.Type = fmt.Sprintf("NUMBER(%d,%d)", a.precision, a.scale)
	case strings.HasPrefix(kind, "TIMESTAMP"):
		a.precision = append(numbers, 9)[0]
		c.Type = fmt.Sprintf("%s(%d)", kind, a.precision)
	}
	c.Native = a
	return c
}

// layout returns a layout that maps columns onto real columns. The first columns, as many as keys
// says, are the key.
func layout(t testing.TB, name string, keys int, columns []*sqlsink.RealColumn, metas ...sqlsink.Meta) *sqlsink.Layout {
	t.Helper()
	var declared []schema.Column
	var key []string
	for i, c := range columns {
		kind := c.Holds
		if kind == 0 {
			kind = schema.String
		}
		declared = append(declared, schema.Column{Name: c.Name, Type: kind})
		if i < keys {
			key = append(key, c.Name)
		}
	}
	table, err := schema.New(name, "1", key, declared)
	if err != nil {
		t.Fatal(err)
	}
	l := &sqlsink.Layout{Table: table, Real: &sqlsink.RealTable{Name: name, Key: key}, Keys: keys}
	for i, c := range columns {
		slot := table.Slot([]byte(c.Name))
		l.Real.Columns = append(l.Real.Columns, *c)
		l.Columns = append(l.Columns, sqlsink.Target{Slot: slot, Type: table.Columns[slot].Type, Key: i < keys, Real: c})
	}
	types := map[sqlsink.Meta]string{
		sqlsink.MetaOp: "TEXT", sqlsink.MetaVersion: "TEXT", sqlsink.MetaSynced: "TIMESTAMP_TZ",
		sqlsink.MetaDeleted: "BOOLEAN",
	}
	for _, m := range metas {
		c := real(m.Name(), types[m])
		l.Real.Columns = append(l.Real.Columns, *c)
		l.Columns = append(l.Columns, sqlsink.Target{Slot: -1, Type: c.Holds, Meta: m, Real: c})
		l.Guard = l.Guard || m == sqlsink.MetaVersion
		l.Soft = l.Soft || m == sqlsink.MetaDeleted
	}
	return l
}

// TestStatements_MatchGolden compares every SQL text with testdata/statements.sql.
func TestStatements_MatchGolden(t *testing.T) {
	var out strings.Builder
	allStatements(t, `it's "odd" %d`, func(title string, statements ...string) {
		fmt.Fprintf(&out, "-- %s\n%s;\n\n", title, strings.Join(statements, ";\n"))
	})
	golden.Compare(t, "statements.sql", out.String())
}

// allStatements returns the text of the statements for tables of every kind. One column has the
// name odd.
func allStatements(t *testing.T, odd string, show func(title string, statements ...string)) {
	t.Helper()
	d := &dialect{account: account{database: "SHOP", schema: "PUBLIC"}}
	s := &sqlSession{dialect: d}
	show("inspect the session", sessionSQL)
	show("describe tables", catalogueSQL, keysSQL)
	show("make the session's stage", stageSQL)
	show("make the schema", `CREATE SCHEMA IF NOT EXISTS "SHOP"."PUBLIC"`, `USE SCHEMA "SHOP"."PUBLIC"`)
	show("probe a schema that is not there", `CREATE TRANSIENT SCHEMA "SHOP"."_eds_probe_7"`, `DROP SCHEMA IF EXISTS "SHOP"."_eds_probe_7"`)
	showDDL(d, odd, show)

	all := []*sqlsink.RealColumn{
		real("companyId", "TEXT"), real("id", "NUMBER", 38, 0), real(odd, "TEXT", 10), real("amount", "NUMBER", 38, 18),
		real("rate", "FLOAT"), real("vip", "BOOLEAN"),
		real("at", "TIMESTAMP_TZ"), real("local", "TIMESTAMP_LTZ", 3), real("naive", "TIMESTAMP_NTZ"), real("day", "DATE"),
		real("meta", "VARIANT"), real("map", "OBJECT"), real("list", "ARRAY"), real("place", "GEOGRAPHY"),
	}
	orders := layout(t, "order", 2, all)
	foreign := layout(t, "foreign", 1, []*sqlsink.RealColumn{real("id", "TEXT"), real("n", "NUMBER", 38, 0)})
	foreign.Real.Columns = append(foreign.Real.Columns, *real("theirs", "TEXT"))
	d.actual.Store("upper", "UPPER")
	for _, l := range []*sqlsink.Layout{
		orders, layout(t, "link", 2, []*sqlsink.RealColumn{real("a", "TEXT"), real("b", "TEXT")}), foreign,
		layout(t, "upper", 1, []*sqlsink.RealColumn{real("ID", "TEXT"), real("NAME", "TEXT")}, sqlsink.MetaOp, sqlsink.MetaVersion,
			sqlsink.MetaSynced, sqlsink.MetaDeleted),
		layout(t, "newer", 1, []*sqlsink.RealColumn{real("id", "TEXT"), real("n", "FLOAT")}, sqlsink.MetaVersion),
	} {
		name := l.Real.Name
		ts := s.tableStatements(l)
		stage := *l
		stage.Native, stage.Guard, stage.Soft = nil, false, false
		stage.Real = &sqlsink.RealTable{Name: "_eds_load_" + name, Columns: l.Real.Columns}
		st := s.tableStatements(&stage)
		show("write a few rows to "+name, ts.merge(fromParameter, allRows))
		show("write many rows to "+name, ts.merge(fmt.Sprintf(fromStage, "7.json.gz"), allRows))
		show("delete and insert rows again in "+name, ts.merge(fromParameter, opDelete), ts.merge(fromParameter, opUpsert))
		show("stage a snapshot of "+name, ts.createStage(st.table), st.copyInto("7.json.gz"))
		show("remove rows that were staged twice of "+name, st.duplicates(), st.deduplicate())
		show("replace the rows of "+name, ts.replace(st)...)
		show("merge the staged rows into "+name, ts.mergeStage(st, true))
		l.Scope = []sqlsink.Within{{Column: l.Columns[0].Real, Values: []string{"x", `it's \ odd`}}}
		show("replace some rows of "+name, append(ts.replace(st), ts.countRows())...)
		read, _ := ts.selection()
		show("read "+name, read)
	}
	show("store the first checkpoint", fmt.Sprintf(startSQL, quote("_eds_checkpoint")))
	show("move the checkpoint", fmt.Sprintf(moveSQL, quote("_eds_checkpoint")))
}

func showDDL(d *dialect, odd string, show func(title string, statements ...string)) {
	show("create a table", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.CreateTable, Table: "order", Keys: 2, Columns: []sqlsink.NewColumn{
		{Name: "companyId", Type: schema.String, Key: true},
		{Name: "id", Type: schema.Integer, Key: true},
		{Name: odd, Type: schema.Enum},
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
	show("relax a column", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.RelaxColumn, Table: "order", Real: real("must", "TEXT")})...)
	for _, w := range []struct {
		title string
		real  *sqlsink.RealColumn
		to    schema.Type
	}{
		{"widen a short number", real("total", "NUMBER", 9, 0), schema.Integer},
		{"widen short text", real("note", "TEXT", 10), schema.String},
		{"widen integers to numbers", real("total", "NUMBER", 38, 0), schema.Number},
		{"widen decimals to text", real("total", "NUMBER", 38, 18), schema.String},
		{"widen instants to text", real("at", "TIMESTAMP_TZ"), schema.String},
		{"widen truth values to text", real("vip", "BOOLEAN"), schema.String},
	} {
		show(w.title, d.DDL(sqlsink.MigrationStep{Kind: sqlsink.WidenColumn, Table: "order", Real: w.real, To: w.to})...)
	}
}
