package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
)

// session holds one session with HQ, from its start to its end, and follows the
// stream meanwhile.
func (s *Server) session(soft, hard context.Context) (err error) {
	sess, err := s.startSession(soft)
	if err != nil {
		return err
	}
	s.Health.Set("session", nil)
	defer func() { s.endSession(sess, err) }()

	companies, err := s.companies(sess.Credential)
	if err != nil {
		return err
	}
	s.serverID = sess.Credential.ServerID()
	if s.Options.ServerID != "" {
		s.serverID = s.Options.ServerID
	}
	filters := subjects(companies)
	destination, err := s.openDestination(soft, s.consumer(), strings.Join(filters, " "))
	if err != nil {
		return err
	}
	conn, denied, err := s.connect(soft, sess.Credential)
	if err != nil {
		return err
	}
	defer conn.Close()
	source, checkpoint, err := s.subscribe(soft, conn, filters, destination)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource(source)) }()
	return s.follow(soft, hard, denied, source, checkpoint, destination)
}

func closeSource(source *jetstream.Source) error {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	return source.Close(ctx)
}

// startSession opens a session with HQ, however long it takes.
func (s *Server) startSession(ctx context.Context) (hq.Session, error) {
	if s.keyless {
		s.Logger.Info("there is no api key; using the local NATS without a session", "servers", s.servers())
		return hq.Session{Credential: hq.Anonymous()}, nil
	}
	start := hq.SessionStart{
		Version: s.Build.Version, ServerID: s.Options.ServerID, CompanyIDs: s.Options.CompanyIDs,
		Driver: &hq.SessionDriver{ID: s.driver.Name, Name: s.driver.Title, Description: s.driver.Summary, URL: s.masked},
	}
	hq.DescribeHost(ctx, &start)
	sess, err := s.client.Patient().AwaitSession(ctx, start, func(_ error, wait time.Duration) {
		s.Logger.Warn("another server runs with this id; waiting for it to end", "server", s.Options.ServerID, "wait", wait)
	})
	if err != nil {
		return hq.Session{}, err
	}
	s.Logger.Info("the session began", "session", sess.ID, "server", sess.Credential.ServerID())
	return sess, nil
}

// endSession tells HQ that the session is over, and whether by a failure.
func (s *Server) endSession(sess hq.Session, cause error) {
	if sess.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	errored := cause != nil && !errors.Is(cause, errRenew) && !errors.Is(cause, context.Canceled)
	if _, err := s.client.EndSession(ctx, sess.ID, errored); err != nil {
		s.Logger.Warn("hq could not be told that the session ended", "session", sess.ID, "error", err)
		return
	}
	s.Logger.Info("the session ended", "session", sess.ID)
}

// companies returns the companies to follow: those of the credential, less those
// that were not asked for.
func (s *Server) companies(c hq.Credential) ([]string, error) {
	allowed, wanted := c.CompanyIDs(), s.Options.CompanyIDs
	if len(allowed) == 0 {
		return nil, fault.Mark(fault.Fatal, errors.New("hq's credential for this server names no company; ask for the server to be given access to one"))
	}
	if len(wanted) == 0 || slices.Contains(wanted, "*") {
		return allowed, nil
	}
	if slices.Contains(allowed, "*") {
		return wanted, nil
	}
	for _, id := range wanted {
		if !slices.Contains(allowed, id) {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("--companyIds: this server may not read company %q; it may read %s", id, strings.Join(allowed, ", ")))
		}
	}
	return wanted, nil
}

// subjects returns the subjects of the companies' changes.
func subjects(companies []string) []string {
	filters := make([]string, len(companies))
	for i, id := range companies {
		filters[i] = "dbchange.*.*." + id + ".*.PUBLIC.>"
	}
	slices.Sort(filters)
	return slices.Compact(filters)
}

