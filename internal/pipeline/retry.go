package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// dependency is the name of the thing that the pipeline waits for while it retries.
type dependency string

const (
	dependencySource      dependency = "source"
	dependencySchema      dependency = "schema"
	dependencyDestination dependency = "destination"
	dependencyDeadLetters dependency = "dead letters"
	dependencyTables      dependency = "tables that are behind" // the lane, whose tables join
)

// retry calls attempt until it succeeds, fails with an error that is not transient, or ctx ends.
// While retry waits, the status and the log name the dependency, even if an attempt does not
// return.
func (p *Pipeline) retry(ctx context.Context, what dependency, attempt func() error) error {
	var began time.Time // start of the latest attempt
	policy := retry.Policy{Failed: func(err error, _ time.Duration) { p.status.attemptFailed(what, began, err) }}
	err := retry.Do(ctx, policy, func() error {
		started := time.Now()
		began = started
		return retry.Watch(func() { p.status.attemptHangs(what, started) }, attempt)
	})
	if err == nil || ctx.Err() == nil {
		p.status.recovered(what)
	}
	return err
}

// retryState describes a dependency that currently fails or does not answer.
type retryState struct {
	since    time.Time
	reason   string
	failure  string // error of the latest attempt that has returned; "" if none has
	attempts int    // number of attempts that have returned
	logged   time.Time
	quiet    time.Duration // minimum time between logged and the next log line
}

// Bounds of the minimum time between two log lines about one dependency. The time starts at
// firstQuiet and doubles up to lastQuiet.
const (
	firstQuiet = 10 * time.Second
	lastQuiet  = 10 * time.Minute
)

// attemptFailed records a failed attempt that started at the time began. It logs the first failure,
// and later ones at growing intervals.
func (t *statusTracker) attemptFailed(what dependency, began time.Time, err error) {
	t.metrics.retries.WithLabelValues(string(what)).Inc()
	if s, log := t.setRetryState(what, began, err, 1); log {
		t.logger.Warn("waiting for the "+string(what)+", and trying again",
			"error", err, "attempts", s.attempts, "since", s.since.Format(time.RFC3339))
	}
}

// attemptHangs records an attempt that started at the time began and has not returned within
// retry.HangTimeout.
func (t *statusTracker) attemptHangs(what dependency, began time.Time) {
	if s, log := t.setRetryState(what, began, retry.ErrNoAnswer, 0); log {
		t.logger.Warn("waiting for the "+string(what), "error", s.reason, "since", s.since.Format(time.RFC3339))
	}
}

// setRetryState records the reason why the attempt that started at the time began has not succeeded
// yet, and the number of attempts that have ended since the last call. It reports whether to log
// the state, which is always true for the first failure. The caller writes the log, because a log
// that blocks must not block readers of the status.
func (t *statusTracker) setRetryState(what dependency, began time.Time, reason error, ended int) (s retryState, log bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	current := t.retries[what]
	if current == nil {
		current = &retryState{since: began}
		t.retries[what] = current
		t.retrying.Add(1)
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

// recovered records that a dependency works again. It is cheap if the pipeline waits for no
// dependency.
func (t *statusTracker) recovered(what dependency) {
	if s := t.clearRetryState(what); s != nil {
		t.logger.Info("the "+string(what)+" works again", "attempts", s.attempts, "after", time.Since(s.since).Round(time.Millisecond))
	}
}

// clearRetryState records that the pipeline no longer waits for a dependency. It returns the
// previous state, or nil if there was none.
func (t *statusTracker) clearRetryState(what dependency) *retryState {
	if t.retrying.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.retries[what]
	if s != nil {
		delete(t.retries, what)
		t.retrying.Add(-1)
	}
	return s
}
