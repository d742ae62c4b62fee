package reconciler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// sessionPatience is how long an import waits, after the stream was last followed, to bring
// its loaded rows forward. Otherwise a lane does that once the rows are in place.
const sessionPatience = time.Minute

// errNotCovered says that the stream may have dropped changes since the snapshot. Whether
// any are missing is decided when the stream is read from the snapshot on.
var errNotCovered = errors.New("the stream does not reach back to the snapshot")

// bringForward brings the loaded rows of a table to the position of the main pipeline. The
// pipeline skips the table's changes after that position until the caller calls done. If the
// stream is not followed, bringForward returns the position that the rows have reached; zero if
// that is only the snapshot.
func (r *Reconciler) bringForward(
	ctx context.Context, t *schema.Table, clock cdc.Timestamp, load sink.Advancer,
) (applied cdc.Position, done func(), err error) {
	r.hold(t.Name)
	release := func() { r.release(t.Name) }
	s := &stagedTable{Reconciler: r, table: t.Name, clock: clock, load: load}
	if applied, err = s.bringForward(ctx); err != nil {
		release()
		return cdc.Position{}, nil, err
	}
	return applied, release, nil
}

// hold stops lanes from bringing a table forward whose rows are about to be replaced.
func (r *Reconciler) hold(table string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = make(map[string]bool)
	}
	r.held[table] = true
	if r.tables != nil {
		r.tables.Hold(table)
	}
}

// release ends hold.
func (r *Reconciler) release(table string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, table)
	if r.tables != nil {
		r.tables.Unhold(table)
	}
}

// stagedTable is the loaded rows of one table of an import while they are brought forward.
// It is the sink and the gate of a pipeline.
type stagedTable struct {
	*Reconciler
	table string
	clock cdc.Timestamp // of the snapshot
	load  sink.Advancer

	mu       sync.Mutex
	reached  cdc.Position // up to which the rows have every change; zero before the first attempt
	advanced bool         // whether changes have been applied
	failure  error        // why the rows cannot be brought forward
	stop     func()       // ends the pipeline
	changed  chan struct{}
}

// bringForward brings the rows forward, over any number of sessions.
func (s *stagedTable) bringForward(ctx context.Context) (cdc.Position, error) {
	var backoff retry.Backoff
	for began := time.Now(); ; {
		var at cdc.Position
		var err error
		ended := false // the session
		followed := s.withLanes(ctx, func(due, hard context.Context, l *lanes) {
			at, err = s.runPipeline(ctx, due, hard, l)
			ended = due.Err() != nil
		})
		switch {
		case !followed:
			return s.position(), context.Cause(ctx)
		case err == nil:
			return at, nil
		case ctx.Err() != nil:
			return cdc.Position{}, context.Cause(ctx)
		case errors.Is(err, errNotCovered):
			return s.position(), nil
		case errors.As(err, new(*sink.ReopenError)), errors.As(err, new(*sink.WriterError)): // the session ends soon
		case fault.Of(err) != fault.Transient:
			return cdc.Position{}, err
		case ended:
			began = time.Now()
			backoff.Reset()
			continue
		case time.Since(began) > sessionPatience:
			s.Logger.Warn("loaded rows cannot be brought forward before they are put in place", "table", s.table, "error", err)
			return s.position(), nil
		}
		_ = retry.Sleep(ctx, backoff.Next(err))
	}
}

// position returns the position up to which the rows have every change; zero if that is
// only the snapshot.
func (s *stagedTable) position() cdc.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.advanced {
		return cdc.Position{}
	}
	return s.reached
}

