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

// recordingGate is a Gate that records its calls and withholds tables that have failed.
type recordingGate struct {
	mu          sync.Mutex
	failed      map[string]bool
	log         []string
	lacks       []string // tables and reasons
	deadLetters bool
	known       map[string]bool
	enter       func() // nil: batches do not wait
}

func (g *recordingGate) Enter(context.Context) error {
	if g.enter != nil {
		g.enter()
	}
	return nil
}

func (*recordingGate) Leave() {}

func (g *recordingGate) Withholds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.failed) > 0
}

func (g *recordingGate) Applies(table string, _ cdc.Position) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.failed[table]
}

func (g *recordingGate) Fail(table string, p cdc.Position, cause sink.Cause, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed[table] = true
	g.log = append(g.log, fmt.Sprintf("%s as of %d: %s", table, p.Sequence, cause))
}

func (g *recordingGate) Lack(table string, reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lacks = append(g.lacks, table+": "+reason.Error())
}

func (g *recordingGate) Denied(string) bool { return g.deadLetters }

func (g *recordingGate) Known(table string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known[table] = true
}

func (g *recordingGate) failures() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.log)
}

// withGate runs payloads with a gate until every message is acknowledged.
func withGate(t *testing.T, payloads []string, arrange func(r *rig, g *recordingGate), check func(t *testing.T, r *rig, g *recordingGate)) {
	t.Helper()
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		g := &recordingGate{failed: make(map[string]bool), known: make(map[string]bool)}
		r.config.Gate = g
		arrange(r, g)
		r.mustStart(t)
		if err := r.source.await(t.Context(), uint64(len(payloads))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.mustStop(t)
		check(t, r, g)
	})
}

func TestGate_ReportsAWaitingBatch(t *testing.T) {
	var reason string
	withGate(t, []string{put("a", "1", "x")}, func(r *rig, g *recordingGate) {
		g.enter = func() {
			time.Sleep(retry.HangTimeout + time.Second)
			reason = r.Status().Reason
		}
	}, func(t *testing.T, r *rig, _ *recordingGate) {
		equal(t, "waiting for the tables that are behind: there was no answer for 30s", reason)
		equal(t, "", r.Status().Reason)
		if logs := r.logs.String(); strings.Count(logs, "waiting for the tables that are behind") != 1 {
			t.Errorf("it logs %s", logs)
		}
	})
}

// refuse makes Apply or Migrate refuse table a.
func refuse(tables []*schema.Table, reason error) error {
	for _, t := range tables {
		if t.Name == "a" {
			return fault.Mark(fault.Fatal, fmt.Errorf("migrate: %w", &sink.TableError{Table: "a", Err: reason}))
		}
	}
	return nil
}

func TestGate_LeavesOneTableBehind(t *testing.T) {
	const first = 4 // messages are applied before a table fails
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
			withGate(t, payloads, func(r *rig, _ *recordingGate) {
				r.config.MaxRows = first
				r.sink.before = func(_ int, b *change.Batch) error {
					var tables []*schema.Table
					for _, s := range b.Sets {
						tables = append(tables, s.Table)
					}
					if b.First.Sequence <= first {
						return nil
					}
					return refuse(tables, c.reason)
				}
			}, func(t *testing.T, r *rig, g *recordingGate) {
				equal(t, []string{fmt.Sprintf("a as of %d: %s", first, c.cause)}, g.failures())
				equal(t, kept, sortedKeys(r.sink.snapshot()))
				equal(t, 0, len(r.mustDeadLetters(t)))
				equal(t, [3]uint64{10, 6, 0}, [3]uint64{r.Status().Applied, r.Status().Skipped, r.Status().Rejected})
			})
		})
	}
	t.Run("migration", func(t *testing.T) {
		withGate(t, payloads, func(r *rig, _ *recordingGate) {
			r.sink.migrate = func(tables []*schema.Table) error { return refuse(tables, errors.New("it is too wide")) }
		}, func(t *testing.T, r *rig, g *recordingGate) {
			equal(t, []string{"a as of 0: refused"}, g.failures())
			equal(t, kept[2:], sortedKeys(r.sink.snapshot()))
		})
	})
}

func TestGate_FailsATableWithTooManyPoisonEvents(t *testing.T) {
	var payloads []string
	for i := range 150 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "poison"), put("b", fmt.Sprint(i), "x"))
	}
	withGate(t, payloads, func(*rig, *recordingGate) {}, func(t *testing.T, r *rig, g *recordingGate) {
		equal(t, []string{"a as of 200: too many errors"}, g.failures())
		equal(t, 100, len(r.mustDeadLetters(t)))
		equal(t, 150, len(r.sink.snapshot()))
		equal(t, 300, r.source.acknowledged.Sequence)
	})
}

func TestGate_FailsOrDeadLettersADeniedVersion(t *testing.T) {
	payloads := []string{put("a", "1", "x"), of("a", "v9", "2"), put("b", "1", "x"), put("a", "3", "x")}
	catalogue := func(r *rig) {
		r.config.Tables = schema.NewCatalogue(newSchemaServer("a/v1", "b/v1"), noCache{})
		r.config.MaxRows = 1
	}
	withGate(t, payloads, func(r *rig, _ *recordingGate) { catalogue(r) }, func(t *testing.T, r *rig, g *recordingGate) {
		equal(t, []string{"a as of 1: schema denied"}, g.failures())
		equal(t, []string{"a/1", "b/1"}, sortedKeys(r.sink.snapshot()))
		equal(t, 0, len(r.mustDeadLetters(t)))
		equal(t, true, g.known["a"])
	})
	withGate(t, payloads, func(r *rig, g *recordingGate) {
		catalogue(r)
		g.deadLetters = true
	}, func(t *testing.T, r *rig, g *recordingGate) {
		equal(t, 0, len(g.failures()))
		equal(t, []string{"a/1", "a/3", "b/1"}, sortedKeys(r.sink.snapshot()))
		equal(t, 1, len(r.mustDeadLetters(t)))
	})
}

var _ pipeline.Gate = (*recordingGate)(nil)
