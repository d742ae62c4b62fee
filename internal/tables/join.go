package tables

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// ErrNotCaughtUp reports that a reader of the stream did not catch up with the main pipeline in
// time.
var ErrNotCaughtUp = errors.New("tables that are behind have not caught up in time")

// Delivered returns the sequence of the last message that was delivered to a reader of the stream,
// and the number of messages that the stream still holds for that reader.
type Delivered func(context.Context) (last, pending uint64, err error)

// Join returns the lane's tables to the main pipeline. The main pipeline waits until Join returns,
// but no longer than the duration in the parameter hold. If the lane does not catch up in time,
// Join returns ErrNotCaughtUp, and the main pipeline continues without these tables.
func (s *Set) Join(ctx context.Context, l *LaneView, hold time.Duration, delivered Delivered) error {
	if err := s.main.acquire(ctx); err != nil {
		return err
	}
	defer s.main.release()
	ctx, cancel := context.WithTimeoutCause(ctx, hold, ErrNotCaughtUp)
	defer cancel()
	if err := delivered.AwaitApplied(ctx, s.laneReached); err != nil {
		return err
	}
	if err := s.lane.acquire(ctx); err != nil {
		return err
	}
	defer s.lane.release()
	return s.handBack(context.WithoutCancel(ctx), l)
}

// laneReached returns the sequence up to which the lane has applied its messages, the sequence up
// to which the main pipeline has applied its messages, and a channel that is closed when either
// changes. If the lane has no tables, both sequences are 0.
func (s *Set) laneReached() (reached, target uint64, changed <-chan struct{}) {
	changed = s.Changed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.members) == 0 {
		return 0, 0, changed
	}
	return s.reached.Sequence, s.position.Sequence, changed
}

// AwaitApplied waits until a reader has applied all of its messages up to a target sequence. If ctx
// ends first, it returns the cause of ctx. The callback progress returns the sequence that the
// reader has reached, the target, and a channel that is closed when either changes.
func (d Delivered) AwaitApplied(ctx context.Context, progress func() (reached, target uint64, changed <-chan struct{})) error {
	for {
		reached, target, changed := progress()
		if reached >= target {
			return nil
		}
		last, pending, err := d(ctx)
		if err != nil {
			return fmt.Errorf("read the progress of tables that are behind: %w", err)
		}
		if pending == 0 && reached >= last {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// handBack records that the lane's tables have caught up, and removes the tables from the lane. The
// caller holds the turns of both pipelines.
func (s *Set) handBack(ctx context.Context, l *LaneView) error {
	s.mu.Lock()
	for name := range s.members {
		t := s.states[name]
		s.put(caughtUpState(t, later(t.Applied, s.reached), s.now()))
		delete(s.known, name)
	}
	clear(s.members)
	s.mu.Unlock()
	return s.Flush(ctx, l.Sink)
}

// caughtUpState returns the new state of a table that has caught up to the position in the
// parameter at. The parameter t is the old state. The new state is Incomplete if t has a gap, else
// OK.
func caughtUpState(t sink.TableState, at cdc.Position, now time.Time) sink.TableState {
	next := sink.TableState{Table: t.Table, State: sink.OK, Applied: at, Accepted: t.Accepted, Gap: t.Gap}
	if t.Gap != "" {
		next.State, next.Cause, next.Reason, next.Since = sink.Incomplete, sink.CauseGap, t.Gap, now.UTC().Truncate(time.Millisecond)
	}
	return next
}

// Flush records the states that are not recorded yet. If Flush fails, the next batch of either
// pipeline records these states.
func (s *Set) Flush(ctx context.Context, destination Sink) error {
	s.recording.Lock()
	defer s.recording.Unlock()
	s.mu.Lock()
	states := s.unstoredStates(func(sink.TableState) bool { return false })
	s.mu.Unlock()
	if len(states) == 0 {
		return nil
	}
	if err := destination.Advance(ctx, &change.Batch{}, states); err != nil {
		return fmt.Errorf("record the states of tables: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markStored(states, s.position)
	return nil
}
