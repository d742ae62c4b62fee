package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// session opens a session with short timeouts, as another program would.
func (d *destination) session() *pgx.Conn {
	d.T.Helper()
	conn, err := pgx.Connect(context.Background(), d.url+"&application_name=report&statement_timeout=10s")
	if err != nil {
		d.T.Fatal(err)
	}
	d.T.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, statements string) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), statements, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

const exclusiveWait = "SELECT pid FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 'thing'::regclass"

func TestApply_NamesHoldersOfLocks(t *testing.T) {
	d := open(t, "lock_timeout=1s")
	thing := things(t)
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(thing, `{"id":"a","n":1}`).Batch())
	other := d.session()
	for _, lock := range []string{
		"LOCK TABLE thing IN ACCESS EXCLUSIVE MODE", "LOCK TABLE thing IN SHARE MODE",
		"UPDATE thing SET n = 2 -- a secret",
	} {
		run(t, other, "BEGIN; "+lock)
		batch := h.Put(thing, `{"id":"a","n":3}`).Batch()
		err := d.Apply(t.Context(), batch)
		if fault.Of(err) != fault.Transient || errors.As(err, new(*sink.TableError)) {
			t.Fatalf("%s: the error is not transient: %v", lock, err)
		}
		for _, part := range []string{
			fmt.Sprintf("pid %d ", other.PgConn().PID()), `application "report"`, `"thing"`,
			"idle in transaction", "transaction for ", "55P03",
		} {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: want an error with %q, got: %v", lock, part, err)
			}
		}
		run(t, other, "ROLLBACK")
		d.MustApply(batch)
		sinktest.Equal(t, []string{"a|3"}, d.query("SELECT id, n FROM thing"))
	}
}

// TestApply_NamesHoldersOfLocksWithoutPrivileges: the server hides the times of other users'
// sessions.
func TestApply_NamesHoldersOfLocksWithoutPrivileges(t *testing.T) {
	server := peers.StartPostgres(t)
	d := openURL(t, server.Database(t), sink.Env{})
	d.exec("CREATE USER plain; CREATE SCHEMA plain AUTHORIZATION plain")
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("plain")
	plain := openURL(t, u.String(), sink.Env{}, "schema=plain", "lock_timeout=1s")
	h := sinktest.NewChanges(t, 0)
	plain.MustApply(h.Put(things(t), `{"id":"a","n":1}`).Batch())
	other := d.session()
	run(t, other, "BEGIN; UPDATE plain.thing SET n = 2")
	err = plain.Apply(t.Context(), h.Put(things(t), `{"id":"a","n":3}`).Batch())
	if part := fmt.Sprintf("pid %d (user %q, application \"report\")", other.PgConn().PID(), other.Config().User); err == nil ||
		!strings.Contains(err.Error(), part) {
		t.Errorf("want an error with %q, got: %v", part, err)
	}
	run(t, other, "ROLLBACK")
}

func TestMigrate_LetsReadersInWhileItWaits(t *testing.T) {
	d := open(t)
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(things(t), `{"id":"a","n":1}`).Batch())
	long, later := d.session(), d.session()
	run(t, long, "BEGIN; SELECT * FROM thing")

	wider := sinktest.Table(t, "thing", 1, "id string", "n integer", "m integer")
	done := make(chan error)
	go func() {
		_, err := d.Migrate(t.Context(), []*schema.Table{wider})
		done <- err
	}()
	for range 2 {
		sqltest.AwaitRows(d.T, func() []string { return d.query(exclusiveWait) })
		run(t, later, "SELECT * FROM thing")
	}
	run(t, long, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	d.MustApply(h.Put(wider, `{"id":"a","n":1,"m":2}`).Batch())
	sinktest.Equal(t, []string{"a|1|2"}, d.query("SELECT id, n, m FROM thing"))
}

func TestMigrate_NamesTheReaderThatItWaitsFor(t *testing.T) {
	d := open(t, "lock_timeout=1s")
	d.MustApply(sinktest.NewChanges(t, 0).Put(things(t), `{"id":"a","n":1}`).Batch())
	long := d.session()
	run(t, long, "BEGIN; SELECT * FROM thing")
	wider := sinktest.Table(t, "thing", 1, "id string", "n integer", "m integer")
	_, err := d.Migrate(t.Context(), []*schema.Table{wider})
	if part := fmt.Sprintf("pid %d ", long.PgConn().PID()); fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), part) {
		t.Fatalf("want a transient error with %q, got: %v", part, err)
	}
	run(t, long, "COMMIT")
	d.migrate(wider)
}

