package pipeline

import (
	"time"
)

// trouble names what the pipeline waits for while it tries again.
type trouble string

const (
	troubleSource      trouble = "source"
	troubleSchema      trouble = "schema"
	troubleDestination trouble = "destination"
	troubleDeadLetters trouble = "dead letters"
)

// ordeal is a trouble that lasts.
type ordeal struct {
	since    time.Time
	reason   string
	attempts int
	logged   time.Time
	quiet    time.Duration // how long after logged the next line may come
}

// Bounds of the time between two log lines about one trouble.
const (
	firstQuiet = 10 * time.Second
	lastQuiet  = 10 * time.Minute
)

// trouble records a failed attempt: it is logged the first time, then ever more
// sparsely.
func (t *tracker) trouble(what trouble, err error) {
	t.metrics.retries.WithLabelValues(string(what)).Inc()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	o := t.ordeals[what]
	if o == nil {
		o = &ordeal{since: now}
		t.ordeals[what] = o
		t.troubled.Add(1)
	}
	o.attempts++
	o.reason = err.Error()
	t.lastError, t.lastErrorAt = o.reason, now
	if now.Sub(o.logged) < o.quiet {
		return
	}
	o.logged, o.quiet = now, min(max(2*o.quiet, firstQuiet), lastQuiet)
	t.logger.Warn("waiting for the "+string(what)+", and trying again", "error", err, "attempts", o.attempts, "since", o.since.Format(time.RFC3339))
}

// recovered records that what works again. It costs nothing while there is no
// trouble.
func (t *tracker) recovered(what trouble) {
	if t.troubled.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.ordeals[what]
	if o == nil {
		return
	}
	delete(t.ordeals, what)
	t.troubled.Add(-1)
	t.logger.Info("the "+string(what)+" works again", "attempts", o.attempts, "after", time.Since(o.since).Round(time.Millisecond))
}
