package sqlserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// real describes a real column as the catalogue does.
func real(name, base string, length, precision, scale int, collation string) sqlsink.RealColumn {
	units := length
	if strings.HasPrefix(base, "n") && length > 0 {
		units *= 2
	}
	return describe(resultRow{
		"t", name, base, int64(units), int64(precision), int64(scale), collation, true, false, false, int64(0),
		int64(0), int64(0),
	})
}

// layoutOf returns a layout that maps source columns onto real columns with the same names. The
// first columns, as many as keys says, are the key. Special names select metadata columns.
func layoutOf(t testing.TB, table string, r relation, keys int, columns ...sqlsink.RealColumn) *sqlsink.Layout {
	t.Helper()
	metas := map[string]sqlsink.Meta{
		"_eds_op": sqlsink.MetaOp, "_eds_version": sqlsink.MetaVersion, "_eds_synced_at": sqlsink.MetaSynced,
		"_eds_deleted": sqlsink.MetaDeleted,
	}
	var list []schema.Column
	var key []string
	for i, c := range columns {
		if metas[c.Name] == 0 {
			list = append(list, schema.Column{Name: c.Name, Type: schema.String})
		}
		if i < keys {
			key = append(key, c.Name)
		}
	}
	source, err := schema.New(table, "1", key, list)
	if err != nil {
		t.Fatal(err)
	}
	l := &sqlsink.Layout{Table: source, Real: &sqlsink.RealTable{Name: table, Columns: columns, Key: key, Native: &r}, Keys: keys}
	for i := range columns {
		meta := metas[columns[i].Name]
		slot := -1
		if meta == 0 {
			slot = source.Slot([]byte(columns[i].Name))
		}
		l.Columns = append(l.Columns, sqlsink.Target{Slot: slot, Type: schema.String, Meta: meta, Key: i < keys, Real: &columns[i]})
		l.Guard = l.Guard || meta == sqlsink.MetaVersion
		l.Soft = l.Soft || meta == sqlsink.MetaDeleted
	}
	return l
}

// script collects statements, each under a title.
type script struct {
	titles     []string
	statements []string
}

func (s *script) add(title string, statements ...string) {
	for _, text := range statements {
		s.titles, s.statements = append(s.titles, title), append(s.statements, text)
	}
}

func (s *script) String() string {
	var b strings.Builder
	for i, text := range s.statements {
		fmt.Fprintf(&b, "-- %s\n%s\n\n", s.titles[i], text)
	}
	return b.String()
}

var (
	plainTable = relation{plain: true, merges: true}
	oddTable   = relation{}
)

// allStatements returns all kinds of statements that the driver sends.
func allStatements(t testing.TB) *script {
	s := new(script)
	namespace := "dbo"
	d := &dialect{}
	d.namespace.Store(&namespace)
	s.add("set up a session", settings+lockWait(30*time.Second), sessionQuery, "SELECT name FROM sys.schemas WHERE name = @p1",
		"CREATE SCHEMA [shop]")
	s.add("read the catalogue", fmt.Sprintf(columnQuery, "@p2, @p3"), fmt.Sprintf(tableQuery, "@p2, @p3"),
		fmt.Sprintf(keyQuery, "@p2, @p3"))
	addDDL(s, d)

	text, version := real("id", "nvarchar", 255, 0, 0, binary), real("_eds_version", "nvarchar", 255, 0, 0, binary)
	n, name := real("n", "bigint", 8, 19, 0, ""), real("it's [odd]", "nvarchar", -1, 0, 0, "SQL_Latin1_General_CP1_CI_AS")
	foreign := real("code", "varchar", 40, 0, 0, "SQL_Latin1_General_CP1_CI_AS")
	number := real("number", "int", 4, 10, 0, "")
	number.Native.(*attribute).identity = true
	for _, l := range []*sqlsink.Layout{
		layoutOf(t, "order", plainTable, 2, text, n, name), layoutOf(t, "link", plainTable, 2, text, n),
		layoutOf(t, "odd", oddTable, 1, text, name),
		layoutOf(t, "odd link", oddTable, 2, text, n),
		layoutOf(t, "foreign", plainTable, 1, foreign, real("doc", "xml", -1, 0, 0, ""), real("total", "decimal", 9, 12, 2, ""),
			real("raw", "varbinary", -1, 0, 0, ""), real("cost", "money", 8, 19, 4, "")),
		layoutOf(t, "numbered", plainTable, 1, number, name),
		layoutOf(t, "guarded", plainTable, 1, text, name, version), layoutOf(t, "odd guarded", oddTable, 1, text, name, version),
		layoutOf(t, "soft", plainTable, 1, text, name, real("_eds_op", "nvarchar", 255, 0, 0, binary), version,
			real("_eds_synced_at", "datetimeoffset", 10, 26, 6, ""), real("_eds_deleted", "bit", 1, 1, 0, "")),
	} {
		ts := newTableStatements(l, "[dbo]."+quote(l.Real.Name), nil)
		for _, op := range []*rowOperation{ts.deleteOperation(), ts.upsertOperation()} {
			s.add(op.what+" by parameters "+op.declarations(op.indexes, 2), op.statement(op.values(op.indexes, 2)))
			s.add(op.what+" by a temporary table", op.createTemporary(op.stage, op.indexes), op.fromStage())
		}
		s.add("read "+l.Real.Name, readText(ts))
		s.add("stage a load of "+l.Real.Name, stageText(ts, "[dbo].[_eds_load_x]"))
		s.add("replace the rows of "+l.Real.Name, placeTexts(ts, "[dbo].[_eds_load_x]", sink.Replace)...)
		s.add("merge into "+l.Real.Name, placeTexts(ts, "[dbo].[_eds_load_x]", sink.Merge)...)
		l.Scope = []sqlsink.Within{{Column: l.Columns[0].Real, Values: []string{"x", `it's \ odd`}}}
		s.add("replace some rows of "+l.Real.Name, append(placeTexts(ts, "[dbo].[_eds_load_x]", sink.Replace), countText(ts))...)
	}
	stage := newTableStatements(layoutOf(t, "_eds_load_x", plainTable, 2, text, n, name), "[dbo].[_eds_load_x]", nil)
	s.add("seal a stage", countText(stage), sealText(stage), duplicatesText(stage), deduplicateText(stage),
		"DROP TABLE IF EXISTS [dbo].[_eds_load_x]")
	s.add("move the checkpoint", fmt.Sprintf(insertCheckpoint, "[dbo].[_eds_checkpoint]"),
		fmt.Sprintf(updateCheckpoint, "[dbo].[_eds_checkpoint]"))
	s.add("end a transaction", "BEGIN TRANSACTION", "COMMIT TRANSACTION", "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION",
		"EXECUTE sys.sp_flush_log")
	return s
}

