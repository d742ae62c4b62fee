package pipeline

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// trouble names what the pipeline waits for while it tries again.
type trouble string

const (
	troubleSource      trouble = "source"
	troubleSchema      trouble = "schema"
	troubleDestination trouble = "destination"
	troubleDeadLetters trouble = "dead letters"
	troubleTables      trouble = "tables that are behind" // to join
)

// ordeal is a trouble that lasts.
type ordeal struct {
	since    time.Time
	reason   string
	failure  string // of the latest attempt that has returned; "": none has
	attempts int    // that have returned
	logged   time.Time
	quiet    time.Duration // how long after logged the next line may come
}

// Bounds of the time between two log lines about one trouble.
const (
	firstQuiet = 10 * time.Second
	lastQuiet  = 10 * time.Minute
)

// trouble records an attempt that began at a time and has failed: it is logged the first
// time, then ever more sparsely.
func (t *tracker) trouble(what trouble, began time.Time, err error) {
	t.metrics.retries.WithLabelValues(string(what)).Inc()
	if o, log := t.failed(what, began, err, 1); log {
		t.logger.Warn("waiting for the "+string(what)+", and trying again", "error", err, "attempts", o.attempts, "since", o.since.Format(time.RFC3339))
	}
}

// silent records an attempt that began at a time and has not returned for retry.HangTimeout.
func (t *tracker) silent(what trouble, began time.Time) {
	if o, log := t.failed(what, began, retry.ErrNoAnswer, 0); log {
		t.logger.Warn("waiting for the "+string(what), "error", o.reason, "since", o.since.Format(time.RFC3339))
	}
}

// failed records why an attempt that began at a time has no success yet, and how many have
// ended since the last call, and reports whether that is to be logged, as the first failure
// always is. The caller logs, because a log that blocks must not block those who ask for the
// status.
func (t *tracker) failed(what trouble, began time.Time, reason error, ended int) (o ordeal, log bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	current := t.ordeals[what]
	if current == nil {
		current = &ordeal{since: began}
		t.ordeals[what] = current
		t.troubled.Add(1)
	}
	log = ended > 0 && current.attempts == 0 || now.Sub(current.logged) >= current.quiet
	current.attempts += ended
	if ended > 0 {
		current.failure = reason.Error()
	} else {
		reason = retry.After(reason, current.failure)
	}
	current.reason = reason.Error()
	t.lastError, t.lastErrorAt = current.reason, now
	if log {
		current.logged, current.quiet = now, min(max(2*current.quiet, firstQuiet), lastQuiet)
	}
	return *current, log
}

// recovered records that what works again. It costs nothing while there is no
// trouble.
func (t *tracker) recovered(what trouble) {
	if o := t.abandoned(what); o != nil {
		t.logger.Info("the "+string(what)+" works again", "attempts", o.attempts, "after", time.Since(o.since).Round(time.Millisecond))
	}
}

// abandoned records that what is not waited for any more, and returns the trouble
// that there was, if any.
func (t *tracker) abandoned(what trouble) *ordeal {
	if t.troubled.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.ordeals[what]
	if o != nil {
		delete(t.ordeals, what)
		t.troubled.Add(-1)
	}
	return o
}
