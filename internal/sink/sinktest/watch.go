package sinktest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// checkAtomicFinish reads the table continuously while loads of the table finish.
func checkAtomicFinish(h *harness) {
	s, t := withOldRows(h)
	const rows, rounds = 200, 8
	w := watch(h, t)
	allowed := []string{"2 rows of [1 2]"}
	for round := range rounds {
		l := h.begin(s, fmt.Sprint("job ", round), t, sink.Replace)
		var images []string
		for i := range rows {
			images = append(images, fmt.Sprintf(`{"id":"%d","visits":%d}`, i, round))
		}
		h.loadFile(l, t, "one", images...)
		w.expect(h, allowed...)
		allowed = append(allowed, fmt.Sprintf("%d rows of [%d]", rows, round))
		h.end(l, true)
		w.expect(h, allowed...)
		allowed = allowed[1:]
	}
	w.expect(h, allowed...)
}

// watcher reads a table continuously and collects the results.
type watcher struct {
	mu    sync.Mutex
	seen  []string
	looks int
	more  chan struct{} // receives a value when looks has grown
}

// watch reads t over a separate connection until the check ends.
func watch(h *harness, t *schema.Table) *watcher {
	w := &watcher{more: make(chan struct{}, 1)}
	reader := h.open().(sink.Reader)
	ctx, stop := context.WithCancel(context.WithoutCancel(h.ctx()))
	var group sync.WaitGroup
	group.Go(func() {
		for ctx.Err() == nil {
			if what, ok := look(ctx, reader, t); ok {
				w.saw(what)
			}
		}
	})
	h.Cleanup(func() { stop(); group.Wait() })
	return w
}

func (w *watcher) saw(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	if !slices.Contains(w.seen, what) {
		w.seen = append(w.seen, what)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// expect checks the results that were collected since the last call of expect. It first waits for
// two more results, so that the last read started after this call.
func (w *watcher) expect(h *harness, allowed ...string) {
	h.Helper()
	w.mu.Lock()
	enough := w.looks + 2
	w.mu.Unlock()
	for {
		w.mu.Lock()
		looks, seen := w.looks, w.seen
		if looks >= enough {
			w.seen = nil
		}
		w.mu.Unlock()
		if looks >= enough {
			for _, what := range seen {
				if !slices.Contains(allowed, what) {
					h.Errorf("a reader saw %s, not one of %q", what, allowed)
				}
			}
			return
		}
		select {
		case <-w.more:
		case <-time.After(h.patience()):
			h.Fatalf("the table cannot be read for %v", h.patience())
		}
	}
}

// look reads the table, and returns the number of rows and their rounds. The result ok is false if
// the destination cannot be read now.
func look(ctx context.Context, r sink.Reader, t *schema.Table) (what string, ok bool) {
	visits := t.Slot([]byte("visits"))
	n, rounds := 0, make(map[string]bool)
	for row, err := range r.Read(ctx, t) {
		if err != nil {
			return "", false
		}
		n++
		rounds[string(row.Value(visits))] = true
	}
	return fmt.Sprintf("%d rows of %v", n, slices.Sorted(maps.Keys(rounds))), true
}
