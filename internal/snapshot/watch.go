package snapshot

import (
	"fmt"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// stallWatch reports that an import, or a part of it, has made no progress for retry.HangTimeout.
// It reports again each time that the time without progress has doubled. It is safe for concurrent
// use. A nil stallWatch reports nothing.
type stallWatch struct {
	report func(reason string) // "" means that there is progress again

	mu        sync.Mutex
	timer     *time.Timer
	operation string        // current operation
	downloads bool          // whether the operation is a download, which may wait for other tables' downloads
	failure   string        // latest failure of the operation since the latest progress; "" if none
	moved     time.Time     // time of the latest progress
	next      time.Duration // time without progress until the next report
	ended     bool
}

// newWatch starts to watch an operation on a part of the import. The caller must call the method
// end to stop the watch. The part has a name: that of a table, or "all tables".
func (r *importRun) newWatch(what, operation string) *stallWatch {
	w := &stallWatch{operation: operation, moved: time.Now(), next: retry.HangTimeout}
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

// doing records the start of an operation. The start counts as progress, unless an attempt has
// failed since the latest progress. In that case, the operation is only the next attempt.
func (w *stallWatch) doing(operation string) {
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

// downloading records the start of the download of a file.
func (w *stallWatch) downloading(file string) {
	w.doing("download file " + file)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.downloads = true
}

// downloaded records that data of some table was downloaded. That counts as progress if the watched
// operation is a download.
func (w *stallWatch) downloaded() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.downloads {
		w.move()
	}
}

// failed stores the error of an attempt. The watch reports the error if no progress follows.
func (w *stallWatch) failed(err error) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = err.Error()
}

// progress records that the import has made progress.
func (w *stallWatch) progress() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move()
}

func (w *stallWatch) move() {
	w.failure, w.moved = "", time.Now()
	if w.next > retry.HangTimeout && !w.ended {
		w.next = retry.HangTimeout
		w.timer.Reset(w.next)
		w.report("")
	}
}

// end stops the watch, and ends its warning if there is one.
func (w *stallWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move()
	w.ended = true
	w.timer.Stop()
}

func (w *stallWatch) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	idle := time.Since(w.moved)
	if idle >= w.next {
		reason := fmt.Errorf("there was no progress for %v", idle.Round(time.Second))
		if w.failure == "" {
			reason = fmt.Errorf("%s: %w", w.operation, reason)
		}
		w.report(retry.After(reason, w.failure).Error())
		w.next *= 2
	}
	w.timer.Reset(w.next - idle)
}
