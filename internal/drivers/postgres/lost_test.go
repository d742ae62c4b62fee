package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// openImported imports one row into a new database and opens the database as the server command
// does.
func openImported(t *testing.T, thing *schema.Table) *destination {
	t.Helper()
	importing := openURL(t, peers.Postgres(t), sink.Env{ID: "id"})
	l := importing.StartLoad("job", thing, sink.Replace)
	if !l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: thing.Name, Clock: cdc.Timestamp{Wall: 5000}, Job: "job"}) {
		t.Fatal("the load keeps no records")
	}
	if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"a","n":1}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := openURL(t, importing.url, sink.Env{ID: "id", Stream: "s", Consumer: "c", Filter: "f"})
	if _, err := d.Records(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Begin(t.Context(), sink.Beginning{}); err != nil {
		t.Fatal(err)
	}
	return d
}

func things(t *testing.T) *schema.Table {
	return sinktest.Table(t, "thing", 1, "id string", "n integer")
}

func (d *destination) wantFindings(want ...sink.Finding) {
	d.T.Helper()
	got, err := d.Inspect(d.T.Context())
	if err != nil {
		d.T.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		d.T.Errorf("findings (-want +got)\n%s", diff)
	}
}

// wantRefused checks that err reports that the destination cannot store the table.
func wantRefused(t *testing.T, err error, table string, missing bool) {
	t.Helper()
	refused := new(sink.TableError)
	if !errors.As(err, &refused) || refused.Table != table || fault.Of(err) != fault.Fatal || errors.Is(err, sink.ErrMissing) != missing {
		t.Errorf("want a fatal *sink.TableError of %q (missing: %v), got %v", table, missing, err)
	}
}

// TestInspect_FindsNothingAfterARewrite: some statements store the same table in another file.
func TestInspect_FindsNothingAfterARewrite(t *testing.T) {
	thing := things(t)
	d := openImported(t, thing)
	d.wantFindings()
	d.exec("CREATE INDEX thing_n ON thing (n)")
	for _, statement := range []string{
		"VACUUM FULL thing", "VACUUM FULL _eds_checkpoint", "CLUSTER thing USING thing_n", "REINDEX TABLE thing",
		"ALTER TABLE thing ALTER n TYPE numeric",
		"ALTER TABLE thing RENAME TO other; ALTER TABLE other RENAME TO thing", "ALTER TABLE thing SET UNLOGGED",
	} {
		before := d.query("SELECT oid FROM pg_class WHERE relname = 'thing'")
		d.exec(statement)
		sinktest.Equal(t, before, d.query("SELECT oid FROM pg_class WHERE relname = 'thing'"))
		d.wantFindings()
	}
	d.exec("TRUNCATE thing")
	d.wantFindings(sink.Finding{Table: "thing", Kind: sink.FoundEmpty})
	d.MustApply(sinktest.NewChanges(t, 0).Put(thing, `{"id":"b","n":2}`).Batch())
	d.wantFindings()
}

func TestInspect_FindsAnotherTable(t *testing.T) {
	for name, statements := range map[string]string{
		"dropped and created again": "CREATE TABLE again (LIKE thing INCLUDING ALL); DROP TABLE thing; " +
			"ALTER TABLE again RENAME TO thing; INSERT INTO thing VALUES ('x', 1)",
		"partitioned": "DROP TABLE thing; CREATE TABLE thing (id text PRIMARY KEY, n bigint) PARTITION BY HASH (id); " +
			"CREATE TABLE p PARTITION OF thing FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
	} {
		t.Run(name, func(t *testing.T) {
			d := openImported(t, things(t))
			d.exec(statements)
			d.wantFindings(sink.Finding{Table: "thing", Kind: sink.FoundAnother})
		})
	}
}

// TestInspect_FindsNothingInARestoredDatabase: a restore from a dump changes all ids, so a
// different id proves nothing.
func TestInspect_FindsNothingInARestoredDatabase(t *testing.T) {
	d := openImported(t, things(t))
	for _, table := range []string{"thing", "_eds_checkpoint"} {
		d.exec(fmt.Sprintf("CREATE TABLE again (LIKE %[1]s INCLUDING ALL); INSERT INTO again SELECT * FROM %[1]s; DROP TABLE %[1]s; "+
			"ALTER TABLE again RENAME TO %[1]s", table))
	}
	d.wantFindings()
}