// consumer returns the name of the durable consumer.
func (s *Server) consumer() string {
	name := "eds-" + s.serverID
	if s.Options.ConsumerSuffix != "" {
		name += "-" + s.Options.ConsumerSuffix
	}
	return name
}

// subscribe opens the stream where the destination, the snapshots and what is
// recorded say that it is to go on. It also returns the destination's checkpoint.
func (s *Server) subscribe(ctx context.Context, conn *nats.Conn, filters []string, destination sink.Sink) (*jetstream.Source, cdc.Position, error) {
	var none cdc.Position
	checkpoint, err := s.checkpoint(ctx, destination)
	if err != nil {
		return nil, none, err
	}
	settled, _, err := s.State.Settled(s.consumer())
	if err != nil {
		return nil, none, err
	}
	snapshots, err := s.snapshots()
	if err != nil {
		return nil, none, err
	}
	plan := s.plan(snapshots, checkpoint, settled.Position)
	var source *jetstream.Source
	if !plan.start.Anew {
		source, err = s.open(ctx, conn, filters, plan, checkpoint, settled)
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
		source, err = s.open(ctx, conn, filters, plan, none, state.Settled{})
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
func (s *Server) open(ctx context.Context, conn *nats.Conn, filters []string, plan plan, checkpoint cdc.Position, settled state.Settled) (*jetstream.Source, error) {
	// Where the destination stores the position, the record here may lag.
	every := time.Duration(0)
	if _, ok := s.destination.(sink.Checkpointer); ok {
		every = watchInterval
	}
	var source *jetstream.Source
	err := s.insist(ctx, "stream", func() (err error) {
		source, err = jetstream.Open(ctx, jetstream.Config{
			Conn: conn, Stream: streamName, Name: s.consumer(), Filters: filters, Start: plan.start, Accept: plan.accept,
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
func (s *Server) snapshots() (map[string]state.Snapshot, error) {
	all, err := s.State.Snapshots()
	for table, snap := range all {
		if sink.Identity(snap.Destination) != sink.Identity(s.masked) {
			delete(all, table)
		}
	}
	return all, err
}

// follow runs the pipeline until soft ends, or the session is due to be renewed.
func (s *Server) follow(soft, hard context.Context, denied <-chan error, source pipeline.Source, checkpoint cdc.Position, destination sink.Sink) error {
	snapshots, err := s.snapshots()
	if err != nil {
		return err
	}
	limits := s.driver.Limits
	if pacer, ok := destination.(sink.Pacer); ok {
		limits = pacer.Limits()
	}
	p, err := pipeline.New(pipeline.Config{
		Source: source, Sink: destination, KeepsRows: s.driver.KeepsRows, Limits: limits, Tables: s.tables,
		SnapshotClock: func(table string) (cdc.Timestamp, bool) {
			snap, ok := snapshots[table]
			return snap.Clock.Timestamp, ok
		},
		Checkpoint: checkpoint, Rules: s.rules, Dead: s.dead, Metrics: s.metrics, Logger: s.Logger,
		MaxRows: s.Options.MaxPendingBuffer, MaxInFlight: s.Options.MaxAckPending,
		MinLatency: s.Options.MinPendingLatency, MaxLatency: s.Options.MaxPendingLatency,
	})
	if err != nil {
		return err
	}
	s.setRunning(p)
	defer s.setRunning(nil)
	s.Health.Ready()
	term, cancel := context.WithTimeoutCause(soft, s.Options.RenewInterval, errRenew)
	defer cancel()
	term, refuse := context.WithCancelCause(term)
	defer refuse(nil)
	var watcher errgroup.Group
	watcher.Go(func() error {
		select {
		case err := <-denied:
			refuse(err)
		case <-term.Done():
		}
		return nil
	})
	err = p.Run(term, hard)
	cause := context.Cause(term)
	refuse(nil)
	_ = watcher.Wait() // it has no errors
	if err == nil && soft.Err() == nil {
		return cause
	}
	return err
}
