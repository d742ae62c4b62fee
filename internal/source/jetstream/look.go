package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/continuity"
)

// checkStream takes a look at the stream and compares it with the previous look.
func (s *Source) checkStream(ctx context.Context) error {
	w := s.watch
	w.lookMu.Lock()
	defer w.lookMu.Unlock()
	w.mu.Lock()
	number := w.number
	w.mu.Unlock()
	began := time.Now()
	l, err := s.takeLook(ctx)
	if refuses(err) {
		s.noteRefused(true)
		if last, fewer := s.unacked.last(); fewer {
			s.unacked.clearFewer()
			s.doubtDropped(w.reached(), last.sequence)
		}
	}
	if err != nil {
		return err
	}
	s.unacked.clearFewer()
	verdict, after, ok := s.recordLook(l, number, began)
	if !ok {
		return nil
	}
	switch verdict {
	case continuity.Unknown:
		s.doubtDropped(after, l.First)
	case continuity.Dropped:
		_, reached := s.unacked.received()
		s.fail(&continuity.GapError{After: max(after, reached), First: l.First})
	case continuity.Kept:
		s.unacked.expect(l.Next)
		s.advanceToLook()
	}
	return nil
}

// advanceToLook records that the consumer had no messages between the messages sent before the last
// look and the next message found by that look. It does nothing until the messages sent before the
// last look have been read.
func (s *Source) advanceToLook() {
	s.watch.mu.Lock()
	kept := s.watch.kept
	s.watch.mu.Unlock()
	if last, _ := s.unacked.last(); kept.sequence > 0 && last.ordinal >= kept.ordinal {
		s.unacked.advance(kept.sequence)
		s.recordScanned(kept.sequence)
	}
}

// recordLook records the look l, taken during the subscription with the given number, and compares
// it with the previous look. It also returns the sequence up to which all messages of the consumer
// have been received. If the verdict is Kept, the returned sequence includes the effect of this
// look. Otherwise, it is the sequence from before the look. If the subscription has ended, the
// result ok is false.
func (s *Source) recordLook(l continuity.Look, number int, began time.Time) (v continuity.LossVerdict, after uint64, ok bool) {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.subscribed || w.number != number {
		return continuity.Unknown, 0, false
	}
	before := w.looks.Reached()
	if v = w.looks.Since(l); v == continuity.Dropped {
		return v, before, true
	}
	w.looks.Update(l)
	after = w.looks.Reached()
	w.kept = delivery{sequence: after, ordinal: l.Deliveries}
	if v == continuity.Unknown {
		w.kept = delivery{}
	}
	wait := s.c.tuning.watch.every
	if w.first > 0 && l.First > w.first {
		wait = pace(began.Sub(w.looked), l.First-w.first, after+1-min(after+1, l.First), wait)
	}
	w.looked, w.due, w.first, w.behind = began, began.Add(wait), l.First, l.Next > 0
	if v == continuity.Unknown {
		return v, before, true
	}
	return v, after, true
}

// pace returns how long to wait before the next look at a stream that has dropped messages since
// the last look. The next look must happen before the stream drops half of the messages that are
// left before the first unread one.
func pace(since time.Duration, dropped, left uint64, longest time.Duration) time.Duration {
	wait := time.Duration(since.Seconds() * float64(left) / float64(2*dropped) * float64(time.Second))
	return min(max(wait, soonest), longest)
}

// takeLook observes the stream through two temporary consumers. The server sends them no payloads.
func (s *Source) takeLook(ctx context.Context) (l continuity.Look, err error) {
	last, fewer := s.unacked.last()
	info, err := s.info(ctx)
	switch {
	case err != nil:
		return l, err
	case info == nil:
		return l, errors.New("the consumer is gone")
	}
	l.Sent, l.Deliveries = info.Delivered.Stream, info.Delivered.Consumer
	sent := l.Deliveries - min(last.ordinal, l.Deliveries) // sent but not read yet
	l.Fewer = fewer || info.NumPending+sent < last.pending
	l.Behind = last.pending > sent
	consumer, deleteProbe, err := s.createProbe(ctx, everything(), nil)
	if err != nil {
		return l, err
	}
	deleteProbe()
	all := consumer.CachedInfo()
	l.First, l.Last = all.Delivered.Stream+1, all.Delivered.Stream+all.NumPending
	next, err := s.filteredTail(ctx, after(l.Sent), s.c.Filters)
	if err != nil {
		return l, err
	}
	if next.start > l.Sent+1 {
		l.First = max(l.First, next.start)
	}
	if next.pending > 0 {
		l.Next = next.sequence
	}
	return l, nil
}
