package mysql_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// reader opens a session with short timeouts, as another program would.
func (d *destination) reader() *peers.MySQL {
	d.T.Helper()
	db := beside(d.T, d.url)
	db.Run(d.T, "SET lock_wait_timeout = 10")
	return db
}

const metadataWait = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for table metadata lock'"

func TestMigrate_LetsReadersInWhileItWaits(t *testing.T) {
	d := open(t)
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(sinktest.Table(t, "thing", 1, "id string", "n integer"), `{"id":"a","n":1}`).Batch())
	long, later := d.reader(), d.reader()
	long.Run(t, "START TRANSACTION; SELECT * FROM thing")

	wider := sinktest.Table(t, "thing", 1, "id string", "n integer", "m integer")
	done := make(chan error)
	go func() {
		_, err := d.Migrate(t.Context(), []*schema.Table{wider})
		done <- err
	}()
	for range 2 {
		sqltest.AwaitRows(d.T, func() []string { return d.query(metadataWait) })
		later.Run(t, "SELECT * FROM thing")
	}
	long.Run(t, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	d.MustApply(h.Put(wider, `{"id":"a","n":1,"m":2}`).Batch())
	sinktest.Equal(t, []string{"a|1|2"}, d.query("SELECT id, n, m FROM thing"))
}

func TestMigrate_NamesTheReaderThatItWaitsFor(t *testing.T) {
	for name, c := range map[string]struct {
		settings []string
		want     string
	}{
		"locks": {
			[]string{"performance_schema=ON", "performance_schema_instrument=wait/lock/metadata/sql/mdl=ON"},
			`locks on "thing" are held by connection %s (user`,
		},
		"transactions": {nil, "open transactions: connection %s (user"},
	} {
		t.Run(name, func(t *testing.T) {
			server := peers.StartMariaDB(t, c.settings...)
			d := openURL(t, server.Database(t), sink.Env{}, "lock_timeout=1s")
			d.MustApply(sinktest.NewChanges(t, 0).Put(sinktest.Table(t, "thing", 1, "id string", "n integer"), `{"id":"a","n":1}`).Batch())
			long := d.reader()
			long.Run(t, "START TRANSACTION; SELECT * FROM thing")
			wider := sinktest.Table(t, "thing", 1, "id string", "n integer", "m integer")
			_, err := d.Migrate(t.Context(), []*schema.Table{wider})
			want := fmt.Sprintf(c.want, long.Lines(t, "SELECT CONNECTION_ID()")[0])
			if fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), want) {
				t.Fatalf("want a transient error with %q, got: %v", want, err)
			}
			long.Run(t, "COMMIT")
			d.migrate(wider)
		})
	}
}

func TestFinish_LetsReadersInWhileItWaits(t *testing.T) {
	thing := sinktest.Table(t, "thing", 1, "id string", "n integer")
	d := open(t)
	d.MustApply(sinktest.NewChanges(t, 0).Put(thing, `{"id":"old","n":1}`).Batch())
	long, later := d.reader(), d.reader()
	l := d.StartLoad("job", thing, sink.Replace)
	defer l.Close(context.Background())
	if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"new","n":2}`)); err != nil {
		t.Fatal(err)
	}
	long.Run(t, "START TRANSACTION; SELECT * FROM thing")
	done := make(chan error)
	go func() {
		_, err := l.Finish(t.Context())
		done <- err
	}()
	for range 2 {
		sqltest.AwaitRows(d.T, func() []string { return d.query(metadataWait) })
		later.Run(t, "SELECT * FROM thing")
	}
	long.Run(t, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	sinktest.Equal(t, []string{"new|2"}, d.query("SELECT id, n FROM thing"))
}

func TestInspect_PassesOverLockedTables(t *testing.T) {
	thing := sinktest.Table(t, "thing", 1, "id string", "n integer")
	d := openURL(t, peers.MariaDB(t), sink.Env{ID: "id"})
	l := d.StartLoad("job", thing, sink.Replace)
	defer l.Close(context.Background())
	if !l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: "thing", Job: "job"}) {
		t.Fatal("the load keeps no records")
	}
	if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"a","n":1}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := d.reader()
	for _, look := range []struct {
		statements string
		kind       sink.FindingKind
	}{{"LOCK TABLES thing WRITE", sink.FoundLocked}, {"UNLOCK TABLES; TRUNCATE thing", sink.FoundEmpty}} {
		other.Run(t, look.statements)
		findings, err := d.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]sink.Finding{{Table: "thing", Kind: look.kind}}, findings); diff != "" {
			t.Errorf("after %s (-want +got)\n%s", look.statements, diff)
		}
	}
}

func TestApply_LeavesAServerThatDoesNotAnswer(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		server := peers.MariaDB(t)
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		proxy := sinktest.NewProxy(t, u.Host)
		u.Host = proxy.Addr()
		d := openURL(t, u.String(), sink.Env{}, "statement_timeout=2s", "timeout=1s", option)
		d.db = beside(t, server)
		thing := sinktest.Table(t, "thing", 1, "id string", "n integer")
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(thing, `{"id":"a","n":1}`).Batch())
		for i := range rows {
			h.Put(thing, fmt.Sprintf(`{"id":"%d","n":2}`, i))
		}
		batch := h.Batch()
		proxy.Stall()
		sqltest.WantSilent(t, d.Apply(t.Context(), batch))
		proxy.Repair()
		d.MustApply(batch)
		d.MustApply(h.Put(thing, `{"id":"a","n":3}`).Batch())
		sinktest.Equal(t, []string{fmt.Sprintf("%d|%d", rows+1, 2*rows+3)}, d.query("SELECT COUNT(*), SUM(n) FROM thing"))
	})
}

// TestApply_EndsAbandonedSessions: a statement that continued to run would keep its locks.
func TestApply_EndsAbandonedSessions(t *testing.T) {
	d := open(t, "statement_timeout=2s")
	thing := sinktest.Table(t, "thing", 1, "id string", "n integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(thing, `{"id":"a","n":1}`).Batch())
	d.exec("CREATE TRIGGER doze BEFORE UPDATE ON thing FOR EACH ROW SET NEW.n = NEW.n + SLEEP(600)")
	batch := h.Put(thing, `{"id":"a","n":2}`).Batch()
	sqltest.WantSilent(t, d.Apply(t.Context(), batch))
	d.exec("SET lock_wait_timeout = 10; DROP TRIGGER doze")
	d.MustApply(batch)
	sinktest.Equal(t, []string{"a|2"}, d.query("SELECT id, n FROM thing"))
}

// TestFinish_MayTakeLong: the server reports that it is still processing the statement.
func TestFinish_MayTakeLong(t *testing.T) {
	d := open(t, "statement_timeout=2s")
	thing := sinktest.Table(t, "thing", 1, "id string", "n integer")
	d.migrate(thing)
	d.exec("CREATE TRIGGER doze BEFORE INSERT ON thing FOR EACH ROW SET NEW.n = NEW.n + SLEEP(5)")
	d.load("job", thing, sink.Replace, []string{`{"id":"a","n":1}`})
	sinktest.Equal(t, []string{"a|1"}, d.query("SELECT id, n FROM thing"))
}