func TestFinish_LetsReadersInWhileItWaits(t *testing.T) {
	for name, extra := range map[string]string{"swap": "SELECT 1", "truncate": "CREATE INDEX mine ON thing (n)"} {
		t.Run(name, func(t *testing.T) {
			thing := things(t)
			d := open(t)
			d.MustApply(sinktest.NewChanges(t, 0).Put(thing, `{"id":"old","n":1}`).Batch())
			long, later := d.session(), d.session()
			run(t, later, extra)
			l := d.StartLoad("job", thing, sink.Replace)
			defer l.Close(context.Background())
			if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"new","n":2}`)); err != nil {
				t.Fatal(err)
			}
			run(t, long, "BEGIN; SELECT * FROM thing")
			done := make(chan error)
			go func() {
				_, err := l.Finish(t.Context())
				done <- err
			}()
			for range 2 {
				sqltest.AwaitRows(d.T, func() []string { return d.query(exclusiveWait) })
				run(t, later, "SELECT * FROM thing")
			}
			run(t, long, "COMMIT")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, []string{"new|2"}, d.query("SELECT id, n FROM thing"))
		})
	}
}

func TestInspect_PassesOverLockedTables(t *testing.T) {
	thing := things(t)
	d := openImported(t, thing)
	other := d.session()
	run(t, other, "BEGIN; LOCK TABLE thing IN ACCESS EXCLUSIVE MODE")
	d.wantFindings(sink.Finding{Table: "thing", Kind: sink.FoundLocked})
	run(t, other, "ROLLBACK; TRUNCATE thing")
	d.wantFindings(sink.Finding{Table: "thing", Kind: sink.FoundEmpty})
}

// stop stops the server process of the sink's latest session until the returned function is called.
func (d *destination) stop() (resume func()) {
	d.T.Helper()
	return d.stopProcess(d.query("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'eds' " +
		"ORDER BY backend_start DESC")[0])
}

// stopProcess is like stop, but for the server process with the given process id.
func (d *destination) stopProcess(number string) (resume func()) {
	d.T.Helper()
	pid, err := strconv.Atoi(number)
	if err != nil {
		d.T.Fatal(err)
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(pid, s); err != nil {
			d.T.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	return func() {
		signal(syscall.SIGCONT)
		// The sink does not use it any more.
		sqltest.AwaitRows(d.T, func() []string {
			return d.query(fmt.Sprintf("SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %d)", pid))
		})
	}
}

func TestApply_LeavesAStoppedServerProcess(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t, "statement_timeout=2s")
		thing := things(t)
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(thing, `{"id":"a","n":1}`).Batch())
		resume := d.stop()
		for i := range rows {
			h.Put(thing, fmt.Sprintf(`{"id":"%d","n":2}`, i))
		}
		batch := h.Batch()
		sqltest.WantSilent(t, d.Apply(t.Context(), batch))
		d.MustApply(batch)
		resume()
		d.MustApply(h.Put(thing, `{"id":"a","n":3}`).Batch())
		sinktest.Equal(t, []string{fmt.Sprintf("%d|%d", rows+1, 2*rows+3)}, d.query("SELECT count(*), sum(n) FROM thing"))
	})
}

func TestLoadFile_LeavesAStoppedServerProcess(t *testing.T) {
	wide := sinktest.Table(t, "thing", 1, "id string", "text string")
	d := open(t, "statement_timeout=2s")
	d.migrate(wide)
	l := d.StartLoad("job", wide, sink.Replace)
	defer l.Close(context.Background())
	// The batch is larger than the buffers between eds and the server.
	lines, text := make([]string, 2000), strings.Repeat("x", 16<<10)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"%d","text":"%s"}`, i, text)
	}
	resume := d.stop()
	_, err := l.LoadFile(t.Context(), "file", sqltest.Images(wide, lines...))
	sqltest.WantSilent(t, err)
	resume()
	for _, what := range []func() error{
		func() error { _, err := l.LoadFile(t.Context(), "file", sqltest.Images(wide, lines...)); return err },
		func() error { _, err := l.Finish(t.Context()); return err },
	} {
		if err := what(); err != nil {
			t.Fatal(err)
		}
	}
	sinktest.Equal(t, []string{"2000"}, d.query("SELECT count(*) FROM thing"))
}

