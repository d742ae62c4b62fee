package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
)

// attend does what is wished for, until the session ends or is to be renewed.
func (sh *shift) attend() error {
	s := sh.s
	var gap error // nothing can be followed before another import
	for {
		wanted, changed := s.wishes.now()
		switch {
		case sh.due.Err() != nil:
			cause := context.Cause(sh.due)
			if gap != nil && !errors.Is(cause, errRenew) && !errors.Is(cause, errRestart) {
				return gap
			}
			return cause
		case wanted.order != nil:
			gap = sh.carryOut(wanted, gap)
			continue
		case !wanted.follows(), gap != nil:
			s.Logger.Info("the stream is not followed", "because", wanted.obstacle())
			s.Health.Ready()
			select {
			case <-changed:
			case <-sh.due.Done():
			}
			continue
		}
		err := sh.follow(wanted.place)
		switch {
		case errors.Is(err, errChanged):
		case errors.As(err, new(*jetstream.GapError)):
			// Starting again would not help, and skipping would lose changes.
			gap = err
			s.Health.Set("stream", err)
			s.Logger.Error("changes are missing, so nothing is applied until a new import was made", "error", err)
		default:
			return err
		}
	}
}

// errChanged says that what is wished for has changed.
var errChanged = errors.New("what the server is to do has changed")

// follow follows the stream into the place until the session is due, or
// something else is wished for. What it had received is applied then; if that
// takes too long, and the place is no longer wanted, it is left: it comes again.
func (sh *shift) follow(p *place) error {
	term, end := context.WithCancelCause(sh.due)
	defer end(nil)
	hard, abandon := context.WithCancel(sh.hard)
	defer abandon()
	over, ended := context.WithCancel(context.WithoutCancel(sh.hard))
	var watcher errgroup.Group
	watcher.Go(func() error {
		sh.s.wishes.awaitOther(over, p)
		end(errChanged)
		if wanted, _ := sh.s.wishes.now(); wanted.place != p {
			sleep(over, farewell)
			abandon()
		}
		return nil
	})
	err := sh.carry(term, hard, p)
	cause := context.Cause(term)
	ended()
	_ = watcher.Wait() // it has no errors
	switch {
	case errors.Is(cause, errChanged) && (err == nil || fault.Of(err) == fault.Transient || errors.As(err, new(*DestinationError))):
		return errChanged // whatever it was, nobody wants it any more
	case err == nil && cause != nil:
		return cause
	}
	return err
}

// carry opens the destination and the stream, and runs the pipeline from the one to the other.
func (sh *shift) carry(term, hard context.Context, p *place) (err error) {
	s := sh.s
	destination, err := s.openDestination(term, p, joined(sh.filters))
	if err != nil {
		return err
	}
	source, checkpoint, err := sh.subscribe(term, p, destination)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource(source)) }()
	snapshots, err := s.snapshots(p)
	if err != nil {
		return err
	}
	limits := p.driver.Limits
	if pacer, ok := destination.(sink.Pacer); ok {
		limits = pacer.Limits()
	}
	config := pipeline.Config{
		Source: source, Sink: destination, KeepsRows: p.driver.KeepsRows, Limits: limits, Tables: s.tables,
		SnapshotClock: func(table string) (cdc.Timestamp, bool) {
			snap, ok := snapshots[table]
			return snap.Clock.Timestamp, ok
		},
		Checkpoint: checkpoint, Rules: s.rules, Dead: s.dead, Metrics: s.metrics, Logger: s.Logger,
		MaxRows: s.Options.MaxPendingBuffer, MaxInFlight: s.Options.MaxAckPending,
		MinLatency: s.Options.MinPendingLatency, MaxLatency: s.Options.MaxPendingLatency,
	}
	if limits.Stable {
		if config.Ends, err = s.State.Ends(s.consumer()); err != nil {
			return err
		}
		config.RecordEnds = func(ends []uint64) error { return s.State.RecordEnds(s.consumer(), ends) }
	}
	run, err := pipeline.New(config)
	if err != nil {
		return err
	}
	s.setRunning(run)
	defer s.setRunning(nil)
	s.Health.Ready()
	return run.Run(term, hard)
}

func closeSource(source *jetstream.Source) error {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	return source.Close(ctx)
}

