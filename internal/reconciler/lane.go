package reconciler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// Bounds of how long the main pipeline is held while a lane hands its tables back.
const (
	firstHold = 3 * time.Second
	lastHold  = 30 * time.Second
)

// lanes bring tables forward that are behind, beside the main pipeline.
type lanes struct {
	*run
	set         *tables.Set
	destination tables.Sink
	inspector   sink.Inspector  // nil: the destination cannot be inspected
	config      pipeline.Config // of a lane's pipeline; Source, Sink and Gate are missing
	healer      *healer

	due, hard context.Context // of runBeside
	users     sync.WaitGroup  // imports that read the stream
}

// TableStates returns the tables of the destination that are not OK, by name.
func (r *Reconciler) TableStates() []sink.TableState {
	if set := r.currentTables(); set != nil {
		return set.States()
	}
	return nil
}

// currentTables returns the states of the destination's tables; nil if it does not record
// any, or the stream was not followed yet.
func (r *Reconciler) currentTables() *tables.Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tables
}

func (r *Reconciler) setTables(set *tables.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tables = set
	for table := range r.held {
		if set != nil {
			set.Hold(table)
		}
	}
}

// setLanes tells imports which lanes read the stream from now on; nil: none.
func (r *Reconciler) setLanes(l *lanes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanes, r.left = l, time.Now()
	if r.entered != nil {
		close(r.entered)
		r.entered = nil
	}
}

