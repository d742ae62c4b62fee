package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// TestBudget_IsSharedByPipelines would hang if a pipeline waited for memory that another one has:
// one of them is stuck with the whole budget, or a single message is larger than the budget.
func TestBudget_IsSharedByPipelines(t *testing.T) {
	const (
		maxBytes = 3 << 20
		text     = 1200 << 10 // of a large message
		messages = 30
	)
	large := compressedBacklog{text: text}.zipped()
	for _, limit := range []int{1, text - 1, 2 * maxBytes} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			inBubble(t, make([]string, messages), func(t *testing.T, stuck *rig) {
				going, err := newRig(t.TempDir(), newMemorySource(make([]string, messages)...), newMemorySink())
				if err != nil {
					t.Fatal(err)
				}
				budget := pipeline.NewBudget(limit)
				var down atomic.Bool
				down.Store(true)
				most := 0
				stuck.sink.before = func(int, *change.Batch) error {
					if down.Load() {
						return errors.New("connection refused")
					}
					return nil
				}
				going.sink.before = func(int, *change.Batch) error {
					most = max(most, budget.Used())
					return nil
				}
				for _, r := range []*rig{stuck, going} {
					for i := range r.source.messages {
						m := &r.source.messages[i]
						if m.Data = []byte(put("b", fmt.Sprint(i), "x")); i%3 > 0 {
							m.Data, m.Encoding = large, "gzip/json"
						}
					}
					r.config.Budget, r.config.MaxBytes = budget, maxBytes
				}
				stuck.mustStart(t)
				synctest.Wait()
				going.mustStart(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if err := going.source.await(ctx, messages); err != nil {
					t.Fatalf("the pipeline waits for the one that is stuck: %v", err)
				}
				if n := stuck.source.acknowledged.Sequence; n != 0 {
					t.Fatalf("%d messages were acknowledged while the destination was down", n)
				}
				// Beyond the budget, each pipeline may hold a batch, the next message, and received
				// compressed messages.
				if bound := limit + 2*(maxBytes+text+messages*len(large)); most > bound {
					t.Errorf("%d bytes were in flight, more than %d", most, bound)
				}
				down.Store(false)
				if err := stuck.source.await(ctx, messages); err != nil {
					t.Fatal(err)
				}
				going.mustStop(t)
				stuck.mustStop(t)
				equal(t, 0, budget.Used())
			})
		})
	}
}

func TestBudget_IsGivenBackByAPipelineThatIsStopped(t *testing.T) {
	inBubble(t, []string{put("b", "1", "x"), put("b", "2", "x")}, func(t *testing.T, r *rig) {
		budget := pipeline.NewBudget(1 << 20)
		r.config.Budget = budget
		r.sink.before = func(int, *change.Batch) error { return errors.New("connection refused") }
		r.mustStart(t)
		synctest.Wait()
		if budget.Used() == 0 {
			t.Error("nothing is in flight")
		}
		r.hard()
		<-r.ended.Done()
		equal(t, 0, budget.Used())
	})
}

// TestBudget_CountsTheColumnsOfSparseRows has events that need far more memory than their text.
func TestBudget_CountsTheColumnsOfSparseRows(t *testing.T) {
	const (
		columns  = 1000
		rowBytes = 8 * columns
		limit    = 1 << 20
	)
	all := []schema.Column{{Name: "id", Type: schema.String}}
	for i := range columns - 1 {
		all = append(all, schema.Column{Name: fmt.Sprint("column", i), Type: schema.String})
	}
	layout, err := schema.New("a", "v1", []string{"id"}, all)
	if err != nil {
		t.Fatal(err)
	}
	payloads := make([]string, 10_000)
	for i := range payloads {
		payloads[i] = put("a", fmt.Sprint(i), "x")
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		budget := pipeline.NewBudget(limit)
		r.config.Budget, r.config.Tables = budget, oneTable{layout}
		r.source.run = func() int { return 10 }
		r.sink.before = func(int, *change.Batch) error { return errors.New("connection refused") }
		r.mustStart(t)
		synctest.Wait()
		messages, used := r.Status().InFlight, budget.Used()
		if used < messages*rowBytes {
			t.Errorf("%d messages in flight count as %d bytes", messages, used)
		}
		// Beyond the budget, the pipeline may hold a batch, and the messages received with that
		// batch.
		if most := limit + 2*pipeline.DefaultMaxBytes + 20*10*rowBytes; used > most {
			t.Errorf("%d bytes are in flight, more than %d", used, most)
		}
		r.hard()
		<-r.ended.Done()
		equal(t, 0, budget.Used())
	})
}

// TestBudget_BoundsEventsWithoutRows has events whose member positions would need three times the
// memory of their text.
func TestBudget_BoundsEventsWithoutRows(t *testing.T) {
	payloads := make([]string, 40)
	for i := range payloads {
		payloads[i] = `{"operation":"UPDATE","table":"no table","after":{"id":"1"` + strings.Repeat(`,"":1`, 40_000) + `}}`
	}
	payloads[0] = put("a", "1", "x")
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		budget := pipeline.NewBudget(pipeline.DefaultBudget)
		r.config.Budget = budget
		r.config.MaxRows, r.config.MaxInFlight = 1, 1000
		r.sink.before = func(int, *change.Batch) error { return errors.New("connection refused") }
		before := liveHeap()
		r.mustStart(t)
		synctest.Wait()
		used, live := budget.Used(), liveHeap()-before
		if live > 2*used {
			t.Errorf("%d bytes count as %d", live, used)
		}
		r.hard()
		<-r.ended.Done()
	})
}

// liveHeap returns the number of heap bytes in use.
func liveHeap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