// TestApply_RefusesAnotherObjectWithTheTablesName: eds does not write to another object, and the
// table is missing until an import creates it.
func TestApply_RefusesAnotherObjectWithTheTablesName(t *testing.T) {
	for name, object := range map[string]struct{ statement, other string }{
		"view": {"CREATE VIEW thing AS SELECT 'a' AS id, 1 AS n", "a view"},
		"view of a union": {"CREATE TABLE other (id text, n bigint); CREATE VIEW thing AS SELECT * FROM other UNION ALL SELECT * " +
			"FROM other", "a view"},
		"materialized view": {"CREATE MATERIALIZED VIEW thing AS SELECT 'a' AS id, 1 AS n", "a materialized view"},
		"sequence":          {"CREATE SEQUENCE thing", "a sequence"},
		"index":             {"CREATE TABLE other (id text); CREATE INDEX thing ON other (id)", "an index"},
		"type":              {"CREATE TYPE thing AS (id text, n bigint)", "a type"},
		"foreign table": {"CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; " +
			"CREATE FOREIGN TABLE thing (id text, n bigint) SERVER s", "a foreign table"},
	} {
		t.Run(name, func(t *testing.T) {
			thing := things(t)
			d := openImported(t, thing)
			d.MustApply(sinktest.NewChanges(t, 0).Put(thing, `{"id":"b","n":1}`).Batch()) // d knows the table
			d.exec("DROP TABLE thing")
			d.exec(object.statement)
			d.wantFindings(sink.Finding{Table: "thing", Kind: sink.FoundAbsent, Other: object.other})
			wantRefused(t, d.Apply(t.Context(), sinktest.NewChanges(t, 1).Delete(thing, `{"id":"b","n":1}`).Batch()), "thing", true)
			wantRefused(t, d.Apply(t.Context(), sinktest.NewChanges(t, 1).Put(thing, `{"id":"b","n":2}`).Batch()), "thing", true)
			_, err := d.BeginLoad(t.Context(), "again", thing, sink.Replace, sink.Scope{})
			wantRefused(t, err, "thing", false)
		})
	}
}

// TestLoad_LeavesTheNameOfAnotherTablesKeyAlone places a table whose key's default name is in use:
// it is the name of the index of a table that was renamed.
func TestLoad_LeavesTheNameOfAnotherTablesKeyAlone(t *testing.T) {
	thing := things(t)
	d := openImported(t, thing)
	d.exec("ALTER TABLE thing RENAME TO thing_old")
	again := openURL(t, d.url, sink.Env{ID: "id"})
	l := again.StartLoad("again", thing, sink.Replace)
	if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"a","n":2}`)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := l.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	sinktest.Equal(t, []string{"a|2"}, d.query("SELECT id, n FROM thing"))
	sinktest.Equal(t, []string{"a|1"}, d.query("SELECT id, n FROM thing_old"))
}

func TestMigrate_RefusesMoreColumnsThanATableCanHave(t *testing.T) {
	const most = 1600 // PostgreSQL's
	columns := []string{"id string"}
	for i := range most {
		columns = append(columns, fmt.Sprintf("c%d boolean", i))
	}
	wide, thing := sinktest.Table(t, "wide", 1, columns...), things(t)
	d := open(t)
	lines, err := d.Migrate(t.Context(), []*schema.Table{wide, thing})
	wantRefused(t, err, "wide", false)
	sinktest.Equal(t, []string{`created table "thing" with 2 columns`}, lines)
	wantRefused(t, d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(wide, `{"id":"a"}`).Put(thing, `{"id":"a","n":1}`).Batch()), "wide",
		false)
	sinktest.Equal(t, nil, d.query("SELECT id, n FROM thing"))
	d.MustApply(sinktest.NewChanges(t, 2).Put(thing, `{"id":"a","n":1}`).Batch())
	sinktest.Equal(t, []string{"a|1"}, d.query("SELECT id, n FROM thing"))
}
