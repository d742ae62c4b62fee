package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
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
	each(t, func(t *testing.T, rows int) {
		server := peers.Postgres(t)
		d := openURL(t, server, sqltest.WriterEnv)
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
		again := openURL(t, server, sqltest.WriterEnv)
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
		sinktest.Equal(t, sinktest.Repeat(rows, "#|1"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		if err := d.ResetCheckpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.Position(); got != (cdc.Position{}) {
			t.Errorf("after a reset it is %v", got)
		}
	})
}

func TestApply_NoticesAnotherWriter(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		server := peers.Postgres(t)
		one, two := openURL(t, server, sqltest.WriterEnv), openURL(t, server, sqltest.WriterEnv)
		order := sinktest.Table(t, "order", 1, "id string", "who string")
		h := sinktest.NewChanges(t, 0)
		one.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"one"}`)...).Batch())
		two.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"two"}`)...).Batch())
		err := one.Apply(t.Context(), h.Put(order, sinktest.Repeat(rows, `{"id":"#","who":"one again"}`)...).Batch())
		if !errors.As(err, new(*sink.WriterError)) || fault.Of(err) != fault.Fatal {
			t.Errorf("error %v of class %v, want a *sink.WriterError, fatal", err, fault.Of(err))
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|two"), one.query(`SELECT id, who FROM "order" ORDER BY id`))
	})
}

func TestCommit_IsNotRepeatedIfItsResponseIsLost(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		server := peers.Postgres(t)
		// The response's tag shows that the commit is durable.
		w := sqltest.NewLossyProxy(t, server, nil, func(response string) bool { return strings.Contains(response, "COMMIT\x00") })
		d := openURL(t, w.URL, sqltest.WriterEnv)
		d.url = server
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":1}`)...).Batch())
		d.exec(`CREATE TABLE writes (n int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO writes
			  VALUES (1); RETURN NEW; END $$;
			CREATE TRIGGER t BEFORE INSERT OR UPDATE ON "order" FOR EACH STATEMENT EXECUTE FUNCTION note()`)
		w.Lose.Store(true)
		batch := h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":2}`)...).Batch()
		d.MustApply(batch) // the engine notices
		wrote := d.query("SELECT count(*) FROM writes")
		sinktest.Equal(t, sinktest.Repeat(rows, "#|2"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		if got := d.Position(); got != batch.Last {
			t.Errorf("the checkpoint is %v, want %v", got, batch.Last)
		}
		d.MustApply(batch)
		sinktest.Equal(t, wrote, d.query("SELECT count(*) FROM writes"))
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":3}`)...).Batch())
	})
}

func TestApply_ReconnectsAtOnceAfterALostSession(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := openURL(t, peers.Postgres(t), sqltest.WriterEnv)
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		h := sinktest.NewChanges(t, 0)
		for i := range 3 {
			d.MustApply(h.Put(order, sinktest.Repeat(rows, fmt.Sprintf(`{"id":"#","v":%d}`, i))...).Batch())
			d.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eds'`)
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|2"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
	})
}

func TestApply_CreatesDroppedObjectsAgain(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := openURL(t, peers.Postgres(t), sqltest.WriterEnv)
		order := sinktest.Table(t, "order", 1, "id string", "v integer", "w string")
		h := sinktest.NewChanges(t, 0)
		put := func() {
			t.Helper()
			d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":1,"w":"x"}`)...).Batch())
			sinktest.Equal(t, sinktest.Repeat(rows, "#|1|x"), d.query(`SELECT id, v, w FROM "order" ORDER BY id`))
		}
		put()
		d.exec(`DROP TABLE "order"`)
		put()
		d.exec(`ALTER TABLE "order" DROP COLUMN v`)
		put()
		d.exec(`ALTER TABLE "order" DROP CONSTRAINT order_pkey`)
		put()
		d.exec(`DROP TABLE _eds_checkpoint`)
		d.WantLost(h.Put(order, `{"id":"1"}`).Batch())
		put()
		d.exec(`ALTER TABLE "order" ALTER COLUMN v TYPE smallint`)
		put()
		d.exec(`ALTER TABLE "order" ALTER COLUMN v TYPE text`)
		put()
	})
}

