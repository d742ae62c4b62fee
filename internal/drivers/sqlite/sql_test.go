package sqlite

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// newSession opens a session on a new file and runs the statements.
func newSession(t testing.TB, statements ...string) *fileSession {
	t.Helper()
	d, _, err := parse(&url.URL{Scheme: "sqlite", Path: filepath.Join(t.TempDir(), "shop.db")}, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := c.(*fileSession)
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := s.Exec(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
	return s
}

// newLayout returns a layout that maps columns onto the real table with the given name, as the SQL
// engine does.
func newLayout(t testing.TB, s *fileSession, name string, keys int, columns ...string) *sqlsink.Layout {
	t.Helper()
	found, err := s.Tables(t.Context(), []string{name})
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	var list []schema.Column
	for _, c := range columns {
		list = append(list, schema.Column{Name: c, Type: schema.String})
	}
	table, err := schema.New(name, "1", columns[:keys], list)
	if err != nil {
		t.Fatal(err)
	}
	l := &sqlsink.Layout{Table: table, Real: found[0], Keys: keys}
	metas := map[string]sqlsink.Meta{
		"_eds_op": sqlsink.MetaOp, "_eds_version": sqlsink.MetaVersion, "_eds_synced_at": sqlsink.MetaSynced,
		"_eds_deleted": sqlsink.MetaDeleted,
	}
	for i := range found[0].Columns {
		real := &found[0].Columns[i]
		slot, meta := table.Slot([]byte(real.Name)), metas[real.Name]
		if slot >= 0 || meta != 0 {
			l.Columns = append(l.Columns, sqlsink.Target{Slot: slot, Type: schema.String, Meta: meta, Real: real})
		}
		l.Guard = l.Guard || meta == sqlsink.MetaVersion
		l.Soft = l.Soft || meta == sqlsink.MetaDeleted
	}
	return l
}

// testdata/statements.sql has every SQL text.
func TestStatements(t *testing.T) {
	var out strings.Builder
	show := func(title string, statements ...string) {
		fmt.Fprintf(&out, "-- %s\n%s;\n\n", title, strings.Join(statements, ";\n"))
	}
	d := &dialect{}
	real := func(declared string, strict bool) *sqlsink.RealColumn {
		a := &attribute{declared: declared, affinity: affinityOf(declared), strict: strict}
		return &sqlsink.RealColumn{Name: "total", Type: declared, Native: a}
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
		Kind: sqlsink.AddColumn, Table: "order", Columns: []sqlsink.NewColumn{{Name: "email", Type: schema.String}},
	})...)
	show("relax a column", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.RelaxColumn, Table: "order", Real: real("TEXT", false)})...)
	show("widen a column to text", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.WidenColumn, Table: "order", Real: real("INTEGER", false), To: schema.String,
	})...)
	show("widen a column of a strict table to numbers", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.WidenColumn, Table: "order", Real: real("INTEGER", true), To: schema.Number,
	})...)

	s := newSession(t,
		`CREATE TABLE "order" (companyId TEXT, id INTEGER, "it's ""odd""" TEXT, PRIMARY KEY (companyId, id))`,
		`CREATE TABLE link (a TEXT, b TEXT, PRIMARY KEY (a, b))`,
		`CREATE TABLE loose (id TEXT, n TEXT)`,
		`CREATE TABLE guarded (
  id TEXT PRIMARY KEY, n TEXT, _eds_op TEXT, _eds_version TEXT, _eds_synced_at TEXT, _eds_deleted INTEGER
)`,
		`CREATE TABLE newer (id TEXT, n TEXT, _eds_version TEXT)`,
		`CREATE TABLE _eds_checkpoint (
  stream TEXT, consumer TEXT, filter TEXT, position INTEGER, stored INTEGER, PRIMARY KEY (stream, consumer, filter)
)`,
	)
	for _, l := range []*sqlsink.Layout{
		newLayout(t, s, "order", 2, "companyId", "id", `it's "odd"`), newLayout(t, s, "link", 2, "a", "b"),
		newLayout(t, s, "loose", 1, "id", "n"), newLayout(t, s, "guarded", 1, "id", "n"), newLayout(t, s, "newer", 1, "id", "n"),
	} {
		w := newStatements(l, nil)
		var upsert []string
		for _, c := range append(w.upsert, w.remove) {
			// Statements have one parameter per value.
			p, err := s.prepare(c.sql)
			if err != nil {
				t.Fatalf("%s: %v", c.sql, err)
			}
			if p.Params() != len(c.columns) {
				t.Errorf("%s: takes %d values", c.sql, len(c.columns))
			}
			upsert = append(upsert, c.sql)
		}
		show("upsert into "+l.Real.Name, upsert[:len(w.upsert)]...)
		show("delete from "+l.Real.Name, w.remove.sql)
		show("merge a stage into "+l.Real.Name, mergeSQL(l, "_eds_load_"+l.Real.Name)...)
		show("delete from "+l.Real.Name+" what a stage does not have", pruneSQL(l, "_eds_load_"+l.Real.Name))
		some := *l
		some.Scope = []sqlsink.Within{{Column: l.Columns[0].Real, Values: []string{"x", `it's \ odd`}}}
		show("delete of some rows of "+l.Real.Name+" what a stage does not have",
			pruneSQL(&some, "_eds_load_"+l.Real.Name), countSQL(&some))
		selected, _ := selection(l)
		show("read "+l.Real.Name, selected)
	}
	l := newLayout(t, s, "_eds_checkpoint", 3, "stream", "consumer", "filter", "position", "stored")
	at := cdc.Position{Sequence: 1}
	show("write the first checkpoint", checkpointSQL(l, &sqlsink.Checkpoint{}, cdc.Position{}))
	show("move a checkpoint", checkpointSQL(l, &sqlsink.Checkpoint{}, at))
	show("move a checkpoint of this writer", checkpointSQL(l, &sqlsink.Checkpoint{Epoch: 1}, at))
	golden.Compare(t, "statements.sql", out.String())
}

func TestName_ChangesReservedNames(t *testing.T) {
	d := &dialect{}
	for name, want := range map[string]string{
		"order": "order", `a"b`: `a"b`, "": "", "ünder_score": "ünder_score",
		"sqlite_master": "_sqlite_master", "SQLite_x": "_SQLite_x", "sqlite": "sqlite",
		"a\x00b": "a_0b", "a_0\x00": "a__0_0",
	} {
		if got := d.Name(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}