// runPipeline brings the rows forward within one session, whose contexts are due and
// sessionHard.
func (s *stagedTable) runPipeline(ctx, due, sessionHard context.Context, l *lanes) (cdc.Position, error) {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(due, stop)()
	hard, abandon := context.WithCancel(ctx)
	defer abandon()
	defer context.AfterFunc(sessionHard, abandon)()
	source, err := s.openLane(soft, l)
	if err != nil {
		return cdc.Position{}, err
	}
	defer l.closeLane(source)
	s.mu.Lock()
	s.stop = stop
	s.mu.Unlock()
	config := l.config
	config.Source, config.Sink, config.Gate = source, s, s
	config.SnapshotClock = func(table string) (cdc.Timestamp, bool) { return s.clock, table == s.table }
	p, err := pipeline.New(config)
	if err != nil {
		return cdc.Position{}, err
	}
	var at cdc.Position
	joined := false
	err = runUntil(soft, hard, p, func(ctx context.Context) (err error) {
		at, joined, err = s.join(ctx, l, source)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failure != nil:
		return cdc.Position{}, s.failure
	case err != nil:
		return cdc.Position{}, err
	case !joined:
		return cdc.Position{}, errors.New("the session has ended")
	case s.reached.Sequence > at.Sequence: // it applied more before the pipeline ended
		at = s.reached
	}
	return at, nil
}

// openLane opens a lane of the changes that the rows lack.
func (s *stagedTable) openLane(ctx context.Context, l *lanes) (*jetstream.Lane, error) {
	s.mu.Lock()
	after := s.reached
	s.mu.Unlock()
	from := continuity.Snapshot{Clock: s.clock}.Start()
	first := after == cdc.Position{}
	if first {
		config := jetstream.Config{Conn: l.Conn, Stream: streamName, Name: l.Consumer, Filters: l.Filters, Logger: l.Logger}
		before, err := jetstream.Before(ctx, config, from)
		if err != nil {
			return nil, err
		}
		after.Sequence = before
	}
	source, err := l.openLane(ctx, []string{s.table}, after.Sequence)
	if err != nil || !first {
		return source, err
	}
	oldest, sequence, err := source.Retention(ctx)
	if err == nil && sequence > 1 && oldest.After(from) {
		err = errNotCovered
	}
	if err != nil {
		l.closeLane(source)
		return nil, err
	}
	s.mu.Lock()
	s.reached = after
	s.mu.Unlock()
	s.Logger.Info("bringing loaded rows forward", "table", s.table, "after", after.Sequence)
	return source, nil
}

// join makes the main pipeline leave the table at the position of the rows, once they have
// caught up. It returns false if ctx ends first.
func (s *stagedTable) join(ctx context.Context, l *lanes, source *jetstream.Lane) (at cdc.Position, joined bool, err error) {
	delivered := tables.Delivered(source.Delivered)
	caughtUp := func(ctx context.Context, at cdc.Position) error {
		return delivered.AwaitApplied(ctx, func() (reached, target uint64, changed <-chan struct{}) {
			reached, changed = s.applied()
			return reached, at.Sequence, changed
		})
	}
	joined, err = l.catchUp(ctx, source, func(hold time.Duration) (err error) {
		at, err = l.set.Replace(ctx, s.table, l.destination, hold, caughtUp)
		return err
	}, func(err error) bool {
		return err != nil && !errors.Is(err, tables.ErrNotCaughtUp) && ctx.Err() == nil && fault.Of(err) != fault.Transient
	})
	if joined {
		s.Logger.Info("loaded rows have caught up", "table", s.table, "applied", at.Sequence)
	}
	return at, joined, err
}

// applied returns the sequence up to which the rows have every change, and a channel that
// is closed when that changes.
func (s *stagedTable) applied() (reached uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.reached.Sequence, s.changed
}

// Apply applies a batch to the load.
func (s *stagedTable) Apply(ctx context.Context, b *change.Batch) error {
	if len(b.Sets) > 0 {
		if err := s.load.Advance(ctx, b); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached, s.advanced = b.Last, s.advanced || len(b.Sets) > 0
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return nil
}

// Close does nothing: the import owns the load.
func (s *stagedTable) Close(context.Context) error { return nil }

// Checkpoint returns the position of the rows. A sink with a checkpoint also receives
// batches without rows.
func (s *stagedTable) Checkpoint(context.Context) (cdc.Position, error) { return s.position(), nil }

// ResetCheckpoint does nothing.
func (s *stagedTable) ResetCheckpoint(context.Context) error { return nil }

// Enter does not wait: no other pipeline applies changes to the load.
func (s *stagedTable) Enter(context.Context) error { return nil }

// Leave does nothing.
func (s *stagedTable) Leave() {}

// Withholds returns true: the load has one table.
func (s *stagedTable) Withholds() bool { return true }

// Applies reports whether the change is of the table and no earlier one has failed.
func (s *stagedTable) Applies(table string, _ cdc.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return table == s.table && s.failure == nil
}

// Fail gives up the load.
func (s *stagedTable) Fail(_ string, _ cdc.Position, _ sink.Cause, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = fault.Mark(fault.Fatal, fmt.Errorf("apply the changes since the snapshot: %w", reason))
	}
	s.stop()
}

// Lack gives up the load. The live table lacks nothing more.
func (s *stagedTable) Lack(table string, reason error) { s.Fail(table, cdc.Position{}, "", reason) }

// Denied returns false: the table keeps its rows, and the main pipeline or a lane decides.
func (s *stagedTable) Denied(string) bool { return false }

// Known does nothing.
func (s *stagedTable) Known(string) {}