func TestApply_ReturnsToARestartedServer(t *testing.T) {
	server := peers.StartPostgres(t)
	d := openURL(t, server.Database(t), sqltest.WriterEnv)
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, sinktest.Repeat(100, `{"id":"#","v":1}`)...).Batch())
	d.conn = nil
	for i, end := range []func(testing.TB){server.Stop, server.Kill} {
		end(t)
		batch := h.Put(order, sinktest.Repeat(100, fmt.Sprintf(`{"id":"#","v":%d}`, i+2))...).Batch()
		for range 2 {
			if err := d.Apply(t.Context(), batch); fault.Of(err) != fault.Transient || err == nil {
				t.Fatalf("while it is down: %v of class %v", err, fault.Of(err))
			}
		}
		server.Start(t)
		d.MustApply(batch)
		sinktest.Equal(t, sinktest.Repeat(100, fmt.Sprintf("#|%d", i+2)), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		d.conn.Close(context.Background())
		d.conn = nil
	}
}

func TestApply_CancelledLeavesNothing(t *testing.T) {
	d := openURL(t, peers.Postgres(t), sqltest.WriterEnv)
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"lock","v":0}`).Batch())
	d.exec(`BEGIN; LOCK TABLE "order" IN ACCESS EXCLUSIVE MODE`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	batch := h.Put(order, sinktest.Repeat(100, `{"id":"#","v":1}`)...).Batch()
	if err := d.Apply(ctx, batch); err == nil || fault.Of(err) != fault.Transient {
		t.Fatalf("error %v", err)
	}
	d.exec(`COMMIT`)
	sinktest.Equal(t, []string{"lock|0"}, d.query(`SELECT id, v FROM "order"`))
	d.MustApply(batch)
	sinktest.Equal(t, []string{"101"}, d.query(`SELECT count(*) FROM "order"`))
}

func TestApply_ClassifiesErrors(t *testing.T) {
	d := openURL(t, peers.Postgres(t), sqltest.WriterEnv)
	d.exec(`CREATE TABLE "order" (id text PRIMARY KEY, n bigint CHECK (n < 10), u text UNIQUE);
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.u = 'raise' THEN RAISE 'no % here', NEW.u;
		  END IF; RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE INSERT OR UPDATE ON "order" FOR EACH ROW EXECUTE FUNCTION refuse()`)
	order := sinktest.Table(t, "order", 1, "id string", "n integer", "u string")
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"1","u":"taken"}`).Batch())
	for image, want := range map[string]string{
		`{"id":"2","n":11}`: `apply the batch: upsert into table "order": new row for relation "order" violates check ` +
			`constraint "order_n_check" (SQLSTATE 23514)`,
		`{"id":"2","u":"taken"}`: `apply the batch: upsert into table "order": duplicate key value violates unique constraint ` +
			`"order_u_key" (SQLSTATE 23505)`,
		`{"id":"2","u":"raise"}`: `apply the batch: upsert into table "order": the server refused a value: a trigger raised an ` +
			`exception (SQLSTATE P0001)`,
	} {
		err := d.Apply(t.Context(), h.Put(order, image).Batch())
		if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s: %s", image, diff)
		}
		if fault.Of(err) != fault.Poison {
			t.Errorf("%s: class %v", image, fault.Of(err))
		}
	}
	d.exec(`CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader`)
	defer d.exec(`DROP OWNED BY reader; DROP ROLE reader`)
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("reader")
	reader := openURL(t, u.String(), sqltest.WriterEnv)
	if err := reader.Apply(t.Context(), h.Put(order, `{"id":"9"}`).Batch()); fault.Of(err) != fault.Fatal {
		t.Errorf("without a privilege: %v is %v", err, fault.Of(err))
	}
	d.exec(`ALTER ROLE postgres SET default_transaction_read_only = on`)
	d.T.Cleanup(func() {
		d.exec(`SET default_transaction_read_only = off; ALTER ROLE postgres RESET default_transaction_read_only`)
	})
	replica := openURL(t, d.url, sqltest.WriterEnv)
	if err := replica.Apply(t.Context(), h.Put(order, `{"id":"9"}`).Batch()); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("on a replica: %v is %v", err, fault.Of(err))
	}
}