func addDDL(s *script, d *dialect) {
	s.add("create tables", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.CreateTable, Table: "order", Keys: 1, Columns: []sqlsink.NewColumn{
		{Name: "id", Type: schema.String, Key: true},
		{Name: "state", Type: schema.Enum},
		{Name: "note]s", Type: schema.String},
		{Name: "createdDate", Type: schema.DateTime},
		{Name: "total", Type: schema.Number},
		{Name: "count", Type: schema.Integer},
		{Name: "taxed", Type: schema.Boolean},
		{Name: "meta", Type: schema.Object},
		{Name: "tags", Type: schema.Array},
		{Name: "_eds_version", Type: schema.String, Meta: sqlsink.MetaVersion},
	}})...)
	s.add("create tables", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.CreateTable, Table: "link", Keys: 2,
		Columns: []sqlsink.NewColumn{{Name: "a", Type: schema.String, Key: true}, {Name: "b", Type: schema.String, Key: true}},
	})...)
	s.add("add a column", d.DDL(sqlsink.MigrationStep{
		Kind: sqlsink.AddColumn, Table: "order",
		Columns: []sqlsink.NewColumn{{Name: "email", Type: schema.String}},
	})...)
	for _, c := range []struct {
		real sqlsink.RealColumn
		to   schema.Type
	}{
		{real("c", "int", 4, 10, 0, ""), schema.Integer},
		{real("c", "bigint", 8, 19, 0, ""), schema.Number},
		{real("c", "real", 4, 24, 0, ""), schema.Number},
		{real("c", "varchar", 10, 0, 0, "SQL_Latin1_General_CP1_CI_AS"), schema.String},
		{real("c", "bigint", 8, 19, 0, ""), schema.String},
		{real("c", "bit", 1, 1, 0, ""), schema.String},
		{real("c", "float", 8, 53, 0, ""), schema.String},
		{real("c", "decimal", 17, 38, 18, ""), schema.String},
		{real("c", "datetimeoffset", 10, 26, 6, ""), schema.String},
		{real("c", "datetime2", 8, 23, 3, ""), schema.String},
		{real("c", "date", 3, 10, 0, ""), schema.String},
	} {
		s.add("widen "+c.real.Type+" to "+c.to.String(),
			d.DDL(sqlsink.MigrationStep{Kind: sqlsink.WidenColumn, Table: "order", Real: &c.real, To: c.to})...)
	}
	relaxed := real("c", "nvarchar", 10, 0, 0, "Latin1_General_100_CI_AS")
	s.add("relax a column", d.DDL(sqlsink.MigrationStep{Kind: sqlsink.RelaxColumn, Table: "order", Real: &relaxed})...)
}

// TestStatements_MatchGolden compares every SQL text with testdata/statements.sql.
func TestStatements_MatchGolden(t *testing.T) {
	golden.Compare(t, "statements.sql", allStatements(t).String())
}
