package jetstream

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// watchTimes are the times of the watch over the stream.
type watchTimes struct {
	stalled time.Duration // without a call of Receive, after which to look at the stream
	every   time.Duration // at most, between looks while messages wait
	refused time.Duration // for how long looks are refused before that is reported
}

// soonest is the least time between looks.
const soonest = time.Second

// watch notices what the stream drops while it is read. It is safe for concurrent
// use.
type watch struct {
	failed chan struct{} // closed once there is a gap

	looking sync.Mutex // held by each look

	mu      sync.Mutex
	gap     error
	looks   continuity.Watch
	live    bool // there is a subscription:
	number  int  // its number
	active  time.Time
	looked  time.Time // last
	due     time.Time // next
	first   uint64    // message of the stream at the last look, 0: there was none
	kept    delivery  // at the last look the last one, and up to where there was none of ours behind it
	behind  bool      // messages wait, or did since the last look
	refused time.Time // since when looks are refused; zero: they are not

	unverified, identity, dropped string // what Unverified is told
	told                          string
}

func newWatch(plan continuity.Plan) *watch {
	w := &watch{failed: make(chan struct{}), told: plan.Unverified}
	if plan.Blind {
		w.identity, w.refused = plan.Unverified, time.Now()
	} else {
		w.unverified = plan.Unverified
	}
	return w
}

// begin begins a subscription. Nothing of ours up to reached is still to be received.
func (w *watch) begin(reached uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks.Begin(reached)
	w.number++
	w.live, w.active, w.first, w.kept = true, time.Now(), 0, delivery{}
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = false
}

// read notes that the subscription is being read.
func (w *watch) read() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = time.Now()
}

// failure returns the gap that was found, or nil.
func (w *watch) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap
}

// reached returns the sequence up to which no message of ours is still to be sent.
func (w *watch) reached() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks.Reached()
}

// verify returns a *continuity.GapError if the stream has lost messages that were
// not received yet, or is another one.
func (s *Source) verify(ctx context.Context) error {
	if s.planned { // the plan has just been made
		s.planned = false
		return nil
	}
	s.reachLook()
	gap, stream, err := s.compare(ctx)
	switch {
	case err != nil:
		return err
	case gap != nil:
		s.addTables(gap)
		return fault.Mark(fault.Fatal, gap)
	case stream.Silent:
		return nil
	}
	s.watch.mu.Lock()
	begun := s.watch.number > 0 // else the plan, which compare has made again, is all there is
	verdict, before := s.watch.looks.Since(continuity.Look{First: stream.First, Deliveries: math.MaxUint64}), s.watch.looks.Reached()
	s.watch.mu.Unlock()
	if begun && verdict != continuity.Kept {
		s.doubtDropped(before, stream.First)
	}
	return s.watch.failure()
}

// compare compares the stream with what was received.
func (s *Source) compare(ctx context.Context) (*continuity.GapError, continuity.Stream, error) {
	newest, reached := s.ledger.read()
	e := continuity.Evidence{Record: continuity.Record{Settled: newest, Scanned: reached}, Now: time.Now()}
	if err := s.observe(ctx, &e); err != nil {
		return nil, e.Stream, err
	}
	s.noteRefused(e.Stream.Silent)
	return continuity.Decide(e).Gap, e.Stream, nil
}

// noteRefused notes whether the server refuses to say what the stream holds. Then it
// is unknown whether it is the same stream.
func (s *Source) noteRefused(refused bool) {
	w, now := s.watch, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !refused:
		w.refused, w.identity = time.Time{}, ""
	case w.refused.IsZero():
		w.refused = now
	case now.Sub(w.refused) >= s.c.tuning.watch.refused:
		w.identity = fmt.Sprintf("the server has refused since %s to say what the stream holds, so eds cannot check that it is the same stream", w.refused.UTC().Format(time.RFC3339))
	}
	s.tellUnverified()
}

