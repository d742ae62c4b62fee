// Package reconciler makes the running program match its desired state. The program either follows
// the stream into a destination, imports a snapshot, does both, or is idle.
//
// The desired state is a single value. The agent that talks to HQ changes the desired state, and
// the reconciler reacts to each change.
package reconciler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/tables"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Config configures a Reconciler. All fields are required, except Rules and Probation.
type Config struct {
	Options      config.ServerSettings
	Version      string // version of eds
	State        *state.Dir
	Lookup       sink.Lookup // looks up environment variables for destination options
	HQ           *hq.Client  // the client through which imports request exports
	Tables       *schema.Catalogue
	Dead         *dlq.Queue
	Rules        pipeline.Rules // nil for no rules
	Metrics      *pipeline.Metrics
	ResetSupport *jetstream.ResetSupport
	// Adjusted is called for each value that a documented rule changed.
	Adjusted func(table, column, rule string)
	// Probation reports whether this version is on probation after an upgrade. During probation,
	// only imports that were requested run. If Probation is nil, this version is not on probation.
	Probation func() bool
	Health    *telemetry.Health
	Logger    *slog.Logger
}

// StreamAccess holds the parameters for reading the stream during one session with HQ.
type StreamAccess struct {
	Conn     *nats.Conn
	Consumer string   // name of the durable consumer
	Filters  []string // subjects of the consumer, sorted
}

// Reconciler follows the stream into one destination. One goroutine must call Run and Close. The
// other methods are safe for concurrent use.
type Reconciler struct {
	Config
	desired desiredState
	closing sync.Once
	closed  chan struct{} // closed when Close starts
	imports sync.WaitGroup
	visits  chan visit              // visits of imports to the lanes of the followed stream
	unknown pipeline.UnknownColumns // columns that the schemas lack, each logged once

	open        *Destination // the open destination; nil if there is none
	openFilter  string       // the filters for which it was opened
	destination *sink.Opened // the sink of the open destination
	watched     bool         // whether awaitWriters has found no other writer
	gaveWay     bool         // whether another server has taken over the destination
	started     time.Time
	// dropped is a gap that the source found while it ran and that is not recorded yet.
	dropped *continuity.GapError

	mu           sync.Mutex
	running      *pipeline.Pipeline   // nil while the stream is not followed
	lane         *pipeline.Pipeline   // nil while no lane brings a table forward
	last         pipeline.Status      // status of the latest pipeline
	progress     string               // progress of the running import
	tables       *tables.Set          // the destination's tables; nil if it records no states
	jobs         []*importJob         // the last few imports, oldest first
	held         map[string]bool      // tables whose rows an import is about to replace
	followed     bool                 // whether lanes run now
	left         time.Time            // when lanes last stopped
	verified     map[string]time.Time // per table, start of the latest comparison that found it equal
	unverifiedAt time.Time            // time of the latest call of setUnverified

	laneMetrics *pipeline.Metrics // metrics of lanes, which are not exported
}

// New returns a reconciler that follows the stream into d. If d is nil, there is no destination
// yet. The reconciler continues the requests that an earlier process received.
func New(c Config, d *Destination) (*Reconciler, error) {
	r := &Reconciler{
		Config: c, started: time.Now(), left: time.Now(), desired: desiredState{dir: c.State},
		closed: make(chan struct{}), visits: make(chan visit),
		laneMetrics: pipeline.NewMetrics(prometheus.NewRegistry()),
	}
	if err := r.restore(d); err != nil {
		return nil, err
	}
	return r, nil
}

// Close interrupts a running import, which the next process resumes. It then closes the destination
// if one is open.
func (r *Reconciler) Close() {
	r.closing.Do(func() { close(r.closed) })
	r.imports.Wait()
	r.closeDestination()
}

// untilClosed returns a context that ends when Close is called. The caller must call end to release
// the context.
func (r *Reconciler) untilClosed() (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-r.closed:
			cancel(errStopped)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(nil)
		watcher.Wait()
	}
}

// follower is the reconciler within one session with HQ.
type follower struct {
	*Reconciler
	StreamAccess
}

// Run reconciles until the context due ends, and returns the cause of that context. It returns
// earlier after an error that another attempt would not resolve. Imports continue after Run. If the
// context hard ends, Run stops at once; the stream delivers unacknowledged messages again. The
// result gap is the gap that keeps the stream from being followed, or nil if there is none.
func (r *Reconciler) Run(due, hard context.Context, s StreamAccess) (gap, err error) {
	return (&follower{r, s}).reconcile(due, hard)
}

