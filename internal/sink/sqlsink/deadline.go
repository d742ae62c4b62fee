package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// SilentError says that the server made no progress with a call within the time limit. The
// outcome of the call is unknown, and its session is unusable.
type SilentError struct{ Limit time.Duration }

func (e *SilentError) Error() string {
	return fmt.Sprintf("the server made no progress for %v, so the connection was given up; "+
		"check that the server is not stopped or overloaded, or raise statement_timeout in the url", e.Limit)
}

// Work is the state of a call that the server has not answered yet.
type Work struct {
	Active bool // the server is working on the call
	// Progress is a text that changes as long as the server makes progress, or "" if the progress
	// is unknown. A suspended server process is active but makes no progress.
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
	since      time.Time // time of the latest progress or extension
	extensions int       // number of extensions since the latest progress
	progress   string    // the latest Work.Progress
	paused     bool
	ended      bool
}

// Maximum numbers of consecutive extensions for a call that the server is working on.
const (
	maxStuckExtensions = 3  // if Work.Progress does not change
	maxExtensions      = 72 // if Work.Progress is unknown
)

// Await returns the context of a call. The context is canceled if the server makes no progress for
// the duration limit. A server that builds an index or moves many rows sends nothing for a long
// time. If the limit passes, the Deadline therefore calls the callback working, unless that is nil.
// The callback asks the server, over another session, whether the call is still in progress. If so,
// the call gets an extension. The caller must call Deadline.End.
func Await(ctx context.Context, limit time.Duration, working func(ctx context.Context) Work) (context.Context, *Deadline) {
	d := &Deadline{limit: limit, working: working, since: time.Now()}
	ctx, d.cancel = context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(limit, func() { d.expire(ctx) })
	return ctx, d
}

// Progress records that the server has sent or received data.
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

// Resume restarts the clock, with the full limit, when eds waits for the server again.
func (d *Deadline) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused, d.since, d.extensions = false, time.Now(), 0
}

// End ends the call. If the callback working is running, End waits until the callback returns.
func (d *Deadline) End() {
	d.mu.Lock()
	d.ended = true
	d.timer.Stop()
	d.mu.Unlock()
	d.cancel(nil)
	d.asking.Lock() // a running call of d.working ends with the context
	defer d.asking.Unlock()
}

// expire runs when the timer fires. It cancels the call, unless the server has made progress or
// the call gets an extension.
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

// ask returns the state of the call. If the answer takes longer than the limit, the call counts
// as not active.
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

// extend extends the deadline if work justifies an extension, and reports whether it did.
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

// remaining returns the remaining time, and the number of extensions since the latest progress.
func (d *Deadline) remaining() (left time.Duration, extensions int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused || d.ended {
		return d.limit, 0
	}
	return max(0, d.limit-time.Since(d.since)), d.extensions
}

// CallError returns the error of a call whose context came from Await. If the deadline ended the
// call, the error is a *SilentError; otherwise it is err.
func CallError(ctx context.Context, err error) error {
	if silent := new(SilentError); err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// CallLimit gives each call of a session a Deadline. The session makes one call at a time.
type CallLimit struct {
	Limit time.Duration // maximum time without progress
	// Working asks the server, over another session, for the state of the current call. It is
	// used only between AllowLong and DisallowLong.
	Working func(ctx context.Context) Work

	long atomic.Bool // set by AllowLong
}

// Await starts a call like the function Await, with p's limit and with the function Working.
func (p *CallLimit) Await(ctx context.Context) (context.Context, *Deadline) {
	return Await(ctx, p.Limit, func(ctx context.Context) Work {
		if !p.long.Load() {
			return Work{}
		}
		return p.Working(ctx)
	})
}

// AllowLong lets each call take as long as the server is working on it. DisallowLong, which
// AllowLong returns, ends this effect.
func (p *CallLimit) AllowLong() (hurry func()) {
	p.long.Store(true)
	return p.DisallowLong
}

// DisallowLong ends the effect of AllowLong.
func (p *CallLimit) DisallowLong() { p.long.Store(false) }
