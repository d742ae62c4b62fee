package snapshot

import (
	"fmt"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// watch reports an import, or a part of it, that makes no progress for retry.HangTimeout, and
// again after twice as long, and so on. Its methods may be called concurrently. A nil watch
// reports nothing.
type watch struct {
	report func(reason string) // "": there is progress again

	mu        sync.Mutex
	timer     *time.Timer
	operation string        // under way
	downloads bool          // it is a download, which may wait for those of other tables
	failure   string        // of the operation, since the latest progress; "": none
	moved     time.Time     // of the latest progress
	next      time.Duration // without progress, until it is reported
	ended     bool
}

// watch watches an operation, which is a table's import or one that concerns all tables,
// until end is called.
func (r *run) watch(what, operation string) *watch {
	w := &watch{operation: operation, moved: time.Now(), next: retry.HangTimeout}
	w.report = func(reason string) {
		if reason != "" {
			r.cfg.Logger.Warn("the import makes no progress", "import", what, "reason", reason)
			reason = fmt.Sprintf("the import of %s makes no progress: %s", what, reason)
		} else {
			r.cfg.Logger.Info("the import makes progress again", "import", what)
		}
		if r.cfg.Stalled != nil {
			r.cfg.Stalled(what, reason)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.next, w.expire)
	return w
}

// doing notes the operation that begins. It is progress, unless one has failed since the
// latest progress: then it is the next attempt.
func (w *watch) doing(operation string) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.operation, w.downloads = operation, false
	if w.failure == "" {
		w.move()
	}
}

// downloading is doing of the download of a file.
func (w *watch) downloading(file string) {
	w.doing("download file " + file)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.downloads = true
}

// downloaded notes that bytes of any table have come.
func (w *watch) downloaded() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.downloads {
		w.move()
	}
}

// failed notes why an attempt has failed.
func (w *watch) failed(err error) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = err.Error()
}

// progress notes that rows, bytes or operations are done.
func (w *watch) progress() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move()
}

func (w *watch) move() {
	w.failure, w.moved = "", time.Now()
	if w.next > retry.HangTimeout && !w.ended {
		w.next = retry.HangTimeout
		w.timer.Reset(w.next)
		w.report("")
	}
}

// end ends the watch.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move()
	w.ended = true
	w.timer.Stop()
}

func (w *watch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	still := time.Since(w.moved)
	if still >= w.next {
		reason := fmt.Errorf("there was no progress for %v", still.Round(time.Second))
		if w.failure == "" {
			reason = fmt.Errorf("%s: %w", w.operation, reason)
		}
		w.report(retry.After(reason, w.failure).Error())
		w.next *= 2
	}
	w.timer.Reset(w.next - still)
}
