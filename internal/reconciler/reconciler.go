// Package reconciler makes the running program match what is desired of it: it
// follows the stream into a destination, imports a snapshot, or stands still.
//
// The desired state is one value. The agent that talks to HQ changes it; the
// reconciler observes it, and does one thing at a time.
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

// Config is what a Reconciler works with. All fields are required, except Rules and
// Probation.
type Config struct {
	Options config.Server
	Version string // of eds
	State   *state.Dir
	Lookup  sink.Lookup // of the environment, for the options of destinations
	HQ      *hq.Client  // for imports
	Tables  *schema.Catalogue
	Dead    *dlq.Queue
	Rules   pipeline.Rules // nil: none
	Metrics *pipeline.Metrics
	Silence *jetstream.Silence
	// Adjusted counts a value that a documented rule changed.
	Adjusted func(table, column, rule string)
	// Probation reports whether this version is on probation after an upgrade: then no
	// table is imported without being asked; nil: it is not.
	Probation func() bool
	Health    *telemetry.Health
	Logger    *slog.Logger
}

// Session is what a session with HQ gives to the reconciler.
type Session struct {
	Conn     *nats.Conn
	Consumer string   // name of the durable consumer
	Filters  []string // its subjects, sorted
}

// Reconciler follows the stream into one destination. Run and Close belong to one
// goroutine; the rest is safe for concurrent use.
type Reconciler struct {
	Config
	desired desiredState
	life    context.Context // of imports: from New to Close
	end     context.CancelFunc
	imports sync.WaitGroup
	unknown pipeline.UnknownColumns // columns that the schema lacks, logged once

	open        *Destination // the destination that is open; nil: none
	openFilter  string       // and for which filters
	destination *sink.Opened // it
	watched     bool         // that no other server writes to it
	gaveWay     bool         // to another server of the same consumer
	started     time.Time
	// dropped is what the stream dropped while it was followed, until that is recorded.
	dropped *continuity.GapError

	mu       sync.Mutex
	running  *pipeline.Pipeline   // nil while the stream is not followed
	lane     *pipeline.Pipeline   // nil while no table is brought forward by a lane
	last     pipeline.Status      // of the latest pipeline
	progress string               // of an import under way
	tables   *tables.Set          // of the destination; nil if it does not record their states
	jobs     []*importJob         // the last few imports, oldest first
	held     map[string]bool      // tables whose rows an import is about to replace
	lanes    *lanes               // of the stream that is followed; nil if none is
	left     time.Time            // when it was last followed
	entered  chan struct{}        // closed when lanes changes; nil if no caller waits
	verified map[string]time.Time // tables whose rows were found equal, and when the comparison began
	doubted  time.Time            // when the latest doubt about the stream began or ended

	laneMetrics *pipeline.Metrics // of lanes, which nobody reads
}

// New returns a reconciler that follows the stream into d; nil: into none yet. It
// continues what an earlier process was asked for.
func New(c Config, d *Destination) (*Reconciler, error) {
	r := &Reconciler{Config: c, started: time.Now(), left: time.Now(), desired: desiredState{dir: c.State}, laneMetrics: pipeline.NewMetrics(prometheus.NewRegistry())}
	r.life, r.end = context.WithCancel(context.Background())
	if err := r.restore(d); err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// Close interrupts an import, which the next process resumes, and closes the destination
// if one is open.
func (r *Reconciler) Close() {
	r.end()
	r.imports.Wait()
	r.closeDestination()
}

// run is the reconciler within one session.
type run struct {
	*Reconciler
	Session
}

// Run reconciles until due ends, whose cause it returns, or something fails that
// another attempt would not change. Imports go on. If hard ends, Run stops at once:
// unacknowledged messages come again. The first result is the gap that keeps the stream
// from being followed, if there is one.
func (r *Reconciler) Run(due, hard context.Context, s Session) (gap, err error) {
	return (&run{r, s}).reconcile(due, hard)
}

func (r *run) reconcile(due, hard context.Context) (gap, err error) {
	backoff := retry.Backoff{Max: 2 * time.Second} // of reopening
	started, _ := r.desired.now()
	for filled := started.filled; ; {
		desired, changed := r.desired.now()
		if desired.filled != filled { // which closes a gap
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
			select {
			case <-changed:
			case <-due.Done():
			}
			continue
		}
		began := time.Now()
		err := r.follow(due, hard, desired.destination)
		if time.Since(began) > time.Minute {
			backoff.Reset()
		}
		if r.notesDropped(err) {
			continue
		}
		reopen := new(sink.ReopenError)
		switch {
		case errors.Is(err, errChanged):
		case errors.As(err, &reopen) && reopen.Imported:
			r.Logger.Info("going on with what was imported", "because", reopen.Reason)
			r.closeDestination()
		case errors.As(err, &reopen):
			r.Logger.Warn("going on from what the destination records", "because", err)
			r.closeDestination()
			sleep(due, backoff.Next(err))
		case errors.As(err, new(*continuity.GapError)):
			// Starting again would not help, and going on would hide the loss.
			gap = err
			r.Health.Set("stream", err)
			r.Logger.Error("changes are missing, so nothing is applied until an import", "error", err)
		default:
			return gap, err
		}
	}
}

// notesDropped remembers a gap that the running source has found. It returns false if
// remembering does not help, or err is another error.
func (r *run) notesDropped(err error) bool {
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

// errChanged says that the desired state has changed.
var errChanged = errors.New("the desired state has changed")

// follow follows the stream into d until due ends or the desired state changes.
// Received changes are applied first. If that takes too long, and another
// destination is desired, they are left: they come again.
func (r *run) follow(due, hard context.Context, d *Destination) error {
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
			sleep(over, closeTimeout)
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
		r.closeDestination() // in the middle of what it did
	}
	cause := context.Cause(due)
	ended()
	_ = watcher.Wait() // it has no errors
	switch {
	case errors.Is(cause, errChanged) && (err == nil || fault.Of(err) == fault.Transient || errors.As(err, new(*DestinationError))):
		return errChanged // the error concerns a destination that is no longer desired
	case err == nil && cause != nil:
		return cause
	}
	return err
}

// Status returns what the pipeline is doing, or, while the stream is not followed,
// what it last did. Its counts are of all sessions.
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

// LaneStatus returns what the lane is doing that brings tables forward; the zero value if
// none does.
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
