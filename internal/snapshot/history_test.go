package snapshot_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// eventSink is a destination that keeps events and no record of files.
type eventSink struct {
	encode.Loader
	mu   sync.Mutex
	rows map[string]int // by file
	// fail is called before each batch.
	fail func(from encode.SnapshotPart) error
}

func newEventSink() *eventSink {
	h := &eventSink{rows: make(map[string]int)}
	h.Loader = encode.Loader{ApplyFrom: h.apply, Limits: sink.Limits{Rows: 50, Bytes: 1 << 20}}
	return h
}

func (h *eventSink) Apply(context.Context, *change.Batch) error { return errors.New("unused") }
func (h *eventSink) Probe(context.Context) error                { return nil }

func (h *eventSink) apply(_ context.Context, b *change.Batch, from encode.SnapshotPart) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		if err := h.fail(from); err != nil {
			return err
		}
	}
	h.rows[from.File] += len(b.Events)
	return nil
}

// TestRun_WritesEventsOnce: a written file is not written again, neither after an error with a
// later file nor by another run. Only an interrupted file is written again, from its start.
func TestRun_WritesEventsOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		h := newEventSink()
		failures := 0
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		h.fail = func(from encode.SnapshotPart) error {
			switch {
			case from.File == fileName("order", 2) && from.Batch == 2 && failures < 3:
				failures++
				return errors.New("the connection was lost")
			case from.File == fileName("order", 3):
				cancel(errors.New("interrupted"))
				return context.Canceled
			}
			return nil
		}
		into := func(c *snapshot.Config) { c.Sink, c.Only = h, []string{"order"} }
		if _, err := w.run(ctx, d, into); err == nil {
			t.Fatal("the import was not interrupted")
		}
		first := map[string]int{fileName("order", 1): 100, fileName("order", 2): 3*50 + 100}
		if diff := cmp.Diff(first, h.rows); diff != "" {
			t.Errorf("after the interruption: %s", diff)
		}
		clear(h.rows)
		h.fail = nil
		report, err := w.run(t.Context(), d, into)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]int{fileName("order", 3): 5}, h.rows); diff != "" {
			t.Errorf("the second run: %s", diff)
		}
		if report.Rows != 205 || !report.Plan.Resumed {
			t.Errorf("%d rows, resumed %v", report.Rows, report.Plan.Resumed)
		}
		// After an import has ended, the next import starts from the first file.
		clear(h.rows)
		if _, err := w.run(t.Context(), d, into); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(
			map[string]int{fileName("order", 1): 100, fileName("order", 2): 100, fileName("order", 3): 5}, h.rows,
		); diff != "" {
			t.Errorf("another import: %s", diff)
		}
	})
}
