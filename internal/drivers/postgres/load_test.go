package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// load loads files, each a string of lines, and finishes the load.
func (d *destination) load(job string, t *schema.Table, mode sink.LoadMode, files ...[]string) {
	d.T.Helper()
	d.LoadFiles(job, t, mode, files...)
	sinktest.Equal(d.T, nil, d.query(`SELECT * FROM _eds_load`))
	sinktest.Equal(d.T, nil, d.query(`SELECT relname FROM pg_class WHERE relname LIKE '\_eds\_load\__%' AND relkind = 'r'`))
}

var loadable = []string{"id string", "v string", "n integer"}

func TestLoad_ReplacesTheTableAtItsEnd(t *testing.T) {
	for name, prepare := range map[string]string{
		"a table of ours": ``,
		"no table":        `DROP TABLE "order"`,
		"a view on it":    `CREATE VIEW seen AS SELECT * FROM "order"`,
		"grants": `DO $$ BEGIN CREATE ROLE analyst; EXCEPTION WHEN duplicate_object THEN END $$; ` +
			`GRANT SELECT ON "order" TO analyst`,
		"a trigger": `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
			CREATE TRIGGER tr BEFORE INSERT ON "order" FOR EACH ROW EXECUTE FUNCTION note()`,
		"foreign key to it": `DELETE FROM "order" WHERE id <> '000'; CREATE TABLE line (o text REFERENCES "order"); ` +
			`INSERT INTO line VALUES ('000')`,
		"extra column":      `ALTER TABLE "order" ADD COLUMN mine text DEFAULT 'x'`,
		"index and comment": `CREATE INDEX by_v ON "order" (v); COMMENT ON TABLE "order" IS 'orders'; COMMENT ON COLUMN "order".v IS 'v'`,
		"other types":       `ALTER TABLE "order" ALTER COLUMN n TYPE money`,
		"publication":       `CREATE PUBLICATION pub FOR TABLE "order"`,
		"partitioned": `DROP TABLE "order"; CREATE TABLE "order" (id text PRIMARY KEY, v text, n bigint) PARTITION BY HASH (id);
			CREATE TABLE p0 PARTITION OF "order" FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO "order" VALUES ('old', 'old', 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			order := sinktest.Table(t, "order", 1, loadable...)
			d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"000","v":"old","n":1}`, `{"id":"old","v":"old","n":1}`).Batch())
			if prepare != "" {
				d.exec(prepare)
			}
			before := d.query(dependents)
			l := d.StartLoad("job", order, sink.Replace)
			rows := sinktest.Repeat(500, `{"id":"#","v":"new","n":7}`)
			if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, rows[250:]...)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.LoadFile(t.Context(), "two", sqltest.Images(order, rows[:250]...)); err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, nil, d.query(`SELECT id FROM "order" WHERE v = 'new'`))
			if _, err := l.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, sinktest.Repeat(500, "#|new|7"), d.query(`SELECT id, v, n::numeric::int FROM "order" ORDER BY id`))
			if name != "no table" {
				sinktest.Equal(t, before, d.query(dependents))
			}
			d.MustApply(sinktest.NewChanges(t, 9000).Put(order, sinktest.Repeat(500, `{"id":"#","v":"after","n":8}`)...).Batch())
			sinktest.Equal(t, sinktest.Repeat(500, "#|after"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
			d.load("next job", order, sink.Replace, []string{`{"id":"000","v":"again"}`})
			sinktest.Equal(t, []string{"000|again"}, d.query(`SELECT id, v FROM "order" ORDER BY id`))
		})
	}
}

// dependents describes the table and the objects that depend on it.
const dependents = `
SELECT 'acl ' || coalesce(relacl::text, '') || ' owner ' || relowner::regrole FROM pg_class WHERE oid = to_regclass('public.order')
UNION ALL SELECT 'view ' || definition FROM pg_views WHERE schemaname = 'public'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'order'
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = to_regclass('public.order') AND NOT tgisinternal
UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
  WHERE conrelid = to_regclass('public.order') OR confrelid = to_regclass('public.order')
UNION ALL SELECT 'comment ' || description FROM pg_description WHERE objoid = to_regclass('public.order')
UNION ALL SELECT 'publication ' || pubname FROM pg_publication_tables WHERE tablename = 'order'
UNION ALL SELECT 'column ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' ' ||
  attcollation::regcollation FROM pg_attribute WHERE attrelid = to_regclass('public.order') AND attnum > 0
ORDER BY 1`

