package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/continuity"
)

// lookAgain looks at the stream and compares with the last look.
func (s *Source) lookAgain(ctx context.Context) error {
	w := s.watch
	w.looking.Lock()
	defer w.looking.Unlock()
	w.mu.Lock()
	number := w.number
	w.mu.Unlock()
	began := time.Now()
	l, err := s.takeLook(ctx)
	if refuses(err) {
		s.noteRefused(true)
		if last, fewer := s.ledger.last(); fewer {
			s.ledger.clearFewer()
			s.doubtDropped(w.reached(), last.sequence)
		}
	}
	if err != nil {
		return err
	}
	s.ledger.clearFewer()
	verdict, after, ok := s.note(l, number, began)
	if !ok {
		return nil
	}
	switch verdict {
	case continuity.Unknown:
		s.doubtDropped(after, l.First)
	case continuity.Dropped:
		_, reached := s.ledger.read()
		s.fail(&continuity.GapError{After: max(after, reached), First: l.First})
	case continuity.Kept:
		s.ledger.expect(l.Next)
		s.reachLook()
	}
	return nil
}

// reachLook notes that there was nothing of ours between the messages that had been
// sent at the last look, once they are read, and the next one.
func (s *Source) reachLook() {
	s.watch.mu.Lock()
	kept := s.watch.kept
	s.watch.mu.Unlock()
	if last, _ := s.ledger.last(); kept.sequence > 0 && last.ordinal >= kept.ordinal {
		s.ledger.reach(kept.sequence)
		s.recordScanned(kept.sequence)
	}
}

// note compares a look of subscription number with the last one. It returns the
// sequence up to which nothing of ours is to be received: after the look if nothing was
// dropped, else before it. If the subscription is over, ok is false.
func (s *Source) note(l continuity.Look, number int, began time.Time) (v continuity.Verdict, after uint64, ok bool) {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.live || w.number != number {
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

// pace returns when to look again at a stream that has dropped some messages since the
// last look, before it has dropped half of those that are left to what is not read.
func pace(since time.Duration, dropped, left uint64, longest time.Duration) time.Duration {
	wait := time.Duration(since.Seconds() * float64(left) / float64(2*dropped) * float64(time.Second))
	return min(max(wait, soonest), longest)
}

// takeLook asks two temporary consumers what the stream has. No payload is sent.
func (s *Source) takeLook(ctx context.Context) (l continuity.Look, err error) {
	last, fewer := s.ledger.last()
	info, err := s.info(ctx)
	switch {
	case err != nil:
		return l, err
	case info == nil:
		return l, errors.New("the consumer is gone")
	}
	l.Sent, l.Deliveries = info.Delivered.Stream, info.Delivered.Consumer
	sent := l.Deliveries - min(last.ordinal, l.Deliveries) // since the last one was read
	l.Fewer = fewer || info.NumPending+sent < last.pending
	l.Behind = last.pending > sent
	consumer, forget, err := s.peek(ctx, everything(), nil)
	if err != nil {
		return l, err
	}
	forget()
	all := consumer.CachedInfo()
	l.First, l.Last = all.Delivered.Stream+1, all.Delivered.Stream+all.NumPending
	next, err := s.lookFor(ctx, after(l.Sent), s.c.Filters)
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
