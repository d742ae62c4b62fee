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

// watchTimes holds the intervals of a streamWatch.
type watchTimes struct {
	stalled time.Duration // time since the last call of Receive after which to look at the stream
	every   time.Duration // maximum time between two looks while messages wait
	refused time.Duration // how long the server must refuse looks before that is reported
}

// soonest is the minimum time between two looks.
const soonest = time.Second

// streamWatch detects messages that the stream drops while it is being read. It is safe for
// concurrent use.
type streamWatch struct {
	failed chan struct{} // closed once a gap is found

	lookMu sync.Mutex // held during each look

	mu         sync.Mutex
	gap        error
	looks      continuity.Watch
	subscribed bool      // a subscription exists
	number     int       // number of the latest subscription
	active     time.Time // when the subscription was last read
	looked     time.Time // when the last look was taken
	due        time.Time // when the next look is due
	first      uint64    // sequence of the stream's oldest message at the last look, or 0 if that look is outdated
	kept       delivery  // last delivery at the last look; the consumer has no later message up to its sequence
	behind     bool      // messages are waiting, or were waiting at some time since the last look
	refused    time.Time // since when the server has refused looks; the zero time if it does not refuse them

	unverified, identity, dropped string // reasons for Config.Unverified
	reported                      string // the last argument of Config.Unverified
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

// begin records the start of a subscription. All messages of the consumer up to the given sequence
// have been received.
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

// markActive records that the subscription was just read.
func (w *streamWatch) markActive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = time.Now()
}

// failure returns the error for the first gap that was found, or nil if there is none.
func (w *streamWatch) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap
}

// reached returns the sequence up to which the server has sent all messages of the consumer.
func (w *streamWatch) reached() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.looks.Reached()
}

// verify returns a *continuity.GapError if the stream has lost messages before they were received,
// or if the stream is not the one that was read before.
func (s *Source) verify(ctx context.Context) error {
	if s.planned { // the stream was checked when the plan was made
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
	begun := s.watch.number > 0 // otherwise there is only the plan, which compare has just made again
	before := s.watch.looks.Reached()
	verdict := s.watch.looks.Since(continuity.Look{First: stream.First, Deliveries: math.MaxUint64})
	s.watch.mu.Unlock()
	if begun && verdict != continuity.Kept {
		s.doubtDropped(before, stream.First)
	}
	return s.watch.failure()
}

// compare compares the stream with the received messages. It returns the gap, or nil if there is
// none, and the state of the stream.
func (s *Source) compare(ctx context.Context) (*continuity.GapError, continuity.StreamEvidence, error) {
	newest, reached := s.unacked.received()
	e := continuity.Evidence{Record: continuity.Record{Settled: newest, Scanned: reached}, Now: time.Now()}
	if err := s.observe(ctx, &e); err != nil {
		return nil, e.Stream, err
	}
	s.noteRefused(e.Stream.Silent)
	return continuity.Decide(e).Gap, e.Stream, nil
}

// noteRefused records whether the server refuses to describe the stream. While it refuses, eds
// does not know whether the stream is still the same one.
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

// doubtDropped reports that the stream may have dropped messages of the consumer. The parameter
// first is the sequence at which the stream now starts. The dropped messages have sequences greater
// than the parameter after and less than the parameter first. If the source is strict, the source
// fails.
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

// reportUnverified passes the reasons why eds cannot verify the stream to Config.Unverified, if
// they have changed. The caller holds the watch's lock.
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

// fail makes Receive return the given gap. Only the first gap counts.
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

// addTables records in the given gap that all tables of this source lack changes.
func (s *Source) addTables(gap *continuity.GapError) {
	gap.Tables, gap.Others = s.tables, s.tables == nil
}

// skipped fails the source, because a message arrived although the stream had an earlier message
// that was not received. The parameters sequence and missing are the sequences of the message that
// arrived and of the earlier message.
func (s *Source) skipped(missing, sequence uint64) {
	s.fail(&continuity.GapError{After: missing - 1, First: sequence})
}

// watchStream looks at the stream from time to time until ctx ends, even while Receive is not
// called.
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

// tick looks at the stream if a look is due, and returns how long to wait until the next call.
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

// shouldLook reports whether a look at the stream is due. No look is needed if each message was
// received as soon as it was stored, because then the stream cannot have dropped an unread
// message.
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

// checkAfterStall looks at the stream before reading resumes after a pause, because later messages
// do not show which messages were dropped during the pause. It also looks if waiting messages have
// vanished.
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