func TestLoad_SwapsATableWithoutDependents(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.migrate(order)
	const identity = `SELECT to_regclass('public.order')::oid`
	before := d.query(identity)
	d.load("job", order, sink.Replace, sinktest.Repeat(10, `{"id":"#"}`))
	if after := d.query(identity); after[0] == before[0] {
		t.Error("the rows were copied once more")
	}
}

func TestLoad_KeepsValuesOfAnExtraColumn(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"kept"}`, `{"id":"gone"}`).Batch())
	d.exec(`ALTER TABLE "order" ADD COLUMN mine text; UPDATE "order" SET mine = 'note on ' || id`)
	d.load("job", order, sink.Replace, []string{`{"id":"kept","v":"new"}`, `{"id":"other","v":"new"}`})
	sinktest.Equal(t, []string{"kept|new|note on kept", "other|new|NULL"}, d.query(`SELECT id, v, mine FROM "order" ORDER BY id`))
}

func TestFinish_KeepsObjectsAddedMeanwhile(t *testing.T) {
	for name, change := range map[string]string{
		"column":  `ALTER TABLE "order" ADD COLUMN mine int DEFAULT 7`,
		"index":   `CREATE INDEX by_n ON "order" (n)`,
		"comment": `COMMENT ON TABLE "order" IS 'orders'`,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			order := sinktest.Table(t, "order", 1, loadable...)
			d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"000"}`).Batch())
			l := d.StartLoad("job", order, sink.Replace)
			if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, sinktest.Repeat(5, `{"id":"#","v":"new"}`)...)); err != nil {
				t.Fatal(err)
			}
			d.exec(change)
			before := d.query(dependents)
			if _, err := l.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, before, d.query(dependents))
			sinktest.Equal(t, sinktest.Repeat(5, "#|new"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		})
	}
}

func TestLoad_MergeKeepsOtherRows(t *testing.T) {
	for _, option := range []string{"metadata=false", "metadata=true"} {
		t.Run(option, func(t *testing.T) {
			d := open(t, option)
			order := sinktest.Table(t, "order", 1, loadable...)
			h := sinktest.NewChanges(t, 100)
			h.Put(order, `{"id":"other","v":"stays"}`, `{"id":"same","v":"old"}`)
			h.Clock = 9000
			h.Put(order, `{"id":"newer","v":"newer"}`)
			d.MustApply(h.Batch())
			d.load("job", order, sink.Merge, []string{
				`{"id":"same","v":"loaded"}`, `{"id":"newer","v":"loaded"}`,
				`{"id":"fresh","v":"loaded"}`,
			})
			newer := map[string]string{"metadata=false": "newer|loaded", "metadata=true": "newer|newer"}[option]
			sinktest.Equal(t, []string{"fresh|loaded", newer, "other|stays", "same|loaded"},
				d.query(`SELECT id, v FROM "order" ORDER BY id`))
		})
	}
}

func TestLoad_ContinuesAfterAnInterruption(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	one := d.StartLoad("job", order, sink.Replace)
	if _, err := one.LoadFile(t.Context(), "a", sqltest.Images(order, sinktest.Repeat(10, `{"id":"a#"}`)...)); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("the file is cut off")
	broken := func(yield func(*change.Row, error) bool) {
		for row, err := range sqltest.Images(order, sinktest.Repeat(5000, `{"id":"b#"}`)...) {
			if !yield(row, err) {
				return
			}
		}
		yield(nil, failed)
	}
	if _, err := one.LoadFile(t.Context(), "b", broken); !errors.Is(err, failed) {
		t.Fatalf("error %v, want %v", err, failed)
	}
	if _, err := one.LoadFile(t.Context(), "b", sqltest.Images(order, `{"id":"bad","n":"x"}`)); fault.Of(err) != fault.Poison {
		t.Fatalf("error %v", err)
	}
	d.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eds'`)
	two := d.StartLoad("job", order, sink.Replace)
	if !two.Loaded("a") || two.Loaded("b") {
		t.Errorf("a is loaded: %v, b is loaded: %v", two.Loaded("a"), two.Loaded("b"))
	}
	for _, file := range []string{"a", "b"} {
		if n, err := two.LoadFile(t.Context(), file, sqltest.Images(order, sinktest.Repeat(10, `{"id":"b#"}`)...)); err != nil || n != 10 {
			t.Fatal(n, err)
		}
	}
	if _, err := two.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Finish(t.Context()); err != nil {
		t.Errorf("finish again: %v", err)
	}
	sinktest.Equal(t, []string{"20"}, d.query(`SELECT count(*) FROM "order"`))
	sinktest.Equal(t, nil, d.query(`SELECT * FROM _eds_load`))
}

