package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// TestLoadRows_FindsRowsThatConstraintsRefuse: the load names the rows that the user's constraints
// refuse, and finishes without them.
func TestLoadRows_FindsRowsThatConstraintsRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		ddl, bad string
	}{
		"check":     {`ALTER TABLE "order" ADD CONSTRAINT "it's small" CHECK (n < 10)`, `{"id":"bad","v":"","n":11}`},
		"not valid": {`ALTER TABLE "order" ADD CONSTRAINT small CHECK (n < 10) NOT VALID`, `{"id":"bad","n":11}`},
		"two columns": {
			`ALTER TABLE "order" ADD CHECK (n < 10 OR v IS NULL), ADD COLUMN mine int DEFAULT 7 CHECK (mine < 8)`,
			`{"id":"bad","n":11,"v":"x"}`,
		},
		"not null": {`ALTER TABLE "order" ALTER v SET NOT NULL`, `{"id":"bad","n":1}`},
		"domain":   {`CREATE DOMAIN small AS bigint CHECK (VALUE < 10); ALTER TABLE "order" ALTER n TYPE small`, `{"id":"bad","n":11}`},
		"partitioning": {`DROP TABLE "order"; CREATE TABLE "order" (id text PRIMARY KEY, v text, ` +
			`n bigint CHECK (n < 10)) PARTITION BY HASH (id); CREATE TABLE part PARTITION OF "order" FOR ` +
			`VALUES WITH (MODULUS 1, REMAINDER 0)`, `{"id":"bad","n":11}`},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			order := sinktest.Table(t, "order", 1, loadable...)
			order.Columns[order.Slot([]byte("v"))].Required = true // otherwise eds drops NOT NULL
			d.migrate(order)
			d.exec(c.ddl)
			const notNull = `SELECT attname, attnotnull FROM pg_attribute WHERE attrelid = to_regclass('public.order') ` +
				`AND attnum > 0 ORDER BY 1`
			before := d.query(notNull)
			l := d.StartLoad("job", order, sink.Replace)
			rows := sinktest.Repeat(5000, `{"id":"#","v":"new","n":1}`)
			rows = slices.Insert(rows, 4321, c.bad)
			if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, rows...)); fault.Of(err) != fault.Poison {
				t.Fatalf("a row that is refused: %v is %v", err, fault.Of(err))
			}
			var refused []string
			n, err := l.(sink.RowLoad).LoadRows(t.Context(), "one", sqltest.Images(order, rows...),
				func(row *change.Row, number int64, reason error) error {
					refused = append(refused, fmt.Sprint(number, " ", string(row.Image), " ", fault.Of(reason)))
					if strings.Contains(reason.Error(), "_eds_") {
						t.Errorf("the reason names the staging table: %v", reason)
					}
					return nil
				})
			if err != nil || n != 5000 {
				t.Fatalf("%d rows, %v", n, err)
			}
			sinktest.Equal(t, []string{"4322 " + c.bad + " poison"}, refused)
			if placed, err := l.Finish(t.Context()); placed != 5000 || err != nil {
				t.Fatalf("%d rows in place, %v", placed, err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, []string{"5000"}, d.query(`SELECT count(*) FROM "order"`))
			sinktest.Equal(t, before, d.query(notNull))
			sinktest.Equal(t, []string{"0"}, d.query(`SELECT count(*) FROM _eds_load WHERE file <> '_eds_start'`))
		})
	}
}

// TestLoad_LeavesChecksToTriggersThatChangeRows: a row may satisfy the checks after a trigger
// changed it.
func TestLoad_LeavesChecksToTriggersThatChangeRows(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.migrate(order)
	d.exec(`ALTER TABLE "order" ADD CHECK (n < 10), ALTER v SET NOT NULL;
		CREATE FUNCTION fix() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := 9; NEW.v := coalesce(NEW.v, 'none'); RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE INSERT OR UPDATE ON "order" FOR EACH ROW EXECUTE FUNCTION fix()`)
	d.load("job", order, sink.Replace, []string{`{"id":"1","n":11}`})
	sinktest.Equal(t, []string{"1|none|9"}, d.query(`SELECT id, v, n FROM "order"`))
}

// TestLoad_StartsAgainIfAConstraintIsDropped: staged rows may lack rows that are valid now.
func TestLoad_StartsAgainIfAConstraintIsDropped(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.migrate(order)
	d.exec(`ALTER TABLE "order" ADD CONSTRAINT small CHECK (n < 10)`)
	l := d.StartLoad("job", order, sink.Replace)
	load := func() {
		t.Helper()
		_, err := l.(sink.RowLoad).LoadRows(t.Context(), "one", sqltest.Images(order, `{"id":"1","n":11}`, `{"id":"2","n":1}`),
			func(*change.Row, int64, error) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	load()
	d.exec(`ALTER TABLE "order" DROP CONSTRAINT small`)
	if _, err := l.Finish(t.Context()); !errors.Is(err, sink.ErrLoadLost) {
		t.Errorf("got %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = d.StartLoad("job", order, sink.Replace)
	if l.Loaded("one") {
		t.Error("the file counts as loaded")
	}
	load()
	if n, err := l.Finish(t.Context()); n != 2 || err != nil {
		t.Errorf("%d rows, %v", n, err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
