package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// statesSink is a destination that records the states of tables and can be inspected.
type statesSink struct {
	tables.Sink // no other method is called
	mu          sync.Mutex
	findings    []sink.Finding
	err         error
	down        error // of recording states
}

// fail makes recording fail with err.
func (r *statesSink) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

func (r *statesSink) record() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// found makes Inspect return findings or err.
func (r *statesSink) found(err error, findings ...sink.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings, r.err = findings, err
}

func (r *statesSink) Apply(context.Context, *change.Batch) error { return nil }

func (r *statesSink) ApplyTables(context.Context, *change.Batch, []sink.TableState) error {
	return r.record()
}

func (r *statesSink) Advance(context.Context, *change.Batch, []sink.TableState) error {
	return r.record()
}

func (r *statesSink) Inspect(context.Context) ([]sink.Finding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.findings, r.err
}

// healerTest is a healer with its process.
type healerTest struct {
	h *healer
	*process
	destination *statesSink
	d           *Destination
}

// newHealing returns a healer of the imported tables.
func newHealing(t *testing.T, imports map[string]importStats, states ...sink.TableState) *healerTest {
	d := destination(t)
	g := &healerTest{process: begin(t, t.TempDir(), d), d: d}
	g.run(imports, states...)
	return g
}

// run follows the stream again, with the recorded states.
func (g *healerTest) run(imports map[string]importStats, states ...sink.TableState) {
	g.destination = new(statesSink)
	g.process.Options.Heal = config.HealTables
	set := tables.New(states, cdc.Position{Sequence: 10}, slog.New(slog.DiscardHandler))
	dead, err := dlq.Open(g.t.TempDir())
	g.must(err)
	g.Dead = dead
	g.h = &healer{
		Reconciler: g.process.Reconciler, at: g.d, set: set, destination: g.destination, imports: imports,
		latest:    func(context.Context) (map[string]*schema.Table, error) { return nil, errors.New("HQ is down") },
		retention: func(context.Context) (time.Time, uint64, error) { return time.Now().Add(-48 * time.Hour), 7, nil },
	}
	g.h.inspection = &inspection{
		Inspector: g.destination, set: set, imports: imports, dir: g.State, at: g.d.DestinationKey, filled: make(map[string]uint64),
		unverifiedSince: make(map[string]time.Time), verified: g.process.verifiedSince,
	}
}

// requested returns the tables of the requested import.
func (g *healerTest) requested() []string {
	g.t.Helper()
	now, _ := g.desired.now()
	if now.Import == nil {
		return nil
	}
	var options snapshot.Options
	g.must(json.Unmarshal(now.Import.Options, &options))
	if diff := cmp.Diff(snapshot.Options{Only: options.Only, OwnTables: true}, options); diff != "" || now.Import.HQ {
		g.t.Error("the options are not those of the server itself:", diff)
	}
	return options.Only
}

// heals checks the tables that heal requests an import of.
func (g *healerTest) heals(want ...string) {
	g.t.Helper()
	g.must(g.h.heal(g.t.Context(), g.t.Context()))
	if diff := cmp.Diff(want, g.requested()); diff != "" {
		g.t.Error(diff)
	}
}

// fails ends the requested import with an error.
func (g *healerTest) fails() {
	g.t.Helper()
	now, _ := g.desired.now()
	now.job.started.Store(true)
	g.finishImport(g.t.Context(), now.job, errors.New("HQ is down"))
}

func missing(names ...string) []sink.TableState {
	var states []sink.TableState
	for _, name := range names {
		states = append(states, sink.TableState{
			Table: name, State: sink.Missing, Cause: sink.CauseAbsent, Reason: reasonAbsent, Applied: cdc.Position{Sequence: 5},
		})
	}
	return states
}

func incomplete(name string) sink.TableState {
	return sink.TableState{Table: name, State: sink.Incomplete, Cause: sink.CauseGap, Reason: "gap", Gap: "gap"}
}

func imports(names ...string) map[string]importStats {
	all := make(map[string]importStats)
	for _, name := range names {
		all[name] = importStats{}
	}
	return all
}

func TestHeal_RequestsAnImportOfLostTables(t *testing.T) {
	accepted := incomplete("a")
	accepted.Accepted = true
	denied := sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseDenied}
	others := incomplete(sink.OtherTables)
	for name, c := range map[string]struct {
		states  []sink.TableState
		imports map[string]importStats
		options func(*Config)
		want    []string
	}{
		"missing":      {states: missing("a"), imports: imports("a", "b"), want: []string{"a"}},
		"incomplete":   {states: []sink.TableState{incomplete("a")}, imports: imports("a", "b"), want: []string{"a"}},
		"accepted":     {states: []sink.TableState{accepted}, imports: imports("a", "b")},
		"denied":       {states: []sink.TableState{denied}, imports: imports("a", "b")},
		"other tables": {states: []sink.TableState{others}, imports: imports("a", "b")},
		"four at once": {
			states: missing("a", "b", "c", "d", "e"), imports: imports("a", "b", "c", "d", "e", "f"),
			want: []string{"a", "b", "c", "d"},
		},
		"every table":                  {states: missing("a", "b"), imports: imports("a", "b")},
		"every table, new ones too":    {states: missing("a", "b", "new"), imports: imports("a", "b")},
		"every imported table but one": {states: missing("a", "new"), imports: imports("a", "b"), want: []string{"a", "new"}},
		"every table, all": {
			states: missing("a", "b"), imports: imports("a", "b"), options: func(c *Config) { c.Options.Heal = config.HealAll },
			want: []string{"a", "b"},
		},
		"off": {
			states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Options.Heal = config.HealOff },
		},
		"on probation": {
			states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Probation = func() bool { return true } },
		},
		"not on probation": {
			states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Probation = func() bool { return false } },
			want: []string{"a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newHealing(t, c.imports, c.states...)
				if c.options != nil {
					c.options(&g.process.Config)
				}
				g.heals(c.want...)
				var want []sink.TableState
				for _, s := range c.states {
					if slices.Contains(c.want, s.Table) {
						s.Attempts, s.Next = 1, time.Now().Add(24*time.Hour).UTC()
					}
					want = append(want, s)
				}
				if diff := cmp.Diff(want, g.h.set.States()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestHeal_OnceADay: no table is imported twice within 24 h, even if the import fails or eds
// restarts.
func TestHeal_OnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := imports("a", "b", "c")
		g := newHealing(t, all, missing("a")...)
		g.heals("a")
		g.heals("a") // the import is under way
		g.fails()
		g.heals()
		g.run(all, missing("a", "b")...) // lost again after it was healed
		g.heals("b")
		g.fails()
		time.Sleep(23 * time.Hour)
		g.process = g.next(g.d)
		g.run(all, missing("a", "b")...)
		g.heals()
		time.Sleep(time.Hour)
		g.heals("a", "b")
	})
}

