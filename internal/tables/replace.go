package tables

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Hold keeps a table, whose rows an import is about to replace, from being brought forward
// while it is behind. LetGo ends that.
func (s *Set) Hold(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[table] = true
}

// LetGo has a held table brought forward again if it is behind.
func (s *Set) LetGo(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, table)
	s.notify()
}

// Replace stops the changes of a table that an import is about to replace, and returns the
// position up to which it has them. The staged rows, which are not older then, are to be
// put in place as of that position. The main pipeline and the lane wait meanwhile, at most
// for hold: CaughtUp returns nil once the staged rows have every change up to a position,
// or ctx's cause. If they do not catch up in time, Replace returns ErrNotCaughtUp, and the
// table is followed as before. After nil, it is behind. The caller holds the table.
func (s *Set) Replace(ctx context.Context, table string, destination Sink, hold time.Duration, caughtUp func(context.Context, cdc.Position) error) (cdc.Position, error) {
	if err := s.main.take(ctx); err != nil {
		return cdc.Position{}, err
	}
	defer s.main.giveBack()
	ctx, cancel := context.WithTimeoutCause(ctx, hold, ErrNotCaughtUp)
	defer cancel()
	if err := s.lane.take(ctx); err != nil {
		return cdc.Position{}, err
	}
	defer s.lane.giveBack()
	s.mu.Lock()
	at := later(s.position, s.states[table].Applied)
	s.mu.Unlock()
	if err := caughtUp(ctx, at); err != nil {
		return cdc.Position{}, err
	}
	return at, s.leave(context.WithoutCancel(ctx), table, at, destination)
}

// leave records that a table is behind as of a position. Both pipelines wait.
func (s *Set) leave(ctx context.Context, table string, at cdc.Position, destination Sink) error {
	s.mu.Lock()
	delete(s.members, table)
	t, ok := s.states[table]
	if !ok || t.State.Applies() {
		s.put(sink.TableState{
			Table: table, State: sink.Behind, Applied: at, Cause: sink.CauseImporting, Reason: "it is imported again, and its rows are about to be replaced",
			Since: s.now().UTC().Truncate(time.Millisecond), Gap: t.Gap, Accepted: t.Accepted,
		})
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}
