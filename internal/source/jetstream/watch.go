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

// watchTimes are the times of a streamWatch.
type watchTimes struct {
	stalled time.Duration // time without a call of Receive after which to look at the stream
	every   time.Duration // maximum time between looks while messages wait
	refused time.Duration // time of refused looks after which to report that
}

// soonest is the minimum time between looks.
const soonest = time.Second

// streamWatch notices messages that the stream drops while it is read. It is safe for concurrent
// use.
type streamWatch struct {
	failed chan struct{} // closed once there is a gap

	lookMu sync.Mutex // held during each look

	mu         sync.Mutex
	gap        error
	looks      continuity.Watch
	subscribed bool      // there is a subscription
	number     int       // number of the subscription
	active     time.Time // last read of the subscription
	looked     time.Time // last look
	due        time.Time // next look
	first      uint64    // first message of the stream at the last look, 0: there was none
	kept       delivery  // last delivery at the last look, with the sequence up to which none of ours came after it
	behind     bool      // messages wait, or have waited since the last look
	refused    time.Time // start of refused looks; zero: they are not refused

	unverified, identity, dropped string // reasons for Config.Unverified
	reported                      string // last argument of Config.Unverified
}

func newStreamWatch(plan continuity.Plan) *streamWatch {
	w := &streamWatch{failed: make(chan struct{}), reported: plan.Unverified}
	if plan.Blind {
		w.identity, w.refused = plan.Unverified, time.Now()
	} else {
		w.unverified = plan.Unverified
	}
	return w
}

// begin starts a subscription. All messages of ours up to reached have been received.
func (w *streamWatch) begin(reached uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks.Begin(reached)
	w.number++
	w.subscribed, w.active, w.first, w.kept = true, time.Now(), 0, delivery{}
}

func (w *streamWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribed = false
}

// markActive records that the subscription is being read.
func (w *streamWatch) markActive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = time.Now()
}

// failure returns the gap that was found, or nil.
func (w *streamWatch) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap
}

// reached returns the sequence up to which all messages of ours have been sent.
func (w *streamWatch) reached() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks.Reached()
}

// verify returns a *continuity.GapError if the stream has lost messages that were not received yet,
// or is another stream.
func (s *Source) verify(ctx context.Context) error {
	if s.planned { // the plan is new
		s.planned = false
		return nil
	}
	s.advanceToLook()
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
	begun := s.watch.number > 0 // otherwise there is only the plan, which compare has made again
	before := s.watch.looks.Reached()
	verdict := s.watch.looks.Since(continuity.Look{First: stream.First, Deliveries: math.MaxUint64})
	s.watch.mu.Unlock()
	if begun && verdict != continuity.Kept {
		s.doubtDropped(before, stream.First)
	}
	return s.watch.failure()
}

// compare compares the stream with the received messages.
func (s *Source) compare(ctx context.Context) (*continuity.GapError, continuity.Stream, error) {
	newest, reached := s.unacked.received()
	e := continuity.Evidence{Record: continuity.Record{Settled: newest, Scanned: reached}, Now: time.Now()}
	if err := s.observe(ctx, &e); err != nil {
		return nil, e.Stream, err
	}
	s.noteRefused(e.Stream.Silent)
	return continuity.Decide(e).Gap, e.Stream, nil
}

// noteRefused records whether the server refuses to describe the stream. Then it is unknown whether
// it is the same stream.
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
		w.identity = fmt.Sprintf("the server has refused since %s to describe the stream, so eds cannot check that it is the same stream",
			w.refused.UTC().Format(time.RFC3339))
	}
	s.reportUnverified()
}

// doubtDropped reports that the stream, which begins with first, may have dropped messages of ours
// after the given sequence.
func (s *Source) doubtDropped(after, first uint64) {
	if s.strict {
		s.fail(&continuity.GapError{After: after, First: first})
		return
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	s.watch.dropped = fmt.Sprintf("the stream has dropped the messages before %d while eds was reading there, "+
		"so eds cannot check that it received all of them", first)
	s.reportUnverified()
}

// reportUnverified reports the reasons why eds cannot verify the stream, if they have changed. The
// lock is held.
func (s *Source) reportUnverified() {
	w := s.watch
	var reasons []string
	for _, reason := range []string{w.unverified, w.identity, w.dropped} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	reason := strings.Join(reasons, "; ")
	if reason == w.reported {
		return
	}
	w.reported = reason
	if s.c.Unverified != nil {
		s.c.Unverified(reason)
	}
}

// fail makes Receive return the gap.
func (s *Source) fail(gap *continuity.GapError) {
	s.addTables(gap)
	if newest, _ := s.unacked.received(); newest.Stored > 0 {
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

// addTables adds the tables that lack changes to gap.
func (s *Source) addTables(gap *continuity.GapError) {
	gap.Tables, gap.Others = s.tables, s.tables == nil
}

// skipped fails the source because the message at sequence came although the stream had an earlier
// one that was not received.
func (s *Source) skipped(missing, sequence uint64) {
	s.fail(&continuity.GapError{After: missing - 1, First: sequence})
}

// watchStream looks at the stream from time to time, whether Receive is called or not.
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

// tick looks at the stream if it is time to, and returns the time until the next call.
func (s *Source) tick(ctx context.Context) (wait time.Duration) {
	w, times, now := s.watch, s.c.tuning.watch, time.Now()
	if !w.shouldLook(s.unacked, times, now) || !s.c.Conn.IsConnected() {
		return times.stalled
	}
	if err := s.checkStream(ctx); err != nil && ctx.Err() == nil {
		s.c.Logger.Debug("cannot check the stream", "error", err)
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

// shouldLook reports whether it is time to look. If each message was received as soon as it was
// stored, the stream has dropped none before.
func (w *streamWatch) shouldLook(l *unacked, times watchTimes, now time.Time) bool {
	_, reached := l.received()
	caughtUp := l.caughtUp()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind = w.behind || !caughtUp
	stalled := now.Sub(w.active) >= times.stalled
	switch {
	case !w.subscribed:
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

// checkAfterStall looks at the stream before it is read again after a pause, because later messages
// do not show which messages were dropped in between. It also looks if fewer messages wait than
// before.
func (s *Source) checkAfterStall(ctx context.Context) error {
	w := s.watch
	w.mu.Lock()
	stalled := time.Since(w.active) >= s.c.tuning.watch.stalled
	w.active = time.Now()
	w.mu.Unlock()
	if _, fewer := s.unacked.last(); (stalled || fewer) && s.c.Conn.IsConnected() {
		if err := s.checkStream(ctx); err != nil && ctx.Err() == nil {
			s.c.Logger.Debug("cannot check the stream", "error", err)
		}
	}
	return w.failure()
}
