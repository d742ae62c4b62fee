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

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// recorder is a destination that records the states of tables, and that is inspected.
type recorder struct {
	tables.Sink // no other method is called
	mu          sync.Mutex
	findings    []sink.Finding
	err         error
	down        error // of recording
}

// fail has recording fail with err.
func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

func (r *recorder) record() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// found has Inspect return findings or err.
func (r *recorder) found(err error, findings ...sink.Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings, r.err = findings, err
}

func (r *recorder) Apply(context.Context, *change.Batch) error { return nil }

func (r *recorder) ApplyTables(context.Context, *change.Batch, []sink.TableState) error {
	return r.record()
}

func (r *recorder) Advance(context.Context, *change.Batch, []sink.TableState) error {
	return r.record()
}

func (r *recorder) Inspect(context.Context) ([]sink.Finding, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.findings, r.err
}

// healing is a healer with its process, whose clock is the bubble's.
type healing struct {
	h *healer
	*process
	destination *recorder
	d           *Destination
}

// newHealing returns a healer of the imported tables.
func newHealing(t *testing.T, imports map[string]imported, states ...sink.TableState) *healing {
	d := destination(t)
	g := &healing{process: begin(t, t.TempDir(), d), d: d}
	g.run(imports, states...)
	return g
}

// run has the stream followed again, while the destination records the states.
func (g *healing) run(imports map[string]imported, states ...sink.TableState) {
	g.destination = new(recorder)
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
		Inspector: g.destination, set: set, imports: imports, dir: g.State, at: g.d.Destination, filled: make(map[string]uint64),
		doubts: make(map[string]time.Time), verified: g.process.verifiedSince,
	}
}

// requested returns the tables of the requested import.
func (g *healing) requested() []string {
	g.t.Helper()
	now, _ := g.desired.now()
	if now.Import == nil {
		return nil
	}
	var options snapshot.Options
	g.must(json.Unmarshal(now.Import.Options, &options))
	if diff := cmp.Diff(snapshot.Options{Only: options.Only, OwnTables: true}, options); diff != "" || now.Import.HQ {
		g.t.Error("the import is not as the server requests one:", diff)
	}
	return options.Only
}

// heals requires which tables heal requests an import of.
func (g *healing) heals(want ...string) {
	g.t.Helper()
	g.must(g.h.heal(g.t.Context(), g.t.Context()))
	if diff := cmp.Diff(want, g.requested()); diff != "" {
		g.t.Error(diff)
	}
}

// fails ends the requested import without a table.
func (g *healing) fails() {
	g.t.Helper()
	now, _ := g.desired.now()
	now.job.started.Store(true)
	g.finishImport(now.job, errors.New("HQ is down"))
}

func missing(names ...string) []sink.TableState {
	var states []sink.TableState
	for _, name := range names {
		states = append(states, sink.TableState{Table: name, State: sink.Missing, Cause: sink.CauseAbsent, Reason: reasonAbsent, Applied: cdc.Position{Sequence: 5}})
	}
	return states
}

func incomplete(name string) sink.TableState {
	return sink.TableState{Table: name, State: sink.Incomplete, Cause: sink.CauseGap, Reason: "gap", Gap: "gap"}
}

func imports(names ...string) map[string]imported {
	all := make(map[string]imported)
	for _, name := range names {
		all[name] = imported{}
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
		imports map[string]imported
		options func(*Config)
		want    []string
	}{
		"missing":                      {states: missing("a"), imports: imports("a", "b"), want: []string{"a"}},
		"incomplete":                   {states: []sink.TableState{incomplete("a")}, imports: imports("a", "b"), want: []string{"a"}},
		"accepted":                     {states: []sink.TableState{accepted}, imports: imports("a", "b")},
		"denied":                       {states: []sink.TableState{denied}, imports: imports("a", "b")},
		"other tables":                 {states: []sink.TableState{others}, imports: imports("a", "b")},
		"four at once":                 {states: missing("a", "b", "c", "d", "e"), imports: imports("a", "b", "c", "d", "e", "f"), want: []string{"a", "b", "c", "d"}},
		"every table":                  {states: missing("a", "b"), imports: imports("a", "b")},
		"every table, new ones too":    {states: missing("a", "b", "new"), imports: imports("a", "b")},
		"every imported table but one": {states: missing("a", "new"), imports: imports("a", "b"), want: []string{"a", "new"}},
		"every table, all": {
			states: missing("a", "b"), imports: imports("a", "b"), options: func(c *Config) { c.Options.Heal = config.HealAll }, want: []string{"a", "b"},
		},
		"off":              {states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Options.Heal = config.HealOff }},
		"on probation":     {states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Probation = func() bool { return true } }},
		"not on probation": {states: missing("a"), imports: imports("a", "b"), options: func(c *Config) { c.Probation = func() bool { return false } }, want: []string{"a"}},
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

// TestHeal_OnceADay imports no table twice within 24 h, whether or not the import
// succeeds, and over restarts.
func TestHeal_OnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := imports("a", "b", "c")
		g := newHealing(t, all, missing("a")...)
		g.heals("a")
		g.heals("a") // still the same
		g.fails()
		g.heals()
		g.run(all, missing("a", "b")...) // lost once more, after it was healed
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

// TestHeal_WaitsForTheNextAttempt that a state names.
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

// TestHeal_NotWhileAnImportIsUnderWay postpones nothing.
func TestHeal_NotWhileAnImportIsUnderWay(t *testing.T) {
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

// TestHeal_NotIfTheStreamKeepsTooLittle keeps the state, with both durations as the
// reason.
func TestHeal_NotIfTheStreamKeepsTooLittle(t *testing.T) {
	for _, trimmed := range []bool{true, false} {
		t.Run(fmt.Sprint("trimmed ", trimmed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := imports("a", "b", "c")
				all["a"] = imported{took: 49 * time.Hour}
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
				want[0].Reason = "its last import took 49h0m0s, and the stream keeps changes for 48h0m0s, so eds does not import it without being asked"
				if diff := cmp.Diff(want, g.h.set.States()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// TestHeal_GivesUpOldDeadLetters of the destination, and imports their tables.
func TestHeal_GivesUpOldDeadLetters(t *testing.T) {
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
	if got, want := g.Dead.Count(g.d.Identity), (dlq.Counts{Waiting: 2, Elsewhere: 1}); got != want {
		t.Errorf("left: %+v, want %+v", got, want)
	}
	states := g.h.set.States()
	const reason = "dead letters of it were older than 90 days and were given up"
	if len(states) != 1 || states[0].Table != "a" || states[0].State != sink.Incomplete || states[0].Cause != sink.CauseLetters || states[0].Reason != reason || states[0].Gap != reason {
		t.Errorf("states: %+v", states)
	}
	g.heals("a")
	g.must(g.h.expire(t.Context()))
}

// TestHealer_Watch inspects at first and each minute, and imports a table that is absent
// for a minute.
func TestHealer_Watch(t *testing.T) {
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
