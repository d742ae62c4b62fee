package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// gate is a Gate that remembers which tables have failed.
type gate struct {
	mu     sync.Mutex
	failed map[string]bool
	log    []string
	lacks  []string // tables, and what for
	bury   bool
	known  map[string]bool
	enter  func() // nil: batches do not wait
}

func (g *gate) Enter(context.Context) error {
	if g.enter != nil {
		g.enter()
	}
	return nil
}

func (*gate) Leave() {}

func (g *gate) Withholds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.failed) > 0
}

func (g *gate) Applies(table string, _ cdc.Position) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.failed[table]
}

func (g *gate) Fail(table string, p cdc.Position, cause sink.Cause, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed[table] = true
	g.log = append(g.log, fmt.Sprintf("%s as of %d: %s", table, p.Sequence, cause))
}

func (g *gate) Lack(table string, reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lacks = append(g.lacks, table+": "+reason.Error())
}

func (g *gate) Denied(string) bool { return g.bury }

func (g *gate) Known(table string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known[table] = true
}

func (g *gate) failures() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.log)
}

// gated runs payloads with a gate, until everything is settled.
func gated(t *testing.T, payloads []string, arrange func(r *rig, g *gate), check func(t *testing.T, r *rig, g *gate)) {
	t.Helper()
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		g := &gate{failed: make(map[string]bool), known: make(map[string]bool)}
		r.config.Gate = g
		arrange(r, g)
		r.mustStart(t)
		if err := r.stream.await(t.Context(), uint64(len(payloads))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.mustStop(t)
		check(t, r, g)
	})
}

func TestGate_SaysThatTheBatchWaits(t *testing.T) {
	var reason string
	gated(t, []string{put("a", "1", "x")}, func(r *rig, g *gate) {
		g.enter = func() {
			time.Sleep(retry.HangTimeout + time.Second)
			reason = r.Status().Reason
		}
	}, func(t *testing.T, r *rig, _ *gate) {
		equal(t, "waiting for the tables that are behind: there was no answer for 30s", reason)
		equal(t, "", r.Status().Reason)
		if logs := r.logs.String(); strings.Count(logs, "waiting for the tables that are behind") != 1 {
			t.Errorf("it logs %s", logs)
		}
	})
}

// refuse has Apply or Migrate refuse table a.
func refuse(tables []*schema.Table, reason error) error {
	for _, t := range tables {
		if t.Name == "a" {
			return fault.Mark(fault.Fatal, fmt.Errorf("migrate: %w", &sink.TableError{Table: "a", Err: reason}))
		}
	}
	return nil
}

func TestGate_LeavesOneTableBehind(t *testing.T) {
	const first = 4 // messages that are applied before anything fails
	payloads := []string{put("a", "1", "x"), put("b", "1", "x"), put("a", "2", "x"), put("b", "2", "x")}
	for i := range 6 {
		payloads = append(payloads, put("b", fmt.Sprint("b", i), "x"), put("a", fmt.Sprint("a", i), "x"))
	}
	kept := []string{"a/1", "a/2", "b/1", "b/2", "b/b0", "b/b1", "b/b2", "b/b3", "b/b4", "b/b5"}
	for name, c := range map[string]struct {
		reason error
		cause  sink.Cause
	}{
		"refused": {errors.New("it is too wide"), sink.CauseRefused},
		"missing": {sink.ErrMissing, sink.CauseAbsent},
	} {
		t.Run(name, func(t *testing.T) {
			gated(t, payloads, func(r *rig, _ *gate) {
				r.config.MaxRows = first
				r.table.before = func(_ int, b *change.Batch) error {
					var tables []*schema.Table
					for _, s := range b.Sets {
						tables = append(tables, s.Table)
					}
					if b.First.Sequence <= first {
						return nil
					}
					return refuse(tables, c.reason)
				}
			}, func(t *testing.T, r *rig, g *gate) {
				equal(t, []string{fmt.Sprintf("a as of %d: %s", first, c.cause)}, g.failures())
				equal(t, kept, sortedKeys(r.table.snapshot()))
				equal(t, 0, len(r.mustLetters(t)))
				equal(t, [3]uint64{10, 6, 0}, [3]uint64{r.Status().Applied, r.Status().Skipped, r.Status().Rejected})
			})
		})
	}
	t.Run("migration", func(t *testing.T) {
		gated(t, payloads, func(r *rig, _ *gate) {
			r.table.migrate = func(tables []*schema.Table) error { return refuse(tables, errors.New("it is too wide")) }
		}, func(t *testing.T, r *rig, g *gate) {
			equal(t, []string{"a as of 0: refused"}, g.failures())
			equal(t, kept[2:], sortedKeys(r.table.snapshot()))
		})
	})
}

func TestGate_FailsATableWithTooManyPoisonEvents(t *testing.T) {
	var payloads []string
	for i := range 150 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "poison"), put("b", fmt.Sprint(i), "x"))
	}
	gated(t, payloads, func(*rig, *gate) {}, func(t *testing.T, r *rig, g *gate) {
		equal(t, []string{"a as of 200: too many errors"}, g.failures())
		equal(t, 100, len(r.mustLetters(t)))
		equal(t, 150, len(r.table.snapshot()))
		equal(t, 300, r.stream.settled.Sequence)
	})
}

func TestGate_LeavesADeniedVersionBehindOrBuriesIt(t *testing.T) {
	payloads := []string{put("a", "1", "x"), of("a", "v9", "2"), put("b", "1", "x"), put("a", "3", "x")}
	catalogue := func(r *rig) {
		r.config.Tables = schema.NewCatalogue(newSchemaServer("a/v1", "b/v1"), noCache{})
		r.config.MaxRows = 1
	}
	gated(t, payloads, func(r *rig, _ *gate) { catalogue(r) }, func(t *testing.T, r *rig, g *gate) {
		equal(t, []string{"a as of 1: schema denied"}, g.failures())
		equal(t, []string{"a/1", "b/1"}, sortedKeys(r.table.snapshot()))
		equal(t, 0, len(r.mustLetters(t)))
		equal(t, true, g.known["a"])
	})
	gated(t, payloads, func(r *rig, g *gate) { catalogue(r); g.bury = true }, func(t *testing.T, r *rig, g *gate) {
		equal(t, 0, len(g.failures()))
		equal(t, []string{"a/1", "a/3", "b/1"}, sortedKeys(r.table.snapshot()))
		equal(t, 1, len(r.mustLetters(t)))
	})
}

var _ pipeline.Gate = (*gate)(nil)