func TestFinish_LeavesAStoppedServerProcess(t *testing.T) {
	thing := things(t)
	d := open(t, "statement_timeout=2s")
	d.migrate(thing)
	l := d.StartLoad("job", thing, sink.Replace)
	defer l.Close(context.Background())
	if _, err := l.LoadFile(t.Context(), "file", sqltest.Images(thing, `{"id":"a","n":1}`)); err != nil {
		t.Fatal(err)
	}
	resume := d.stop()
	_, err := l.Finish(t.Context())
	sqltest.WantSilent(t, err)
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	resume()
	sinktest.Equal(t, []string{"a|1"}, d.query("SELECT id, n FROM thing"))
}

func TestClose_LeavesAStoppedServerProcess(t *testing.T) {
	d := openImported(t, things(t))
	resume := d.stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := d.Close(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("closing has returned %v", err)
	}
	resume()
}

// TestApply_CancelsAbandonedCalls: a statement that continued to run would keep its locks.
func TestApply_CancelsAbandonedCalls(t *testing.T) {
	d := open(t, "statement_timeout=2s")
	thing := things(t)
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(thing, `{"id":"a","n":1}`).Batch())
	d.exec("CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN new; END'")
	d.exec("CREATE TRIGGER doze BEFORE UPDATE ON thing FOR EACH ROW EXECUTE FUNCTION doze()")
	batch := h.Put(thing, `{"id":"a","n":2}`).Batch()
	sqltest.WantSilent(t, d.Apply(t.Context(), batch))
	d.exec("DROP TRIGGER doze ON thing")
	d.MustApply(batch)
	sinktest.Equal(t, []string{"a|2"}, d.query("SELECT id, n FROM thing"))
}

// TestMigrate_MayTakeLong: the server reports that it is still changing the table.
func TestMigrate_MayTakeLong(t *testing.T) {
	d := open(t, "statement_timeout=2s")
	d.exec("CREATE FUNCTION doze() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); END'")
	d.exec("CREATE EVENT TRIGGER doze ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION doze()")
	d.migrate(things(t))
}

// indexing makes every CREATE TABLE also build a slow index with the given number of rows. Each row
// fills one block and takes half a second. The returned query returns a row while the build runs.
func (d *destination) indexing(rows int) (under string) {
	d.exec("CREATE TABLE slow (x text, g int); ALTER TABLE slow ALTER x SET STORAGE PLAIN")
	d.exec(fmt.Sprintf("INSERT INTO slow SELECT repeat('x', 7000), g FROM generate_series(1, %d) g", rows))
	d.exec("CREATE FUNCTION doze(g int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN g; END'")
	d.exec("CREATE FUNCTION build() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN CREATE INDEX ON slow (doze(g)); END'")
	d.exec("CREATE EVENT TRIGGER build ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION build()")
	return "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() AND blocks_done > 1"
}

// TestMigrate_LetsAnIndexTakeLong: the server reports progress.
func TestMigrate_LetsAnIndexTakeLong(t *testing.T) {
	d := open(t, "statement_timeout=1s")
	d.indexing(12)
	d.migrate(things(t))
	if n := d.query("SELECT count(*) FROM pg_index WHERE indrelid = 'slow'::regclass AND indisvalid"); n[0] == "0" {
		t.Error("no index was built")
	}
}

// TestMigrate_LeavesAServerProcessThatStoppedInAnIndex: the server reports an active process
// without progress.
func TestMigrate_LeavesAServerProcessThatStoppedInAnIndex(t *testing.T) {
	d := open(t, "statement_timeout=1s")
	under := d.indexing(20)
	done := make(chan error)
	go func() {
		_, err := d.Migrate(t.Context(), []*schema.Table{things(t)})
		done <- err
	}()
	resume := d.stopProcess(sqltest.AwaitRows(d.T, func() []string { return d.query(under) })[0])
	err := <-done
	sqltest.WantSilent(t, err)
	if silent := new(sqlsink.SilentError); errors.As(err, &silent) && silent.Limit > 10*time.Second {
		t.Errorf("eds gave it up after %v", silent.Limit)
	}
	resume()
}
