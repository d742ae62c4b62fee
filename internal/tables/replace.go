package tables

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Hold stops the lane from bringing a table forward, because an import is about to replace the
// table's rows. Unhold ends the hold.
func (s *Set) Hold(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[table] = true
}

// Unhold ends the effect of Hold: if the table is Behind, the lane brings it forward again.
func (s *Set) Unhold(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, table)
	s.notify()
}

// Replace stops applying the changes of a table whose rows an import is about to replace, and marks
// the table as Behind. It returns the table's position. The import then replaces the rows with its
// staged rows, which must be complete up to that position.
//
// The main pipeline and the lane wait until Replace returns, but no longer than the duration in the
// parameter hold. The callback caughtUp must return nil when the staged rows have every change up
// to the given position. If the callback's context ends first, the callback must return the cause
// of that context. If the callback does not return in time, Replace returns ErrNotCaughtUp, and the
// table's changes are applied as before. The caller must have called Hold for the table.
func (s *Set) Replace(
	ctx context.Context, table string, destination Sink, hold time.Duration, caughtUp func(context.Context, cdc.Position) error,
) (cdc.Position, error) {
	if err := s.main.acquire(ctx); err != nil {
		return cdc.Position{}, err
	}
	defer s.main.release()
	ctx, cancel := context.WithTimeoutCause(ctx, hold, ErrNotCaughtUp)
	defer cancel()
	if err := s.lane.acquire(ctx); err != nil {
		return cdc.Position{}, err
	}
	defer s.lane.release()
	s.mu.Lock()
	at := later(s.position, s.states[table].Applied)
	s.mu.Unlock()
	if err := caughtUp(ctx, at); err != nil {
		return cdc.Position{}, err
	}
	return at, s.markReplacing(context.WithoutCancel(ctx), table, at, destination)
}

// markReplacing records that a table is Behind, with every change up to the given position. The
// caller holds the turns of both pipelines.
func (s *Set) markReplacing(ctx context.Context, table string, at cdc.Position, destination Sink) error {
	s.mu.Lock()
	delete(s.members, table)
	t, ok := s.states[table]
	if !ok || t.State.Applies() {
		s.put(sink.TableState{
			Table: table, State: sink.Behind, Applied: at, Cause: sink.CauseImporting,
			Reason: "it is imported again, and its rows are about to be replaced",
			Since:  s.now().UTC().Truncate(time.Millisecond), Gap: t.Gap, Accepted: t.Accepted,
		})
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}
