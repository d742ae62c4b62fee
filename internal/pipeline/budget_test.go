package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// TestBudget_IsSharedByPipelines would hang if a pipeline waited for memory that another
// one holds: one of them is stuck with all that the budget allows, or a single message is
// larger than the budget.
func TestBudget_IsSharedByPipelines(t *testing.T) {
	const (
		maxBytes = 3 << 20
		text     = 1200 << 10 // of a large message
		messages = 30
	)
	large := backlog{text: text}.zipped()
	for _, room := range []int{1, text - 1, 2 * maxBytes} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			inBubble(t, make([]string, messages), func(t *testing.T, stuck *rig) {
				going, err := newRig(t.TempDir(), newStream(make([]string, messages)...), newTable())
				if err != nil {
					t.Fatal(err)
				}
				budget := pipeline.NewBudget(room)
				var down atomic.Bool
				down.Store(true)
				most := 0
				stuck.table.before = func(int, *change.Batch) error {
					if down.Load() {
						return errors.New("connection refused")
					}
					return nil
				}
				going.table.before = func(int, *change.Batch) error {
					most = max(most, budget.Used())
					return nil
				}
				for _, r := range []*rig{stuck, going} {
					for i := range r.stream.messages {
						m := &r.stream.messages[i]
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
				if err := going.stream.await(ctx, messages); err != nil {
					t.Fatalf("the pipeline waits for the one that is stuck: %v", err)
				}
				if n := stuck.stream.settled.Sequence; n != 0 {
					t.Fatalf("%d messages were settled while the destination was down", n)
				}
				// Beyond the budget, each may have a batch, the next message, and runs of compressed ones.
				if bound := room + 2*(maxBytes+text+messages*len(large)); most > bound {
					t.Errorf("%d bytes were in flight, more than %d", most, bound)
				}
				down.Store(false)
				if err := stuck.stream.await(ctx, messages); err != nil {
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
		r.table.before = func(int, *change.Batch) error { return errors.New("connection refused") }
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