// TestHeal_WaitsForTheNextAttempt that the state names.
func TestHeal_WaitsForTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		states := missing("a")
		states[0].Next = time.Now().Add(time.Minute)
		g := newHealing(t, imports("a", "b"), states...)
		g.heals()
		time.Sleep(time.Minute)
		g.heals("a")
	})
}

func TestHeal_DoesNothingWhileAnImportIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a", "b"), missing("a")...)
		_, err := g.RequestImport(ImportRequest{Options: snapshot.Options{OwnTables: true}})
		g.must(err)
		g.heals()
		if diff := cmp.Diff(missing("a"), g.h.set.States()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestHeal_RequestsNoImportThatTakesLongerThanTheStreamKeepsChanges, and states both durations as
// the reason.
func TestHeal_RequestsNoImportThatTakesLongerThanTheStreamKeepsChanges(t *testing.T) {
	for _, trimmed := range []bool{true, false} {
		t.Run(fmt.Sprint("trimmed ", trimmed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := imports("a", "b", "c")
				all["a"] = importStats{took: 49 * time.Hour}
				g := newHealing(t, all, missing("a", "b")...)
				if !trimmed {
					g.h.retention = func(context.Context) (time.Time, uint64, error) { return time.Now().Add(-48 * time.Hour), 1, nil }
					g.heals("a", "b")
					return
				}
				g.heals("b")
				want := missing("a", "b")
				for i := range want {
					want[i].Attempts, want[i].Next = 1, time.Now().Add(24*time.Hour).UTC()
				}
				want[0].Reason = "its last import took 49h0m0s, and the stream keeps changes for 48h0m0s, " +
					"so eds does not import it by itself"
				if diff := cmp.Diff(want, g.h.set.States()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestExpire_DropsOldDeadLetters of the destination, and imports their tables.
func TestExpire_DropsOldDeadLetters(t *testing.T) {
	g := newHealing(t, imports("a", "b"))
	now := time.Now()
	for i, e := range []dlq.Entry{
		{Table: "a", Time: now.Add(-g.Dead.Limits.Age)},
		{Table: "a", Time: now},
		{Table: "b", Time: now.Add(-g.Dead.Limits.Age + time.Hour)},
		{Table: "c", Time: now.Add(-g.Dead.Limits.Age), Destination: "another"},
	} {
		e.Sequence, e.Keys = uint64(i), []string{"k"}
		if e.Destination == "" {
			e.Destination = g.d.Identity
		}
		g.must(g.Dead.Put(e))
	}
	away := errors.New("the connection is lost")
	g.destination.fail(away)
	if err := g.h.expire(t.Context()); !errors.Is(err, away) || g.Dead.Count("").Waiting != 4 {
		t.Errorf("while the destination is away: %v, %+v", err, g.Dead.Count(""))
	}
	g.destination.fail(nil)
	g.must(g.h.set.Flush(t.Context(), g.destination))
	g.must(g.h.expire(t.Context()))
	if got, want := g.Dead.Count(g.d.Identity), (dlq.EntryCounts{Waiting: 2, Elsewhere: 1}); got != want {
		t.Errorf("left: %+v, want %+v", got, want)
	}
	states := g.h.set.States()
	const reason = "dead letters of the table were older than 90 days and were dropped"
	want := []sink.TableState{{Table: "a", State: sink.Incomplete, Cause: sink.CauseLetters, Reason: reason, Gap: reason}}
	if diff := cmp.Diff(want, states, cmpopts.IgnoreFields(sink.TableState{}, "Applied", "Since")); diff != "" {
		t.Error(diff)
	}
	g.heals("a")
	g.must(g.h.expire(t.Context()))
}

// TestHealer_WatchInspects at once and every minute, and imports a table that is absent for a
// minute.
func TestHealer_WatchInspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newHealing(t, imports("a", "b"))
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.h.watch(ctx, t.Context())
		}()
		synctest.Wait()
		absent := sink.Finding{Table: "a", Kind: sink.FoundAbsent}
		g.destination.found(errors.New("the connection is lost"), absent)
		began := time.Now()
		at := func(after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(time.Until(began.Add(after)))
			synctest.Wait()
			if diff := cmp.Diff(want, g.requested()); diff != "" {
				t.Errorf("after %v: %s", after, diff)
			}
		}
		at(time.Minute)
		g.destination.found(nil, absent)
		at(2 * time.Minute)
		at(3*time.Minute, "a")
		end()
		<-done
	})
}
