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

// Bounds of the time for which a lane may block the main pipeline while the lane returns its
// tables.
const (
	firstHold = 3 * time.Second
	lastHold  = 30 * time.Second
)

// lanes apply the missing changes to tables that are behind, while the main pipeline runs.
type lanes struct {
	*follower
	set         *tables.Set
	destination tables.Sink
	inspector   sink.Inspector  // nil if the destination cannot be inspected
	config      pipeline.Config // config of a lane's pipeline, except Source, Sink and Gate
	healer      *healer
}

// tableSink is an open sink that records the states of its tables.
type tableSink struct {
	sink.Sink
	sink.Recorder
	sink.Migrator
}

// lanesFor returns the lanes of the destination. It also changes config, the configuration of the
// main pipeline: the sink and the gate become the set of the destination's tables. lanesFor returns
// nil if the destination does not record the states of tables.
func (r *follower) lanesFor(
	destination *sink.Opened, ev *recordedEvidence, config *pipeline.Config, position cdc.Position,
) (*lanes, error) {
	if destination.Migrator == nil || ev.recorder == nil {
		r.setTables(nil)
		return nil, r.importAlone()
	}
	set := tables.New(ev.Records.Tables, position, r.Logger)
	r.setTables(set)
	recorder := tableSink{destination, destination.Recorder, destination.Migrator}
	main := set.Main(recorder)
	config.Sink, config.Gate = main, main
	l := &lanes{follower: r, set: set, destination: recorder, inspector: destination.Inspector, config: *config}
	l.config.Metrics, l.config.Checkpoint = r.laneMetrics, cdc.Position{}
	l.config.BatchBoundaries, l.config.RecordBatchBoundaries = nil, nil
	if l.config.MaxRows <= 0 {
		l.config.MaxRows = max(config.Limits.Rows, 1)
	}
	return l, nil
}

// TableStates returns the states of the destination's tables that are not OK, sorted by table name.
func (r *Reconciler) TableStates() []sink.TableState {
	if set := r.currentTables(); set != nil {
		return set.States()
	}
	return nil
}

// currentTables returns the states of the destination's tables. It returns nil if the destination
// does not record states, or if the stream has not been followed yet.
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

// visit is a part of an import that needs the lanes of the followed stream. The lanes run the
// visit.
type visit struct {
	do   func(due, hard context.Context, l *lanes)
	done chan struct{} // closed when do has returned
}