func (r *follower) reconcile(due, hard context.Context) (gap, err error) {
	backoff := retry.Backoff{Max: 2 * time.Second} // for reopening the destination
	started, _ := r.desired.now()
	for filled := started.filled; ; {
		desired, changed := r.desired.now()
		if desired.filled != filled { // an import closes a gap
			filled, gap = desired.filled, nil
		}
		if desired.job != nil && due.Err() == nil {
			r.startImport(desired.job, desired.beside())
		}
		switch {
		case due.Err() != nil:
			return gap, context.Cause(due)
		case !desired.follows(), gap != nil:
			if gap == nil {
				r.Logger.Info("the stream is not followed", "because", desired.obstacle())
			}
			r.Health.Ready()
			awaitChange(due, changed, time.Time{})
			continue
		}
		began := time.Now()
		err := r.follow(due, hard, desired.destination)
		if time.Since(began) > time.Minute {
			backoff.Reset()
		}
		if r.recordDropped(err) {
			continue
		}
		reopen := new(sink.ReopenError)
		switch {
		case errors.Is(err, errChanged):
		case errors.As(err, &reopen) && reopen.Imported:
			r.Logger.Info("continuing with the imported rows", "because", reopen.Reason)
			r.closeDestination()
		case errors.As(err, &reopen):
			r.Logger.Warn("continuing from the destination's own record", "because", err)
			r.closeDestination()
			_ = retry.Sleep(due, backoff.Next(err))
		case errors.As(err, new(*continuity.GapError)):
			// Another attempt would not help, and continuing would hide the loss.
			gap = err
			r.Health.Set("stream", err)
			r.Logger.Error("changes are missing, so nothing is applied until an import", "error", err)
		default:
			return gap, err
		}
	}
}

// recordDropped records a gap that the running source has found, so that the next subscription
// marks the tables as incomplete. It returns false if err is not a gap, or if marking the tables
// cannot help.
func (r *follower) recordDropped(err error) bool {
	found := new(continuity.GapError)
	switch {
	case r.dropped != nil, r.currentTables() == nil, !errors.As(err, &found):
		return false
	case found.Reason != continuity.Trimmed && found.Reason != continuity.Recreated:
		return false
	}
	gap := *found
	gap.Others = true
	r.dropped = &gap
	return true
}

// errChanged is the cause of ending a pipeline because the desired state has changed.
var errChanged = errors.New("the desired state has changed")

// follow follows the stream into d until the context due ends or the desired state changes. Before
// it returns, it applies the received changes. If that takes longer than closeTimeout while another
// destination is desired, follow abandons these changes; the stream delivers them again.
func (r *follower) follow(due, hard context.Context, d *Destination) error {
	due, end := context.WithCancelCause(due)
	defer end(nil)
	abandoned, abandon := context.WithCancel(hard)
	defer abandon()
	over, ended := context.WithCancel(context.WithoutCancel(hard))
	var watcher errgroup.Group
	watcher.Go(func() error {
		r.desired.awaitOther(over, d)
		end(errChanged)
		if desired, _ := r.desired.now(); desired.destination != d {
			_ = retry.Sleep(over, closeTimeout)
			abandon()
		}
		return nil
	})
	err := r.runPipeline(due, abandoned, d)
	if errors.As(err, new(*sink.WriterError)) {
		r.gaveWay = true
		r.Health.Set("writer", err)
		r.closeDestination()
	}
	if errors.Is(err, pipeline.ErrAbandoned) {
		r.closeDestination() // a call to the destination may not have returned
	}
	cause := context.Cause(due)
	ended()
	_ = watcher.Wait() // the watcher returns no error
	switch {
	case errors.Is(cause, errChanged) && (err == nil || fault.Of(err) == fault.Transient || errors.As(err, new(*DestinationError))):
		return errChanged // the error concerns a destination that is no longer desired
	case err == nil && cause != nil:
		return cause
	}
	return err
}

// Status returns the status of the running pipeline. While the stream is not followed, it returns
// the last status of the latest pipeline. The counts include all sessions.
func (r *Reconciler) Status() pipeline.Status {
	r.mu.Lock()
	p, last := r.running, r.last
	r.mu.Unlock()
	if p != nil {
		return p.Status().After(last)
	}
	last.LagKnown, last.PendingKnown = false, false
	if desired, _ := r.desired.now(); !desired.follows() {
		last.State, last.Reason = pipeline.Paused, desired.obstacle()
	}
	return last
}

// LaneStatus returns the status of the lane that brings tables forward, or the zero value if no
// lane runs.
func (r *Reconciler) LaneStatus() pipeline.Status {
	r.mu.Lock()
	p := r.lane
	r.mu.Unlock()
	if p == nil {
		return pipeline.Status{}
	}
	return p.Status()
}

func (r *Reconciler) setLane(p *pipeline.Pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lane = p
}

func (r *Reconciler) setRunning(p *pipeline.Pipeline) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p == nil && r.running != nil {
		r.last = r.running.Status().After(r.last)
	}
	r.running = p
}
