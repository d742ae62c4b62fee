// Package retry retries calls with growing waits, and reports calls that hang.
package retry

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Policy controls how Do retries. The zero value retries transient errors until the context ends,
// with the waits of the zero Backoff.
type Policy struct {
	Backoff  Backoff
	Attempts int           // maximum number of calls, or 0 for no limit
	Patience time.Duration // maximum time from Since to the start of the last call, or 0 for no limit
	Since    time.Time     // start of the patience; if it is zero, the time of the first failure
	// Retryable reports whether to call the function again after an error. If Retryable is nil,
	// errors of the class fault.Transient are retried.
	Retryable func(err error) bool
	// Failed, if not nil, is called after each failure that will be retried, before the wait.
	Failed func(err error, wait time.Duration)
	// Hangs, if not nil, is called once for each call that runs longer than HangTimeout,
	// concurrently with that call. Its argument is the text of the previous call's error, or "" if
	// there was none.
	Hangs func(failure string)
}

// Do calls fn until fn returns nil, and then returns nil. If fn returns an error that is not
// retryable, or the policy permits no further call, Do returns that error. If ctx ends after a
// failure, Do returns the cause of ctx.
func Do(ctx context.Context, p Policy, fn func() error) error {
	since := p.Since
	failure := ""
	for attempt := 1; ; attempt++ {
		err := p.call(failure, fn)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if since.IsZero() {
			since = time.Now()
		}
		wait := p.Backoff.Next(err)
		exhausted := attempt == p.Attempts || p.Patience > 0 && time.Since(since)+wait > p.Patience
		if exhausted || !p.retryable(err) {
			return err
		}
		if p.Failed != nil {
			p.Failed(err, wait)
		}
		failure = err.Error()
		if err := Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (p *Policy) call(failure string, fn func() error) error {
	if p.Hangs == nil {
		return fn()
	}
	return Watch(func() { p.Hangs(failure) }, fn)
}

func (p *Policy) retryable(err error) bool {
	if p.Retryable != nil {
		return p.Retryable(err)
	}
	return fault.Of(err) == fault.Transient
}

// Sleep waits for the duration d. If ctx ends first, Sleep returns the cause of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
