package reconciler

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

func TestRun_FollowsTheStreamWhileItImports(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.hq.set("order", "o1", "o2")
	f.publish("order", "old")
	f.start(func(c *Config) { c.Options.Restart = true })
	f.awaitRows("order", "old")
	report := f.imports(snapshot.Options{AllowEmpty: true})
	if report.Rows != 2 || f.ImportID() != "" || f.Progress() != "" {
		t.Errorf("%d rows; import %q, progress %q", report.Rows, f.ImportID(), f.Progress())
	}
	f.publish("order", "o3")
	f.awaitRows("order", "o1", "o2", "o3")
	f.eventually("no lane brings a table forward", func() bool { return len(f.TableStates()) == 0 && f.LaneStatus().State == "" })
	f.end()
	f.start(nil) // it continues from the checkpoint
	f.publish("order", "o4")
	f.awaitRows("order", "o1", "o2", "o3", "o4")
	// Rows are visible a moment before the status counts them.
	f.eventually("the status counts the change", func() bool { s := f.Status(); return s.State != pipeline.Paused && s.Applied > 0 })
	f.end()
}

func TestRun_StopsWhilePaused(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.start(func(c *Config) { c.Options.Restart = true })
	f.publish("order", "o1")
	f.awaitRows("order", "o1")
	f.must(f.Pause(true))
	f.eventually("it is paused", func() bool { return f.Status().State == pipeline.Paused })
	f.publish("order", "o2")
	f.must(f.Pause(false))
	f.awaitRows("order", "o1", "o2")
	f.end()
}

func TestRun_FollowsIntoAnotherDestination(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.hq.set("order", "o1")
	f.start(func(c *Config) { c.Options.Restart = true })
	f.publish("order", "o0")
	f.awaitRows("order", "o0")
	other := destination(t)
	f.must(f.Test(t.Context(), other))
	f.must(f.SetDestination(other, saved))
	f.eventually("it waits for an import", func() bool { return f.Status().State == pipeline.Paused })
	f.url = "sqlite://" + other.Target.Path
	id, err := f.RequestImport(ImportRequest{Options: snapshot.Options{AllowEmpty: true}, HQ: true})
	f.must(err)
	outcome, ok := f.AwaitOutcome(t.Context())
	if !ok || outcome.ID != id || outcome.Error != "" {
		t.Errorf("the outcome is %+v, %t", outcome, ok)
	}
	f.must(f.OutcomeReceived(id))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if outcome, ok := f.AwaitOutcome(ctx); ok {
		t.Errorf("another outcome: %+v", outcome)
	}
	f.publish("order", "o2")
	f.awaitRows("order", "o1", "o2")
	f.end()
}

// TestRun_LeavesTablesIncomplete that lack changes, and applies later ones.
func TestRun_LeavesTablesIncomplete(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.hq.set("order", "o1")
	f.start(nil)
	f.imports(snapshot.Options{AllowEmpty: true})
	f.publish("order", "o2")
	f.awaitRows("order", "o1", "o2")
	f.end()
	f.publish("order", "lost")
	f.trim()
	f.start(nil)
	f.publish("order", "o3")
	f.awaitRows("order", "o1", "o2", "o3")
	f.states(map[string]sink.RowsState{"order": sink.Incomplete, "part": sink.Incomplete, sink.OtherTables: sink.Incomplete})
	gap := f.TableStates()[0].GapID()
	accepted, err := f.AcceptGap(gap, "")
	if err != nil || len(accepted) != 3 {
		t.Errorf("accepted: %v, %v", accepted, err)
	}
	f.imports(snapshot.Options{AllowEmpty: true}) // closes the gap
	f.eventually("all tables are OK", func() bool { return len(f.TableStates()) == 0 })
	f.end()
}

// trim removes all messages from the stream.
func (f *fixture) trim() {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), streamName)
	f.must(err)
	f.must(s.Purge(f.t.Context()))
}

func TestRun_LeavesARefusedTableBehind(t *testing.T) {
	f := newFixture(t, sqliteURL(t))
	f.start(func(c *Config) { c.Options.Restart = true })
	f.publish("order", "o1")
	f.awaitRows("order", "o1")
	f.execute("CREATE VIEW part AS SELECT 1 AS id")
	f.publish("part", "p1")
	f.publish("order", "o2")
	f.awaitRows("order", "o1", "o2")
	f.eventually("part is behind", func() bool { return len(f.TableStates()) == 1 })
	f.states(map[string]sink.RowsState{"part": sink.Behind})
	f.end()
}

// TestRun_WaitsForAnImportAfterAGap if the destination does not record the states of tables.
func TestRun_WaitsForAnImportAfterAGap(t *testing.T) {
	f := newFixture(t, "file://"+t.TempDir()+"?format=ndjson")
	f.start(func(c *Config) { c.Options.Restart = true })
	f.publish("order", "o1")
	f.publish("order", "o2")
	f.eventually("the changes are applied", func() bool { return f.Status().Applied == 2 })
	f.end()
	f.publish("order", "lost")
	f.trim()
	f.publish("order", "kept") // before the snapshot
	f.start(nil)
	f.eventually("the gap is reported", func() bool {
		reasons := f.Health.Report().Reasons
		return len(reasons) == 1 && reasons[0].Condition == "stream"
	})
	f.imports(snapshot.Options{AllowEmpty: true})
	f.publish("order", "o3")
	f.eventually("the stream is followed again", func() bool { return f.Status().Applied > 0 })
	f.end()
}

// execute runs a statement in the SQLite destination.
func (f *fixture) execute(statement string) {
	f.t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(f.url, "sqlite://"))
	f.must(err)
	defer db.Close()
	_, err = db.ExecContext(f.t.Context(), statement)
	f.must(err)
}
