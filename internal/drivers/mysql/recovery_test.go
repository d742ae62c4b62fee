package mysql_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

func TestCheckpoint_MovesWithTheBatch(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		server := peers.MariaDB(t)
		d := openURL(t, server, sqltest.WriterEnv, option)
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		if got := d.Position(); got != (cdc.Position{}) {
			t.Errorf("a new checkpoint is %v", got)
		}
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":1}`)...).Batch())
		last := cdc.Position{Sequence: uint64(rows), Stored: int64(rows)}
		if got := d.Position(); got != last {
			t.Errorf("the checkpoint is %v, want %v", got, last)
		}
		again := openURL(t, server, sqltest.WriterEnv, option)
		if got := again.Position(); got != last {
			t.Errorf("another session's checkpoint is %v, want %v", got, last)
		}
		elsewhere := sqltest.WriterEnv
		elsewhere.Filter = strings.Repeat("dbchange.*.*.company.>,", 100)
		other := openURL(t, server, elsewhere)
		if got := other.Position(); got != (cdc.Position{}) {
			t.Errorf("under another filter it is %v", got)
		}
		bad := h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":2}`)...).Put(order, `{"id":"bad","v":"x"}`).Batch()
		if err := d.Apply(t.Context(), bad); fault.Of(err) != fault.Poison {
			t.Fatalf("error %v", err)
		}
		if got := d.Position(); got != last {
			t.Errorf("after a failed batch the checkpoint is %v, want %v", got, last)
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|1"), d.query("SELECT id, v FROM `order` ORDER BY id"))
		if err := d.ResetCheckpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.Position(); got != (cdc.Position{}) {
			t.Errorf("after a reset it is %v", got)
		}
	})
}

func TestApply_NoticesAnotherWriter(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		server := peers.MariaDB(t)
		one, two := openURL(t, server, sqltest.WriterEnv, option), openURL(t, server, sqltest.WriterEnv, option)
		order := sinktest.Table(t, "order", 1, "id string", "who string")
		h := sinktest.NewChanges(t, 0)
		one.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"one"}`)...).Batch())
		two.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"two"}`)...).Batch())
		err := one.Apply(t.Context(), h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"one again"}`)...).Batch())
		if !errors.As(err, new(*sink.WriterError)) || fault.Of(err) != fault.Fatal {
			t.Errorf("error %v of class %v, want a *sink.WriterError, fatal", err, fault.Of(err))
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|two"), one.query("SELECT id, who FROM `order` ORDER BY id"))
	})
}

func TestCommit_IsNotRepeatedIfItsResponseIsLost(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		server := peers.MariaDB(t)
		var committing atomic.Bool
		w := sqltest.NewLossyProxy(t, server, func(request string) {
			if strings.HasSuffix(request, "\x03COMMIT") {
				committing.Store(true)
			}
		}, func(string) bool { return committing.Swap(false) })
		d := openURL(t, w.URL, sqltest.WriterEnv, option, "tls=false")
		d.url = server
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":1}`)...).Batch())
		d.exec("CREATE TABLE writes (n int); CREATE TRIGGER tr AFTER UPDATE ON `order` FOR EACH ROW INSERT INTO writes VALUES (1)")
		w.Lose.Store(true)
		batch := h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":2}`)...).Batch()
		d.MustApply(batch) // the engine notices
		if w.Lose.Load() {
			t.Error("no response was lost")
		}
		sinktest.Equal(t, []string{fmt.Sprint(rows)}, d.query("SELECT COUNT(*) FROM writes"))
		sinktest.Equal(t, sinktest.Repeat(rows, "#|2"), d.query("SELECT id, v FROM `order` ORDER BY id"))
		if got := d.Position(); got != batch.Last {
			t.Errorf("the checkpoint is %v, want %v", got, batch.Last)
		}
		d.MustApply(batch)
		sinktest.Equal(t, []string{fmt.Sprint(rows)}, d.query("SELECT COUNT(*) FROM writes"))
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":3}`)...).Batch())
	})
}

func TestApply_ReconnectsAtOnceAfterALostSession(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv, option)
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		h := sinktest.NewChanges(t, 0)
		for i := range 3 {
			d.MustApply(h.Put(order, sinktest.Repeat(rows, fmt.Sprintf(`{"id":"#","v":%d}`, i))...).Batch())
			for _, id := range d.query("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()") {
				d.exec("KILL " + id)
			}
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|2"), d.query("SELECT id, v FROM `order` ORDER BY id"))
	})
}