func TestLoad_StartsAgainForAnotherJobAndLeavesNothingIfDiscarded(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"live"}`).Batch())
	one := d.StartLoad("job 1", order, sink.Replace)
	if _, err := one.LoadFile(t.Context(), "a", sqltest.Images(order, `{"id":"1"}`)); err != nil {
		t.Fatal(err)
	}
	two := d.StartLoad("job 2", order, sink.Replace)
	if two.Loaded("a") {
		t.Error("a file of another job is loaded")
	}
	if _, err := two.LoadFile(t.Context(), "a", sqltest.Images(order, `{"id":"2"}`)); err != nil {
		t.Fatal(err)
	}
	for _, l := range []sink.Load{two, one} {
		if err := l.Discard(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sinktest.Equal(t, []string{"live"}, d.query(`SELECT id FROM "order"`))
	sinktest.Equal(t, nil, d.query(`SELECT * FROM _eds_load`))
	sinktest.Equal(t, nil, d.query(`SELECT relname FROM pg_class WHERE relname LIKE '\_eds\_load\__%' AND relkind = 'r'`))
}

// TestBeginLoad_RemovesStagingTablesOfAbandonedLoads: loads of earlier versions have no time, and
// the names of their staging tables contain no job.
func TestBeginLoad_RemovesStagingTablesOfAbandonedLoads(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.exec(`CREATE TABLE _eds_load (target text, file text, job text, row_count bigint NOT NULL, PRIMARY KEY (target, file, job))`)
	d.exec(`INSERT INTO _eds_load VALUES ('order', 'a', '00112233445566778899aabbccddeeff', 1), ('other', 'a', ` +
		`'00112233445566778899aabbccddeeff', 1)`)
	d.exec(`CREATE TABLE _eds_load_order (id text)`)
	abandoned, running := d.StartLoad("abandoned", order, sink.Replace), d.StartLoad("running", order, sink.Replace)
	for _, l := range []sink.Load{abandoned, running} {
		if _, err := l.LoadFile(t.Context(), "a", sqltest.Images(order, `{"id":"1"}`)); err != nil {
			t.Fatal(err)
		}
	}
	d.exec(`UPDATE _eds_load SET staged = staged - 25 * 3600 * 1000 WHERE job LIKE '` +
		strings.Split(sqlsink.StageName("abandoned", ""), "_")[3] + `%'`)
	d.StartLoad("next", order, sink.Replace)
	sinktest.Equal(t, slices.Sorted(slices.Values([]string{sqlsink.StageName("next", "order"), sqlsink.StageName("running", "order")})),
		d.query(`SELECT relname FROM pg_class WHERE relname LIKE '\_eds\_load\__%' AND relkind = 'r' ORDER BY relname`))
	sinktest.Equal(t, []string{"order|_eds_start", "order|_eds_start", "order|a", "other|a"},
		d.query(`SELECT target, file FROM _eds_load ORDER BY target, file`))
	if _, err := running.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := abandoned.Finish(t.Context()); !errors.Is(err, sink.ErrLoadLost) {
		t.Errorf("an abandoned load continues: %v", err)
	}
}

func TestLoad_KeepsTheLastOfDuplicateRows(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.load("job", order, sink.Replace, []string{`{"id":"1","v":"a"}`, `{"id":"2","v":"a"}`, `{"id":"1","v":"b"}`},
		[]string{`{"id":"1","v":"c"}`, `{"id":"3","v":"c"}`})
	sinktest.Equal(t, []string{"1|c", "2|a", "3|c"}, d.query(`SELECT id, v FROM "order" ORDER BY id`))
}

func TestLoad_RunsConcurrently(t *testing.T) {
	d := open(t)
	var loads sync.WaitGroup
	tables := make([]*schema.Table, 6)
	for i := range tables {
		tables[i] = sinktest.Table(t, fmt.Sprintf("t%d %s", i, strings.Repeat("long", 15)), 1, loadable...)
		l := d.StartLoad("job", tables[i], sink.Replace)
		loads.Go(func() {
			for _, file := range []string{"a", "b", "c"} {
				if _, err := l.LoadFile(t.Context(), file,
					sqltest.Images(tables[i], sinktest.Repeat(300, `{"id":"`+file+`#","n":1}`)...)); err != nil {
					t.Error(err)
				}
			}
			if _, err := l.Finish(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	loads.Wait()
	for _, tb := range tables {
		if got := len(sinktest.Rows(t, d, tb)); got != 900 {
			t.Errorf("%s has %d rows", tb.Name, got)
		}
	}
}