// doubtDropped reports that the stream, which begins with first, may have dropped
// messages of ours after the given sequence.
func (s *Source) doubtDropped(after, first uint64) {
	if s.strict {
		s.fail(&continuity.GapError{After: after, First: first})
		return
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	s.watch.dropped = fmt.Sprintf("the stream has dropped the messages before %d while eds was reading there, so eds cannot check that it received all of them", first)
	s.tellUnverified()
}

// tellUnverified passes on what cannot be verified if that has changed. The lock is
// held.
func (s *Source) tellUnverified() {
	w := s.watch
	var reasons []string
	for _, reason := range []string{w.unverified, w.identity, w.dropped} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	reason := strings.Join(reasons, "; ")
	if reason == w.told {
		return
	}
	w.told = reason
	if s.c.Unverified != nil {
		s.c.Unverified(reason)
	}
}

// fail has Receive return the gap.
func (s *Source) fail(gap *continuity.GapError) {
	s.addTables(gap)
	if newest, _ := s.ledger.read(); newest.Stored > 0 {
		gap.Since = time.Unix(0, newest.Stored)
	}
	err := fault.Mark(fault.Fatal, gap)
	s.watch.mu.Lock()
	first := s.watch.gap == nil
	if first {
		s.watch.gap = err
		close(s.watch.failed)
	}
	s.watch.mu.Unlock()
	if first {
		s.setHealth(err)
	}
}

// addTables adds to gap which tables lack changes.
func (s *Source) addTables(gap *continuity.GapError) {
	gap.Tables, gap.Others = s.tables, s.tables == nil
}

// skipped fails because the message at sequence came although the stream had another
// one before it, which was not received.
func (s *Source) skipped(missing, sequence uint64) {
	s.fail(&continuity.GapError{After: missing - 1, First: sequence})
}

// watchStream looks at the stream now and then, whether Receive is called or not.
func (s *Source) watchStream(ctx context.Context) {
	timer := time.NewTimer(s.c.tuning.watch.stalled)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(s.tick(ctx))
		case <-ctx.Done():
			return
		}
	}
}

// tick looks at the stream if it is time to, and returns when to call it again.
func (s *Source) tick(ctx context.Context) (wait time.Duration) {
	w, times, now := s.watch, s.c.tuning.watch, time.Now()
	if !w.looksNow(s.ledger, times, now) || !s.c.Conn.IsConnected() {
		return times.stalled
	}
	if err := s.lookAgain(ctx); err != nil && ctx.Err() == nil {
		s.c.Logger.Debug("cannot look at the stream", "error", err)
	}
	w.mu.Lock()
	refused := !w.refused.IsZero()
	w.mu.Unlock()
	if refused {
		if gap, _, err := s.compare(ctx); err == nil && gap != nil && gap.Reason == continuity.Recreated {
			s.fail(gap)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(soonest, min(times.stalled, time.Until(w.due)))
}

// looksNow reports whether it is time to look. If each message was received as soon as
// it was stored, the stream has dropped none before.
func (w *watch) looksNow(l *ledger, times watchTimes, now time.Time) bool {
	_, reached := l.read()
	caughtUp := l.caughtUp()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind = w.behind || !caughtUp
	stalled := now.Sub(w.active) >= times.stalled
	switch {
	case !w.live:
		return false
	case !stalled && !w.behind && w.refused.IsZero():
		w.looks.Proceed(reached)
		w.due, w.first = now.Add(times.every), 0
		return false
	case stalled && w.looked.Before(w.active):
		return true
	default:
		return !now.Before(w.due)
	}
}

// lookAfterStall looks at the stream before it is read again after a pause, because
// what comes next does not show what was dropped meanwhile. It also looks if fewer
// messages wait than before.
func (s *Source) lookAfterStall(ctx context.Context) error {
	w := s.watch
	w.mu.Lock()
	stalled := time.Since(w.active) >= s.c.tuning.watch.stalled
	w.active = time.Now()
	w.mu.Unlock()
	if _, fewer := s.ledger.last(); (stalled || fewer) && s.c.Conn.IsConnected() {
		if err := s.lookAgain(ctx); err != nil && ctx.Err() == nil {
			s.c.Logger.Debug("cannot look at the stream", "error", err)
		}
	}
	return w.failure()
}