func TestApply_CreatesDroppedObjectsAgain(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv, option)
		order := sinktest.Table(t, "order", 1, "id string", "v integer", "w string")
		h := sinktest.NewChanges(t, 0)
		put := func() {
			t.Helper()
			d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":1,"w":"x"}`)...).Batch())
			sinktest.Equal(t, sinktest.Repeat(rows, "#|1|x"), d.query("SELECT id, v, w FROM `order` ORDER BY id"))
		}
		put()
		for _, statement := range []string{
			"DROP TABLE `order`", "ALTER TABLE `order` DROP COLUMN v", "DROP TABLE _eds_checkpoint",
			"ALTER TABLE `order` MODIFY COLUMN v smallint", "ALTER TABLE `order` MODIFY COLUMN v text",
		} {
			d.exec(statement)
			if strings.Contains(statement, "_eds_checkpoint") {
				d.WantLost(h.Put(order, `{"id":"1"}`).Batch())
			}
			put()
		}
	})
}

func TestApply_RetriesADroppedDatabase(t *testing.T) {
	d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv)
	order := sinktest.Table(t, "order", 1, "id string")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"1"}`).Batch())
	name := d.query("SELECT DATABASE()")[0]
	d.exec("DROP DATABASE " + name)
	batch := h.Put(order, `{"id":"2"}`).Batch()
	for _, says := range []string{"Unknown database", "run: CREATE DATABASE `" + name + "`"} {
		if err := d.Apply(t.Context(), batch); err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v of class %v", err, fault.Of(err))
		}
	}
	d.exec("CREATE DATABASE " + name + "; USE " + name)
	d.WantLost(batch)
	d.MustApply(batch)
	sinktest.Equal(t, []string{"2"}, d.query("SELECT id FROM `order`"))
}

// TestApply_LosesNothingIfTheServerDies applies batches as the pipeline does, while the server is
// stopped and killed. Then it compares the rows with the batches.
func TestApply_LosesNothingIfTheServerDies(t *testing.T) {
	server := peers.StartMariaDB(t)
	d := openURL(t, server.Database(t), sqltest.WriterEnv)
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, sinktest.Repeat(100, `{"id":"#","v":0}`)...).Batch())
	for round, end := range []func(testing.TB){server.Kill, server.Stop, server.Kill} {
		applied := make(chan int)
		done := make(chan error, 1)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		go func() {
			defer close(done)
			for v := 1; ; v++ {
				batch := h.Put(order, sinktest.Repeat(100, fmt.Sprintf(`{"id":"#","v":%d}`, round*1_000_000+v))...).Batch()
				var err error
				for err = d.Apply(ctx, batch); err != nil && fault.Of(err) == fault.Transient &&
					ctx.Err() == nil; err = d.Apply(ctx, batch) {
				}
				if err != nil {
					done <- err
					return
				}
				select {
				case applied <- round*1_000_000 + v:
				case <-ctx.Done():
					done <- nil
					return
				}
			}
		}()
		next := func() int {
			select {
			case v := <-applied:
				return v
			case err := <-done:
				t.Fatalf("apply: %v", err)
				return 0
			}
		}
		next()
		end(t)
		server.Start(t)
		next()
		last := next()
		stop()
		for err := range done {
			if err != nil && fault.Of(err) != fault.Transient {
				t.Fatal(err)
			}
		}
		// The batch in flight may be complete as well.
		db := beside(t, d.url)
		got := db.Lines(t, "SELECT COUNT(*), MIN(v) = MAX(v), MIN(v) >= "+fmt.Sprint(last)+" FROM `order`")
		db.Close()
		sinktest.Equal(t, []string{"100|1|1"}, got)
	}
}

func TestApply_WaitsForLocksOfOthers(t *testing.T) {
	d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv, "lock_timeout=1s")
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"lock","v":0}`).Batch())
	for _, lock := range []string{"LOCK TABLES `order` WRITE", "START TRANSACTION; UPDATE `order` SET v = 1"} {
		d.exec(lock)
		batch := h.Put(order, `{"id":"lock","v":2}`).Batch()
		if err := d.Apply(t.Context(), batch); err == nil || fault.Of(err) != fault.Transient ||
			!strings.Contains(err.Error(), "Lock wait timeout exceeded") {
			t.Errorf("%s: error %v of class %v", lock, err, fault.Of(err))
		}
		d.exec("ROLLBACK; UNLOCK TABLES")
		d.MustApply(batch)
		sinktest.Equal(t, []string{"lock|2"}, d.query("SELECT id, v FROM `order`"))
	}
}