// subscribe opens the stream where the destination, the snapshots and what is
// recorded say that it is to go on. It also returns the destination's checkpoint.
func (sh *shift) subscribe(ctx context.Context, p *place, destination sink.Sink) (*jetstream.Source, cdc.Position, error) {
	var none cdc.Position
	s := sh.s
	checkpoint, err := s.checkpoint(ctx, destination)
	if err != nil {
		return nil, none, err
	}
	settled, _, err := s.State.Settled(s.consumer())
	if err != nil {
		return nil, none, err
	}
	snapshots, err := s.snapshots(p)
	if err != nil {
		return nil, none, err
	}
	plan := s.plan(snapshots, checkpoint, settled.Position)
	var source *jetstream.Source
	if !plan.start.Anew {
		source, err = sh.open(ctx, plan, checkpoint, settled)
		// A gap before the snapshots is none.
		plan.start.Anew = plan.fresh && errors.As(err, new(*jetstream.GapError))
	}
	if plan.start.Anew {
		s.Logger.Info("following the stream from the time of the snapshot", "time", plan.start.Time.UTC().Format(time.RFC3339))
		if err := s.forget(ctx, destination); err != nil {
			return nil, none, err
		}
		checkpoint = none
		plan.accept = time.Since(plan.start.Time) < retention
		source, err = sh.open(ctx, plan, none, state.Settled{})
	}
	if err != nil {
		return nil, none, fmt.Errorf("open the stream: %w", err)
	}
	return source, checkpoint, s.State.MarkBegun(slices.Collect(maps.Keys(snapshots))...)
}

// checkpoint returns the position that the destination has stored; zero where
// it has none.
func (s *Server) checkpoint(ctx context.Context, destination sink.Sink) (cdc.Position, error) {
	var position cdc.Position
	c, ok := destination.(sink.Checkpointer)
	if !ok {
		return position, nil
	}
	err := s.insist(ctx, "destination", func() (err error) {
		position, err = c.Checkpoint(ctx)
		return err
	})
	if err != nil {
		return position, fmt.Errorf("read the checkpoint of the destination: %w", err)
	}
	return position, nil
}

// forget forgets how far the stream was followed.
func (s *Server) forget(ctx context.Context, destination sink.Sink) error {
	if c, ok := destination.(sink.Checkpointer); ok {
		if err := s.insist(ctx, "destination", func() error { return c.ResetCheckpoint(ctx) }); err != nil {
			return fmt.Errorf("reset the checkpoint of the destination: %w", err)
		}
	}
	return s.State.ForgetSettled(s.consumer())
}

// open opens the consumer, waiting for NATS where it must.
func (sh *shift) open(ctx context.Context, plan plan, checkpoint cdc.Position, settled state.Settled) (*jetstream.Source, error) {
	s := sh.s
	// Where the destination stores the position, the record here may lag.
	every := time.Duration(0)
	if _, ok := s.destination.(sink.Checkpointer); ok {
		every = watchInterval
	}
	var source *jetstream.Source
	err := s.insist(ctx, "stream", func() (err error) {
		source, err = jetstream.Open(ctx, jetstream.Config{
			Conn: sh.conn, Stream: streamName, Name: s.consumer(), Filters: sh.filters, Start: plan.start, Accept: plan.accept,
			Recorded:   jetstream.Recorded{Settled: settled.Position, Scanned: settled.Scanned},
			Checkpoint: checkpoint, MaxAckPending: s.Options.MaxAckPending, RecordEvery: every, Logger: s.Logger,
			Record: func(r jetstream.Recorded) error {
				return s.State.RecordSettled(s.consumer(), state.Settled{Position: r.Settled, Scanned: r.Scanned, At: time.Now().UTC()})
			},
		})
		return err
	})
	return source, err
}

// plan says where the stream is followed from.
type plan struct {
	start jetstream.Start
	// fresh: every snapshot is newer than what was followed, so that all that
	// lies between is in the snapshots.
	fresh bool
	// accept: that the stream begins after start means that nothing came before,
	// not that something was dropped.
	accept bool
}

// retention is less than what any stream of changes is kept for.
const retention = 24 * time.Hour

// clockMargin is how much before the earliest snapshot the stream is read from,
// because the clocks of the source's database and of the stream's server differ.
// What comes too early is skipped by its own clock.
const clockMargin = time.Minute

// plan says where a consumer begins that is new. Where an import has shown an
// earlier time than was followed to, an existing one begins there too: what lies
// between has to be applied again.
func (s *Server) plan(snapshots map[string]state.Snapshot, checkpoint, settled cdc.Position) plan {
	switch {
	case s.Options.Restart:
		return plan{start: jetstream.Start{From: jetstream.FromBeginning}}
	case len(snapshots) == 0:
		return plan{start: jetstream.Start{From: jetstream.FromNow}}
	}
	position := settled.Stored
	if checkpoint != (cdc.Position{}) {
		position = checkpoint.Stored
	}
	earliest := int64(math.MaxInt64)
	fresh, older := true, false
	for _, snap := range snapshots {
		wall := snap.Clock.Wall
		earliest = min(earliest, wall)
		fresh = fresh && !snap.Begun && wall > position
		older = older || !snap.Begun && wall < position
	}
	start := jetstream.Start{From: jetstream.FromTime, Time: time.Unix(0, earliest).Add(-clockMargin), Anew: older}
	return plan{start: start, fresh: fresh}
}

// snapshots returns what was imported into this destination, by table.
func (s *Server) snapshots(p *place) (map[string]state.Snapshot, error) {
	all, err := s.State.Snapshots()
	for table, snap := range all {
		if sink.Identity(snap.Destination) != sink.Identity(p.masked) {
			delete(all, table)
		}
	}
	return all, err
}