// awaitLanes returns the lanes of the stream that is followed, which the caller leaves
// when their due context ends. If the stream is not followed, and not about to be, it
// returns nil.
func (r *Reconciler) awaitLanes(ctx context.Context) (l *lanes, leave func(), err error) {
	for ctx.Err() == nil {
		desired, changed := r.desired.now()
		l, entered, until := r.enterLanes()
		if l != nil {
			return l, l.users.Done, nil
		}
		wait := time.Until(until)
		if !desired.follows() || wait <= 0 {
			return nil, nil, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-entered:
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil, nil, context.Cause(ctx)
}

// enterLanes returns the lanes, of which the caller is a user then. If there are none, it
// returns a channel that is closed when that changes, and until when to wait.
func (r *Reconciler) enterLanes() (l *lanes, entered <-chan struct{}, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lanes != nil && r.lanes.due.Err() == nil {
		r.lanes.users.Add(1)
		return r.lanes, nil, time.Time{}
	}
	if r.entered == nil {
		r.entered = make(chan struct{})
	}
	if r.lanes != nil {
		r.left = time.Now()
	}
	return nil, r.entered, r.left.Add(sessionPatience)
}

// runBeside runs the main pipeline, and lanes and the healer beside it.
func (l *lanes) runBeside(due, hard context.Context, main *pipeline.Pipeline) error {
	due, end := context.WithCancelCause(due)
	defer end(nil)
	beside, stop := context.WithCancel(hard)
	defer stop()
	l.due, l.hard = due, beside
	l.setLanes(l)
	var group errgroup.Group
	group.Go(func() error {
		err := l.follow(due, beside)
		if err != nil {
			end(err)
		}
		return err
	})
	group.Go(func() error { l.startImports(due); return nil })
	group.Go(func() error {
		l.healer.watch(due, beside)
		return nil
	})
	group.Go(func() error {
		l.healer.watchSource(due)
		return nil
	})
	err := main.Run(due, hard)
	end(nil)
	if err != nil {
		stop()
	}
	l.setLanes(nil)
	l.users.Wait()
	return errors.Join(err, group.Wait())
}

// follow brings tables forward until due ends. Its errors are those that concern the main
// pipeline as well.
func (l *lanes) follow(due, hard context.Context) error {
	defer l.Health.Warn("lane", "")
	var backoff retry.Backoff
	for due.Err() == nil {
		changed := l.set.Changed()
		behind, next := l.set.Due()
		err := l.flush(due)
		if len(behind) == 0 && err == nil {
			await(due, changed, next)
			continue
		}
		if err == nil {
			err = l.bring(due, hard, behind)
		}
		switch {
		case err == nil:
			backoff.Reset()
			l.Health.Warn("lane", "")
		case due.Err() != nil:
		case errors.As(err, new(*sink.WriterError)), errors.As(err, new(*sink.ReopenError)):
			return err
		default:
			l.Logger.Warn("tables that are behind cannot be brought forward; trying again", "tables", len(behind), "error", err)
			l.Health.Warn("lane", fmt.Sprintf("tables that are behind cannot be brought forward: %v", err))
			sleep(due, backoff.Next(err))
		}
	}
	return nil
}

// flush records the states of tables that are not recorded yet.
func (l *lanes) flush(ctx context.Context) error {
	silent := false
	err := retry.Watch(func() {
		silent = true
		l.Logger.Warn("waiting for the destination to record the states of tables", "error", retry.ErrNoAnswer)
		l.Health.Warn("lane", fmt.Sprintf("the states of tables are not recorded: %v", retry.ErrNoAnswer))
	}, func() error { return l.set.Flush(ctx, l.destination) })
	if silent && err == nil {
		l.Health.Warn("lane", "")
	}
	return err
}

// await waits for a change, or until a time that is not zero, or until ctx ends.
func await(ctx context.Context, changed <-chan struct{}, until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-changed:
	case <-due:
	case <-ctx.Done():
	}
}

// bring reads the changes of the given tables from the stream, until they have caught up
// or due ends.
func (l *lanes) bring(due, hard context.Context, behind []sink.TableState) error {
	lane, after := l.set.Begin(l.destination, behind)
	names := make([]string, len(behind))
	for i := range behind {
		names[i] = behind[i].Table
	}
	source, err := l.open(due, names, after.Sequence)
	if err != nil {
		return l.lose(err)
	}
	defer l.leave(source)
	l.Logger.Info("bringing tables forward", "tables", sink.Names(names), "after", after.Sequence)
	config := l.config
	config.Source, config.Sink, config.Gate = source, lane, lane
	p, err := pipeline.New(config)
	if err != nil {
		return err
	}
	l.setLane(p)
	defer l.setLane(nil)
	err = l.lose(runUntil(due, hard, p, func(ctx context.Context) error { return l.join(ctx, lane, source, len(behind)) }))
	return errors.Join(err, l.flush(context.WithoutCancel(hard)))
}

// open opens a reader of the changes of the named tables after a message.
func (l *lanes) open(ctx context.Context, names []string, after uint64) (*jetstream.Lane, error) {
	return jetstream.OpenLane(ctx, jetstream.LaneConfig{
		Conn: l.Conn, Stream: streamName, Filters: l.Filters, Tables: names, After: after, Logger: l.Logger,
	})
}

// leave deletes the consumer of a lane. If that fails, NATS deletes it once it was idle for
// a while.
func (l *lanes) leave(source *jetstream.Lane) {
	if err := closeSource(source); err != nil {
		l.Logger.Debug("the consumer of tables that are behind is left to NATS", "error", err)
	}
}

// runUntil runs a pipeline until caughtUp returns or soft ends. Its error is the first one
// of the two.
func runUntil(soft, hard context.Context, p *pipeline.Pipeline, caughtUp func(context.Context) error) error {
	soft, stop := context.WithCancel(soft)
	defer stop()
	var group errgroup.Group
	group.Go(func() error {
		defer stop()
		return p.Run(soft, hard)
	})
	group.Go(func() error {
		defer stop()
		return caughtUp(soft)
	})
	return group.Wait()
}

// lose records a gap. Other errors are returned.
func (l *lanes) lose(err error) error {
	gap := new(continuity.GapError)
	if !errors.As(err, &gap) {
		return err
	}
	l.set.Lose(gap.First, fmt.Errorf("the stream no longer has messages before %d", gap.First))
	return nil
}

// join hands the lane's tables back once it has caught up. It returns early if the lane is
// to begin again, with more tables or without the last one.
func (l *lanes) join(ctx context.Context, lane *tables.Lane, source *jetstream.Lane, members int) error {
	attempt := func(hold time.Duration) error { return l.set.Join(ctx, lane, hold, source.Delivered) }
	_, _ = l.catchUp(ctx, source, attempt, func(error) bool { // an error is met again
		due, _ := l.set.Due()
		return l.set.Members() == 0 || len(due) > members
	})
	return nil
}

// catchUp calls attempt, with how long it may hold the main pipeline, whenever source is
// less than a batch behind, until it succeeds, ctx ends, or ends returns true for the
// latest error, which may be nil. It reports whether attempt has succeeded.
func (l *lanes) catchUp(ctx context.Context, source *jetstream.Lane, attempt func(hold time.Duration) error, ends func(error) bool) (bool, error) {
	pace := retry.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}
	for hold := firstHold; ctx.Err() == nil; {
		_, pending, err := source.Delivered(ctx)
		if err == nil && pending <= uint64(l.config.MaxRows) {
			if err = attempt(hold); err == nil {
				return true, nil
			}
			if errors.Is(err, tables.ErrNotCaughtUp) {
				sleep(ctx, hold)
				hold = min(2*hold, lastHold)
			}
		}
		if ends(err) {
			return false, err
		}
		sleep(ctx, pace.Next(err))
	}
	return false, nil
}

// tableSink is an open sink that records the states of its tables.
type tableSink struct {
	sink.Sink
	sink.Recorder
	sink.Migrator
}

// lanesFor returns what brings tables forward, and the destination as the main pipeline
// sees it; nil if the destination does not record the states of tables.
func (r *run) lanesFor(destination *sink.Opened, k *recorded, config *pipeline.Config, position cdc.Position) (*lanes, error) {
	if destination.Migrator == nil || k.recorder == nil {
		r.setTables(nil)
		return nil, r.importAlone()
	}
	set := tables.New(k.Records.Tables, position, r.Logger)
	r.setTables(set)
	recorder := tableSink{destination, destination.Recorder, destination.Migrator}
	main := set.Main(recorder)
	config.Sink, config.Gate = main, main
	l := &lanes{run: r, set: set, destination: recorder, inspector: destination.Inspector, config: *config}
	l.config.Metrics, l.config.Checkpoint, l.config.Ends, l.config.RecordEnds = r.laneMetrics, cdc.Position{}, nil, nil
	if l.config.MaxRows <= 0 {
		l.config.MaxRows = max(config.Limits.Rows, 1)
	}
	return l, nil
}
