// Package retry calls a function until it succeeds.
package retry

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Policy says when Do calls its function again. The zero value retries transient
// errors until the context ends, with the waits of the zero Backoff.
type Policy struct {
	Backoff  Backoff
	Attempts int           // maximum number of calls; 0: no limit
	Patience time.Duration // no call starts later than this after the first failure; 0: no limit
	// Retryable reports whether an error is worth another call; nil: if its class is
	// fault.Transient.
	Retryable func(err error) bool
	// Failed is called after each failure that is retried, before the wait; nil: not called.
	Failed func(err error, wait time.Duration)
	// Hangs is called once for a call that runs longer than HangTimeout, concurrently with
	// it; nil: calls are not watched. failure is the previous call's error, "" if there is none.
	Hangs func(failure string)
}

// Do calls fn until it succeeds, and returns nil. It gives up with fn's error if that is
// not retryable or the policy allows no other call, and with the cause of ctx if ctx ends
// after a failure.
func Do(ctx context.Context, p Policy, fn func() error) error {
	var first time.Time // of the failures
	failure := ""
	for attempt := 1; ; attempt++ {
		err := p.call(failure, fn)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if first.IsZero() {
			first = time.Now()
		}
		wait := p.Backoff.Next(err)
		exhausted := attempt == p.Attempts || p.Patience > 0 && time.Since(first)+wait > p.Patience
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

// Sleep waits for d, or until ctx ends: then it returns the cause of ctx.
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
