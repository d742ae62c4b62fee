package mysql_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// TestRecords_WithoutPrivileges: a user who may not create or change tables continues with the
// checkpoint of an earlier version, and eds names the missing grant.
func TestRecords_WithoutPrivileges(t *testing.T) {
	server := peers.StartMariaDB(t)
	database := server.Database(t)
	d := openURL(t, database, sink.Env{})
	name := d.query("SELECT DATABASE()")[0]
	d.exec("CREATE TABLE _eds_checkpoint (stream varchar(255), consumer varchar(255), filter varchar(255), position bigint NOT NULL, " +
		"stored bigint NOT NULL, PRIMARY KEY (stream, consumer, filter)); " +
		fmt.Sprintf("INSERT INTO _eds_checkpoint VALUES ('%s', '%s', '%s', 1, 1); CREATE TABLE `order` (id varchar(255) PRIMARY KEY); ",
			sqltest.WriterEnv.Stream, sqltest.WriterEnv.Consumer, sqltest.WriterEnv.Filter) +
		"CREATE USER poor; GRANT SELECT, INSERT, UPDATE, DELETE ON " + name + ".* TO poor")
	order, h := sinktest.Table(t, "order", 1, "id string"), sinktest.NewChanges(t, 1)
	grant := "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, TRIGGER, REFERENCES, CREATE TEMPORARY TABLES ON `" +
		name + "`.* TO 'poor'"
	for _, says := range []string{"run: " + grant, ""} {
		poor := openURL(t, asUser(t, database, "poor", ""), sqltest.WriterEnv)
		r, err := poor.Records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if (r.Unavailable == nil) != (says == "") || !strings.Contains(fmt.Sprint(r.Unavailable), says) {
			t.Errorf("records are unavailable: %v; want %s in it", r.Unavailable, says)
		}
		if r.Checkpoint == nil || r.Checkpoint.Position.Sequence == 0 {
			t.Fatalf("the checkpoint is %v", r.Checkpoint)
		}
		if _, err := poor.Begin(t.Context(), sink.Beginning{Position: r.Checkpoint.Position}); err != nil {
			t.Fatal(err)
		}
		batch := h.Put(order, `{"id":"1"}`).Batch()
		poor.MustApply(batch)
		if got := poor.Position(); got != batch.Last {
			t.Errorf("the checkpoint is %v, want %v", got, batch.Last)
		}
		d.exec(grant)
	}
	sinktest.Equal(t, []string{"1"}, d.query("SELECT COUNT(*) FROM _eds_destination"))
}

// TestPlacing_OutlivesItsImport: the server still executes the RENAME of an import after the import
// was killed.
func TestPlacing_OutlivesItsImport(t *testing.T) {
	d := openURL(t, peers.MariaDB(t), sqltest.WriterEnv)
	order, h := sinktest.Table(t, "order", 1, "id string"), sinktest.NewChanges(t, 0)
	begin := func() sink.Records {
		t.Helper()
		r, err := d.Records(t.Context())
		if err == nil {
			_, err = d.Begin(t.Context(), sink.Beginning{Position: cdc.Position{Sequence: 1, Stored: 1}})
		}
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	begin()
	d.MustApply(h.Put(order, `{"id":"old"}`).Batch())
	killImport(t, d, order)
	if err := d.Check(t.Context()); !errors.As(err, new(*sink.ReopenError)) {
		t.Errorf("before it is placed: %v", err)
	}
	if r := begin(); len(r.Snapshots) > 0 {
		t.Errorf("before it is placed there are snapshots: %v", r.Snapshots)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Errorf("before it is placed, but known: %v", err)
	}
	d.exec("RENAME TABLE `order` TO _eds_old_order, `" + d.query("SELECT stage FROM _eds_snapshot")[0] + "` TO `order`")
	for range 2 {
		err := d.Apply(t.Context(), h.Put(order, `{"id":"3"}`).Batch())
		if !errors.As(err, new(*sink.ReopenError)) || fault.Of(err) != fault.Fatal {
			t.Errorf("after it is placed: %v", err)
		}
	}
	if r := begin(); len(r.Snapshots) != 1 || r.Snapshots[0].Rows != 1 || r.Snapshots[0].Generation <= r.Checkpoint.Followed {
		t.Errorf("after it is placed the snapshots are %v", r.Snapshots)
	}
	d.MustApply(h.Put(order, `{"id":"4"}`).Batch())
	sinktest.Equal(t, []string{"4", "new"}, d.query("SELECT id FROM `order` ORDER BY id"))
}

// killImport loads a table, and ends before the staging table replaces the live table.
func killImport(t *testing.T, d *destination, table *schema.Table) {
	t.Helper()
	l, err := openURL(t, d.url, sink.Env{}).BeginLoad(t.Context(), "job", table, sink.Replace, sink.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: table.Name, Clock: cdc.Timestamp{Wall: 1}, Job: "job"})
	row := sinktest.NewChanges(t, 0).Put(table, `{"id":"new"}`).Batch().Sets[0].Upserts[0]
	if _, err := l.LoadFile(t.Context(), "one", func(yield func(*change.Row, error) bool) { yield(&row, nil) }); err != nil {
		t.Fatal(err)
	}
	// A view already has the name to which the import renames the live table.
	stage := d.query("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() " +
		"AND table_name LIKE '\\_eds\\_load\\_%'")[0]
	view := "`" + sqlsink.StageObjectName("old", stage) + "`"
	d.exec("CREATE VIEW " + view + " AS SELECT 1")
	if _, err := l.Finish(t.Context()); err == nil {
		t.Fatal("the import was not held up")
	}
	d.exec("DROP VIEW " + view)
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