// withLanes calls the callback with the lanes of the followed stream, and waits until the callback
// returns. The lanes stop after the context due has ended and the callback has returned. The lanes
// abandon their work when the context hard ends. If the stream is about to be followed, withLanes
// waits for that. It returns false without running the callback if the stream is not followed or
// ctx ends.
func (r *Reconciler) withLanes(ctx context.Context, do func(due, hard context.Context, l *lanes)) bool {
	v := visit{do, make(chan struct{})}
	for ctx.Err() == nil {
		desired, changed := r.desired.now()
		wait := time.Until(r.lastFollowed().Add(sessionPatience))
		if !desired.follows() || wait <= 0 {
			return false
		}
		timer := time.NewTimer(wait)
		select {
		case r.visits <- v:
			timer.Stop()
			<-v.done
			return true
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return false
}

// setFollowed records that lanes have just started or just stopped.
func (r *Reconciler) setFollowed(followed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followed, r.left = followed, time.Now()
}

// lastFollowed returns the time at which lanes last ran, or the current time if lanes run now.
func (r *Reconciler) lastFollowed() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followed {
		return time.Now()
	}
	return r.left
}

// run runs the main pipeline together with the lanes and the healer.
func (l *lanes) run(due, hard context.Context, main *pipeline.Pipeline) error {
	due, end := context.WithCancelCause(due)
	defer end(nil)
	beside, stop := context.WithCancel(hard)
	defer stop()
	l.setFollowed(true)
	var group errgroup.Group
	group.Go(func() error {
		err := l.bringForward(due, beside)
		if err != nil {
			end(err)
		}
		return err
	})
	for _, f := range []func(){
		func() { l.receiveVisits(due, beside) },
		func() { l.startImports(due) },
		func() { l.healer.watch(due, beside) },
		func() { l.healer.watchSource(due) },
	} {
		group.Go(func() error { f(); return nil })
	}
	err := main.Run(due, hard)
	end(nil)
	if err != nil {
		stop()
	}
	failed := group.Wait()
	l.setFollowed(false)
	return errors.Join(err, failed)
}

// receiveVisits starts visits until the context due ends, and then waits until all of them have
// returned.
func (l *lanes) receiveVisits(due, hard context.Context) {
	var visits sync.WaitGroup
	defer visits.Wait()
	for {
		select {
		case v := <-l.visits:
			visits.Go(func() {
				defer close(v.done)
				v.do(due, hard, l)
			})
		case <-due.Done():
			return
		}
	}
}

// bringForward brings tables forward until the context due ends. It returns only errors that also
// concern the main pipeline.
func (l *lanes) bringForward(due, hard context.Context) error {
	defer l.Health.Warn("lane", "")
	var backoff retry.Backoff
	for due.Err() == nil {
		changed := l.set.Changed()
		behind, next := l.set.Due()
		err := l.flush(due)
		if len(behind) == 0 && err == nil {
			awaitChange(due, changed, next)
			continue
		}
		if err == nil {
			err = l.runLane(due, hard, behind)
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
			_ = retry.Sleep(due, backoff.Next(err))
		}
	}
	return nil
}

// flush records the table states that the destination has not recorded yet. It warns if the
// destination does not answer.
func (l *lanes) flush(ctx context.Context) error {
	hangs := false
	err := retry.Watch(func() {
		hangs = true
		l.Logger.Warn("waiting for the destination to record the states of tables", "error", retry.ErrNoAnswer)
		l.Health.Warn("lane", fmt.Sprintf("the states of tables are not recorded: %v", retry.ErrNoAnswer))
	}, func() error { return l.set.Flush(ctx, l.destination) })
	if hangs && err == nil {
		l.Health.Warn("lane", "")
	}
	return err
}

// awaitChange waits until the given channel is closed or ctx ends. If the parameter until is not
// zero, awaitChange also returns at that time.
func awaitChange(ctx context.Context, changed <-chan struct{}, until time.Time) {
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

// runLane applies the changes that the given tables lack, until the tables have caught up or the
// context due ends.
func (l *lanes) runLane(due, hard context.Context, behind []sink.TableState) error {
	lane, after := l.set.Begin(l.destination, behind)
	names := make([]string, len(behind))
	for i := range behind {
		names[i] = behind[i].Table
	}
	source, err := l.openLane(due, names, after.Sequence)
	if err != nil {
		return l.recordLoss(err)
	}
	defer l.closeLane(source)
	l.Logger.Info("bringing tables forward", "tables", sink.Names(names), "after", after.Sequence)
	config := l.config
	config.Source, config.Sink, config.Gate = source, lane, lane
	p, err := pipeline.New(config)
	if err != nil {
		return err
	}
	l.setLane(p)
	defer l.setLane(nil)
	err = runUntil(due, hard, p, func(ctx context.Context) error { return l.join(ctx, lane, source, len(behind)) })
	return errors.Join(l.recordLoss(err), l.flush(context.WithoutCancel(hard)))
}

// openLane opens a reader of the named tables' changes. The parameter after is the sequence after
// which the reader starts.
func (l *lanes) openLane(ctx context.Context, names []string, after uint64) (*jetstream.Lane, error) {
	return jetstream.OpenLane(ctx, jetstream.LaneConfig{
		Conn: l.Conn, Stream: streamName, Filters: l.Filters, Tables: names, After: after, Logger: l.Logger,
	})
}

// closeLane deletes the consumer of a lane. If that fails, NATS deletes the idle consumer after
// some time.
func (l *lanes) closeLane(source *jetstream.Lane) {
	if err := closeSource(source); err != nil {
		l.Logger.Debug("the consumer of a lane is left to NATS", "error", err)
	}
}

// runUntil runs a pipeline until the callback caughtUp returns or the context soft ends. It returns
// the first error of the pipeline or of the callback.
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

// recordLoss handles err, which is an error of a lane or nil. If err is a *continuity.GapError,
// recordLoss records the gap and returns nil. It returns any other error unchanged.
func (l *lanes) recordLoss(err error) error {
	gap := new(continuity.GapError)
	if !errors.As(err, &gap) {
		return err
	}
	l.set.RecordLoss(gap.First, fmt.Errorf("the stream no longer has messages before %d", gap.First))
	return nil
}

// join returns the lane's tables to the main pipeline when the lane has caught up. It returns early
// if the lane should restart with more tables, or has no table left.
func (l *lanes) join(ctx context.Context, lane *tables.LaneView, source *jetstream.Lane, members int) error {
	attempt := func(hold time.Duration) error { return l.set.Join(ctx, lane, hold, source.Delivered) }
	_, _ = l.catchUp(ctx, source, attempt, func(error) bool { // the next lane would return the same error
		due, _ := l.set.Due()
		return l.set.Members() == 0 || len(due) > members
	})
	return nil
}

// catchUp calls the callback attempt each time that source is no more than one batch behind. The
// argument of attempt is how long the attempt may block the main pipeline. After an attempt has
// succeeded, catchUp returns true. After any other round, it calls the callback ends with the error
// of that round, which may be nil. If ends returns true, or if ctx ends, catchUp returns false.
func (l *lanes) catchUp(
	ctx context.Context, source *jetstream.Lane, attempt func(hold time.Duration) error, ends func(error) bool,
) (bool, error) {
	pace := retry.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}
	for hold := firstHold; ctx.Err() == nil; {
		_, pending, err := source.Delivered(ctx)
		if err == nil && pending <= uint64(l.config.MaxRows) {
			if err = attempt(hold); err == nil {
				return true, nil
			}
			if errors.Is(err, tables.ErrNotCaughtUp) {
				_ = retry.Sleep(ctx, hold)
				hold = min(2*hold, lastHold)
			}
		}
		if ends(err) {
			return false, err
		}
		_ = retry.Sleep(ctx, pace.Next(err))
	}
	return false, nil
}
