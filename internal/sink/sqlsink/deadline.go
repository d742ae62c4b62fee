package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// SilentError says that a server made no progress with a call in time. The call's
// outcome is not known, and its session cannot be used any more.
type SilentError struct{ Limit time.Duration }

func (e *SilentError) Error() string {
	return fmt.Sprintf("the server made no progress for %v, so the connection was given up; check that the server is not stopped or overloaded, or raise statement_timeout in the url", e.Limit)
}

// Work is what a server says of a call that it has not answered.
type Work struct {
	Active bool // the server is at work on the call
	// Progress changes while the server goes on; "": it does not say how far it is. A
	// process that was stopped is active, and makes no progress.
	Progress string
}

// Deadline ends a call with which a server makes no progress.
type Deadline struct {
	limit   time.Duration
	working func(ctx context.Context) Work
	cancel  context.CancelCauseFunc

	asking sync.Mutex // held while the time has run out and the server is asked

	mu     sync.Mutex
	timer  *time.Timer
	since  time.Time // of the latest progress, or answer that the server is at work
	looks  int       // how often the server has said since the latest progress that it is at work
	far    string    // the latest Work.Progress
	paused bool
	ended  bool
}

// Bounds of how often in a row a server may say that it is at work on a call: without
// progress, and if it does not say how far it is.
const (
	stuckLooks = 3
	mostLooks  = 72
)

// Await returns the context of a call, which is done if the server makes no progress for
// limit. A server answers nothing while it builds an index or moves many rows: if working
// is not nil, it is asked then, by another session, whether the server is still at work on
// the call. End must follow.
func Await(ctx context.Context, limit time.Duration, working func(ctx context.Context) Work) (context.Context, *Deadline) {
	d := &Deadline{limit: limit, working: working, since: time.Now()}
	ctx, d.cancel = context.WithCancelCause(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = time.AfterFunc(limit, func() { d.expire(ctx) })
	return ctx, d
}

// Progress notes that the server has answered something, or taken something.
func (d *Deadline) Progress() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.since, d.looks = time.Now(), 0
}

// Pause stops the time while the server waits for eds.
func (d *Deadline) Pause() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = true
}

// Resume begins the time again when eds waits for the server.
func (d *Deadline) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused, d.since, d.looks = false, time.Now(), 0
}

// End ends the call.
func (d *Deadline) End() {
	d.mu.Lock()
	d.ended = true
	d.timer.Stop()
	d.mu.Unlock()
	d.cancel(nil)
	d.asking.Lock() // a question under way ends with the context
	defer d.asking.Unlock()
}

// expire ends the call unless the server has made progress since.
func (d *Deadline) expire(ctx context.Context) {
	d.asking.Lock()
	defer d.asking.Unlock()
	rest, looks := d.rest()
	if rest == 0 && d.look(d.ask(ctx)) {
		rest = d.limit
	}
	if rest == 0 {
		d.cancel(&SilentError{d.limit * time.Duration(looks+1)})
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		d.timer.Reset(rest)
	}
}

// ask asks whether the server is at work on the call. It has to answer in time as well.
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

// look reports whether the server has more time, after what it has said.
func (d *Deadline) look(work Work) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	most := mostLooks
	switch {
	case work.Progress != "" && work.Progress != d.far:
		d.looks, d.far = 0, work.Progress
	case work.Progress != "":
		most = stuckLooks
	}
	if !work.Active || d.looks >= most {
		return false
	}
	d.since, d.looks = time.Now(), d.looks+1
	return true
}

// rest returns how much time is left, and how often the server was asked before.
func (d *Deadline) rest() (rest time.Duration, looks int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused || d.ended {
		return d.limit, 0
	}
	return max(0, d.limit-time.Since(d.since)), d.looks
}

// CallError returns the error of a call whose context Await made: a *SilentError if that
// ended the call.
func CallError(ctx context.Context, err error) error {
	if silent := new(SilentError); err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// Patience bounds the calls of a session, which makes one at a time.
type Patience struct {
	Limit time.Duration // without progress
	// Working asks by another session whether the server is at work on a call that may take
	// long, and how far it is.
	Working func(ctx context.Context) Work

	long atomic.Bool // calls may take as long as the server is at work on them
}

// Await begins a call; see the function Await.
func (p *Patience) Await(ctx context.Context) (context.Context, *Deadline) {
	return Await(ctx, p.Limit, func(ctx context.Context) Work {
		if !p.long.Load() {
			return Work{}
		}
		return p.Working(ctx)
	})
}

// TakeTime lets calls take as long as the server is at work on them, until Hurry, which it
// returns.
func (p *Patience) TakeTime() (hurry func()) {
	p.long.Store(true)
	return p.Hurry
}

// Hurry ends TakeTime.
func (p *Patience) Hurry() { p.long.Store(false) }
