package reconciler

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// lists sets the tables that HQ lists, or the error that HQ returns.
func (g *healerTest) lists(err error, names ...string) {
	latest := make(map[string]*schema.Table)
	for _, name := range names {
		latest[name] = &schema.Table{Name: name}
	}
	g.h.latest = func(context.Context) (map[string]*schema.Table, error) { return latest, err }
}

// source checks which tables are recorded as known at HQ.
func (g *healerTest) source(want ...string) {
	g.t.Helper()
	names, _, err := g.State.Tables(state.SourceTables, g.d.DestinationKey)
	g.must(err)
	if diff := cmp.Diff(want, names); diff != "" {
		g.t.Error(diff)
	}
}

// compares checks the states after a comparison with HQ.
func (g *healerTest) compares(want ...sink.TableState) {
	g.t.Helper()
	g.must(g.h.compareSource(g.t.Context()))
	if diff := cmp.Diff(want, g.h.set.States()); diff != "" {
		g.t.Error(diff)
	}
}

func fresh(name string) sink.TableState {
	return sink.TableState{
		Table: name, State: sink.Missing, Cause: sink.CauseNew, Reason: reasonNew, Applied: cdc.Position{Sequence: 10},
		Since: time.Now().UTC(),
	}
}

func leftToStream(name string) sink.TableState {
	t := fresh(name)
	t.State, t.Cause, t.Reason = sink.Behind, sink.CauseImporting, reasonNotBackfill
	return t
}

// TestBackfill_ImportsNewTables since the import of all tables.
func TestBackfill_ImportsNewTables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a", "b"))
		g.h.backfill = true
		g.must(g.State.SetTables(state.SourceTables, g.d.DestinationKey, []string{"a", "b", "empty"}))
		g.lists(nil, "a", "b", "empty", "new", "_eds_checkpoint")
		g.compares(fresh("new"))
		g.heals("new")
		g.source("a", "b", "empty")
	})
}

// TestBackfill_TreatsTheFirstListAsKnown if no import has recorded one, except tables that wait
// for their import.
func TestBackfill_TreatsTheFirstListAsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a", "b"), fresh("waiting"))
		g.h.backfill = true
		g.lists(nil)
		g.compares(fresh("waiting"))
		g.lists(nil, "a", "b", "empty", "waiting")
		g.compares(fresh("waiting"))
		g.source("a", "b", "empty")
		g.lists(&schema.MalformedError{Objects: map[string]error{"Part": errors.New("no keys")}}, "a", "new")
		g.compares(fresh("new"), fresh("waiting"))
	})
}

// TestBackfill_LeavesTablesToTheStream that are not to be imported or that no import can load.
func TestBackfill_LeavesTablesToTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a"), fresh("foreign"), fresh("new"), fresh("none"))
		g.h.backfill = true
		g.must(g.State.SetTables(state.SourceTables, g.d.DestinationKey, []string{"a"}))
		job := g.newJob(ImportRequest{ID: "id"}, g.d)
		job.report.Tables = []snapshot.TableReport{
			{Table: "a", Rows: 3},
			{Table: "foreign", Err: sink.ErrForeign},
			{Table: "new", Err: errors.New("the network is down")},
			{Table: "none", Err: snapshot.ErrNotExported},
		}
		g.finishImport(t.Context(), job, &snapshot.TablesError{})
		g.source("a", "foreign", "none")
		g.lists(nil, "a", "foreign", "new", "none")
		g.compares(leftToStream("foreign"), fresh("new"), leftToStream("none"))
		g.h.backfill = false
		g.compares(leftToStream("foreign"), leftToStream("new"), leftToStream("none"))
	})
}

// TestCompareSource_FindsDeniedTablesThatHaveLeft unless HQ's list may be incomplete.
func TestCompareSource_FindsDeniedTablesThatHaveLeft(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		names []string
		gone  bool
	}{
		"left":      {names: []string{"b"}, gone: true},
		"there":     {names: []string{"a", "b"}},
		"empty":     {},
		"malformed": {err: new(schema.MalformedError), names: []string{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				denied := sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseDenied, Since: time.Now()}
				g := newHealing(t, imports("b"), denied)
				g.lists(c.err, c.names...)
				g.must(g.h.compareSource(t.Context()))
				lane, _ := g.h.set.Begin(tables.Sink(g.destination), g.h.set.States())
				if lane.Denied("a") {
					t.Error("its changes become dead letters at once")
				}
				time.Sleep(time.Hour)
				if got := lane.Denied("a"); got != c.gone {
					t.Errorf("after an hour, its changes become dead letters: %t", got)
				}
			})
		})
	}
}

// TestHealer_WatchSourceCompares at once, every hour, after a migration, a minute after a failure,
// and not on probation.
func TestHealer_WatchSourceCompares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a"))
		began := time.Now()
		g.process.Probation = func() bool { return time.Since(began) < 90*time.Second }
		var at []time.Duration
		g.h.latest = func(context.Context) (map[string]*schema.Table, error) {
			at = append(at, time.Since(began))
			if len(at) == 1 {
				return nil, errors.New("HQ is down")
			}
			return nil, nil
		}
		ctx, end := context.WithTimeout(t.Context(), 3*time.Hour)
		defer end()
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.h.watchSource(ctx)
		}()
		time.Sleep(30 * time.Minute)
		main := g.h.set.Main(&migrating{g.destination})
		if _, err := main.Migrate(ctx, nil); err != nil {
			t.Error(err)
		}
		<-done
		minutes := []time.Duration{2, 3, 30, 90, 150}
		for i := range minutes {
			minutes[i] *= time.Minute
		}
		if !slices.Equal(at, minutes) {
			t.Errorf("compared at %v, want %v", at, minutes)
		}
	})
}

type migrating struct{ tables.Sink }

func (migrating) Migrate(context.Context, []*schema.Table) ([]string, error) {
	return []string{"made table b"}, nil
}
