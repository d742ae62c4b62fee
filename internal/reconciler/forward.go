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

// sessionPatience is how long an import waits for the stream to be followed, because only then can
// the import bring its loaded rows forward. The wait starts at the time when the stream was last
// followed. After the wait, the import puts the rows in place, and a lane brings them forward
// later.
const sessionPatience = time.Minute

// errNotCovered reports that the stream may have dropped changes since the snapshot. When eds reads
// the stream from the snapshot on, it decides whether changes are missing.
var errNotCovered = errors.New("the stream does not reach back to the snapshot")

// bringForward applies later changes to the loaded rows of a table, until the rows have reached the
// position of the main pipeline. The main pipeline skips the table's changes after that position
// until the caller calls done. If the stream is not followed, bringForward returns the position
// that the rows have reached, or zero if they have only the changes up to the snapshot.
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

// hold stops lanes from bringing a table forward, because the table's rows are about to be
// replaced.
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

// release ends the effect of hold.
func (r *Reconciler) release(table string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, table)
	if r.tables != nil {
		r.tables.Unhold(table)
	}
}

// stagedTable holds the loaded rows of one table of an import while they are brought forward. It is
// both the sink and the gate of a pipeline.
type stagedTable struct {
	*Reconciler
	table string
	clock cdc.Timestamp // time of the snapshot
	load  sink.Advancer

	mu       sync.Mutex
	reached  cdc.Position // the rows have every change up to here; zero before the first attempt
	advanced bool         // whether changes have been applied to the rows
	failure  error        // why the rows cannot be brought forward
	stop     func()       // ends the pipeline
	changed  chan struct{}
}

// bringForward brings the rows forward. It continues over any number of HQ sessions.
func (s *stagedTable) bringForward(ctx context.Context) (cdc.Position, error) {
	var backoff retry.Backoff
	for began := time.Now(); ; {
		var at cdc.Position
		var err error
		ended := false // whether the session has ended
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

// position returns the position up to which the rows have every change, or zero if they have only
// the changes up to the snapshot.
func (s *stagedTable) position() cdc.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.advanced {
		return cdc.Position{}
	}
	return s.reached
}

// runPipeline brings the rows forward within one session. The parameters due and sessionHard are
// the contexts of that session.
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
	case s.reached.Sequence > at.Sequence: // more changes were applied before the pipeline ended
		at = s.reached
	}
	return at, nil
}

// openLane opens a lane that reads the changes that the rows lack.
func (s *stagedTable) openLane(ctx context.Context, l *lanes) (*jetstream.Lane, error) {
	s.mu.Lock()
	after := s.reached
	s.mu.Unlock()
	from := continuity.ImportEvidence{Clock: s.clock}.Start()
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

// join waits until the rows have caught up with the main pipeline, and returns the position that
// the rows have then. The main pipeline skips the table's changes after that position. If ctx ends
// first, the result joined is false.
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

// applied returns the sequence up to which the rows have every change, and a channel that is closed
// when that sequence changes.
func (s *stagedTable) applied() (reached uint64, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.reached.Sequence, s.changed
}

// Apply applies a batch to the loaded rows.
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

// Close does nothing: the import owns the loaded rows.
func (s *stagedTable) Close(context.Context) error { return nil }

// Checkpoint returns the position of the rows. The method exists because only a sink with
// checkpoints receives batches without rows.
func (s *stagedTable) Checkpoint(context.Context) (cdc.Position, error) { return s.position(), nil }

// ResetCheckpoint does nothing: it exists only to implement sink.Checkpointer.
func (s *stagedTable) ResetCheckpoint(context.Context) error { return nil }

// Enter does not wait: no other pipeline applies changes to the loaded rows.
func (s *stagedTable) Enter(context.Context) error { return nil }

// Leave does nothing, because Enter reserves nothing.
func (s *stagedTable) Leave() {}

// Withholds returns true: the pipeline applies the changes of one table only.
func (s *stagedTable) Withholds() bool { return true }

// Applies reports whether the change belongs to the imported table, provided that no earlier change
// has failed.
func (s *stagedTable) Applies(table string, _ cdc.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return table == s.table && s.failure == nil
}

// Fail ends the pipeline, so that the import of the table fails.
func (s *stagedTable) Fail(_ string, _ cdc.Position, _ sink.Cause, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = fault.Mark(fault.Fatal, fmt.Errorf("apply the changes since the snapshot: %w", reason))
	}
	s.stop()
}

// Lack ends the pipeline, so that the import of the table fails. The existing table is not
// affected.
func (s *stagedTable) Lack(table string, reason error) { s.Fail(table, cdc.Position{}, "", reason) }

// Denied returns false, so that a change with a denied schema version fails the import and the
// table keeps its rows. The main pipeline or a lane then decides about the change.
func (s *stagedTable) Denied(string) bool { return false }

// Known does nothing: only the main pipeline records newer versions.
func (s *stagedTable) Known(string) {}
