package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// SilentError says that a server made no progress with a call in time. The outcome of the call is
// unknown, and its session is unusable.
type SilentError struct{ Limit time.Duration }

func (e *SilentError) Error() string {
	return fmt.Sprintf("the server made no progress for %v, so the connection was given up; "+
		"check that the server is not stopped or overloaded, or raise statement_timeout in the url", e.Limit)
}

// Work is the state of a call that the server has not answered yet.
type Work struct {
	Active bool // the server is working on the call
	// Progress changes while the server makes progress; "": unknown. A server process that is
	// suspended is active, but makes no progress.
	Progress string
}

// Deadline ends a call if the server makes no progress with it.
type Deadline struct {
	limit   time.Duration
	working func(ctx context.Context) Work
	cancel  context.CancelCauseFunc

	asking sync.Mutex // held while expire asks for the state of the call

	mu         sync.Mutex
	timer      *time.Timer
	since      time.Time // of the latest progress or extension
	extensions int       // since the latest progress
	progress   string    // the latest Work.Progress
	paused     bool
	ended      bool
}

// Bounds of the extensions in a row for a server that is working on a call.
const (
	maxStuckExtensions = 3  // its progress does not change
	maxExtensions      = 72 // its progress is unknown
)

// Await returns the context of a call. The context ends if the server makes no progress for limit.
// A server that builds an index or moves many rows sends nothing meanwhile: if working is not nil,
// it asks, over another session, whether the server is still working on the call, and if so the
// call gets an extension. The caller must call End.
func Await(ctx context.Context, limit time.Duration, working func(ctx context.Context) Work) (context.Context, *Deadline) {
	d := &Deadline{limit: limit, working: working, since: time.Now()}
	ctx, d.cancel = context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(limit, func() { d.expire(ctx) })
	return ctx, d
}

// Progress records that the server has sent or received something.
func (d *Deadline) Progress() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since, d.extensions = time.Now(), 0
}

// Pause stops the clock while the server waits for eds.
func (d *Deadline) Pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = true
}

// Resume starts the clock again while eds waits for the server.
func (d *Deadline) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused, d.since, d.extensions = false, time.Now(), 0
}

// End ends the call.
func (d *Deadline) End() {
	d.mu.Lock()
	d.ended = true
	d.timer.Stop()
	d.mu.Unlock()
	d.cancel(nil)
	d.asking.Lock() // a question in flight ends with the context
	defer d.asking.Unlock()
}

// expire ends the call unless the server has made progress since.
func (d *Deadline) expire(ctx context.Context) {
	d.asking.Lock()
	defer d.asking.Unlock()
	left, extensions := d.remaining()
	if left == 0 && d.extend(d.ask(ctx)) {
		left = d.limit
	}
	if left == 0 {
		d.cancel(&SilentError{d.limit * time.Duration(extensions+1)})
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		d.timer.Reset(left)
	}
}

// ask returns the state of the call. An answer that takes longer than the limit does not count.
func (d *Deadline) ask(ctx context.Context) Work {
	if d.working == nil {
		return Work{}
	}
	ctx, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	work := d.working(ctx)
	work.Active = work.Active && ctx.Err() == nil
	return work
}

// extend extends the time if work justifies that.
func (d *Deadline) extend(work Work) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	limit := maxExtensions
	switch {
	case work.Progress != "" && work.Progress != d.progress:
		d.extensions, d.progress = 0, work.Progress
	case work.Progress != "":
		limit = maxStuckExtensions
	}
	if !work.Active || d.extensions >= limit {
		return false
	}
	d.since, d.extensions = time.Now(), d.extensions+1
	return true
}

// remaining returns the time left, and the number of extensions since the latest progress.
func (d *Deadline) remaining() (left time.Duration, extensions int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused || d.ended {
		return d.limit, 0
	}
	return max(0, d.limit-time.Since(d.since)), d.extensions
}

// CallError returns the error of a call whose context came from Await: a *SilentError if the
// deadline ended the call, else err.
func CallError(ctx context.Context, err error) error {
	if silent := new(SilentError); err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// CallLimit gives each call of a session a Deadline. The session makes one call at a time.
type CallLimit struct {
	Limit time.Duration // without progress
	// Working returns the state of a call that may take long, over another session.
	Working func(ctx context.Context) Work

	long atomic.Bool // calls may take as long as the server is working on them
}

// Await starts a call like the function Await.
func (p *CallLimit) Await(ctx context.Context) (context.Context, *Deadline) {
	return Await(ctx, p.Limit, func(ctx context.Context) Work {
		if !p.long.Load() {
			return Work{}
		}
		return p.Working(ctx)
	})
}

// AllowLong lets calls take as long as the server is working on them, until DisallowLong, which it
// returns.
func (p *CallLimit) AllowLong() (hurry func()) {
	p.long.Store(true)
	return p.DisallowLong
}

// DisallowLong ends AllowLong.
func (p *CallLimit) DisallowLong() { p.long.Store(false) }