func TestApply_CancelledLeavesNothing(t *testing.T) {
	d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv)
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"lock","v":0}`).Batch())
	d.exec("LOCK TABLES `order` WRITE")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	batch := h.Put(order, sinktest.Repeat(100, `{"id":"#","v":1}`)...).Batch()
	if err := d.Apply(ctx, batch); err == nil || fault.Of(err) != fault.Transient {
		t.Fatalf("error %v", err)
	}
	d.exec("UNLOCK TABLES")
	d.MustApply(batch)
	sinktest.Equal(t, []string{"101"}, d.query("SELECT COUNT(*) FROM `order`"))
}

func TestApply_ClassifiesErrors(t *testing.T) {
	server := peers.StartMariaDB(t)
	d := openURL(t, server.Database(t), sqltest.WriterEnv)
	d.exec("CREATE TABLE `order` (id varchar(255) PRIMARY KEY, n bigint, u varchar(20) UNIQUE, CONSTRAINT small CHECK (n < 10)); " +
		"CREATE TRIGGER tr BEFORE INSERT ON `order` FOR EACH ROW IF NEW.u = 'raise' THEN SIGNAL SQLSTATE '45000' " +
		"SET MESSAGE_TEXT = 'no raise here'; END IF")
	order := sinktest.Table(t, "order", 1, "id string", "n integer", "u enum")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"1","u":"taken"}`).Batch())
	for image, want := range map[string]string{
		`{"id":"2","n":11}`: "apply the batch: upsert into table \"order\": CONSTRAINT `small` failed for `eds_test_1`.`order` " +
			"(error 4025)",
		`{"id":"2","u":"taken"}`: `apply the batch: upsert into table "order": the server refused a value: another row has the same ` +
			`value in a unique index (error 1062)`,
		`{"id":"2","u":"raise"}`: `apply the batch: upsert into table "order": the server refused a value: a trigger raised an error ` +
			`(error 1644)`,
	} {
		err := d.Apply(t.Context(), h.Put(order, image).Batch())
		got := strings.ReplaceAll(fmt.Sprint(err), d.query("SELECT DATABASE()")[0], "eds_test_1")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", image, diff)
		}
		if fault.Of(err) != fault.Poison {
			t.Errorf("%s: class %v", image, fault.Of(err))
		}
	}
	d.exec("CREATE USER reader; GRANT SELECT ON *.* TO reader; CREATE USER writer; GRANT ALL ON *.* TO writer; " +
		"REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM writer")
	reader := openURL(t, asUser(t, d.url, "reader", ""), sqltest.WriterEnv)
	if err := reader.Apply(t.Context(), h.Put(order, `{"id":"9"}`).Batch()); fault.Of(err) != fault.Fatal {
		t.Errorf("without a privilege: %v is %v", err, fault.Of(err))
	}
	writer := openURL(t, asUser(t, d.url, "writer", ""), sink.Env{})
	d.exec("SET GLOBAL read_only = 1")
	batch := h.Put(order, `{"id":"8"}`).Batch()
	if err := writer.Apply(t.Context(), batch); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("on a read-only server: %v is %v", err, fault.Of(err))
	}
	if err := writer.Probe(t.Context()); fault.Of(err) != fault.Fatal || !strings.Contains(fmt.Sprint(err), "name the primary") {
		t.Errorf("on a read-only server: %v", err)
	}
	d.exec("SET GLOBAL read_only = 0")
	writer.MustApply(batch)
}

// TestApply_RetriesAFullTable uses a full table in memory, which fails like a table on a full disk.
func TestApply_RetriesAFullTable(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv, option)
		d.exec("SET max_heap_table_size = 524288; CREATE TABLE `order` (id varchar(255) PRIMARY KEY, v varchar(4000)) ENGINE=MEMORY")
		order := sinktest.Table(t, "order", 1, "id string", "v enum")
		h := sinktest.NewChanges(t, 0)
		batch := h.Put(order, sinktest.Repeat(max(rows, 60), `{"id":"#","v":"x"}`)...).Batch()
		err := d.Apply(t.Context(), batch)
		if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "is full") {
			t.Errorf("error %v of class %v, want a transient one that names the full table", err, fault.Of(err))
		}
		d.exec("SET max_heap_table_size = 16777216; ALTER TABLE `order` MAX_ROWS = 100000")
		d.MustApply(batch)
		sinktest.Equal(t, []string{fmt.Sprint(max(rows, 60))}, d.query("SELECT COUNT(*) FROM `order` WHERE v = 'x'"))
	})
}

// asUser returns the URL with another user.
func asUser(t *testing.T, raw, user, password string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}
