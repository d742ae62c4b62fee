package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// ImportRequest is a request for an import into the destination.
type ImportRequest struct {
	ID      string // if "", RequestImport generates an id
	Options snapshot.Options
	HQ      bool // whether HQ requested the import and receives the outcome
}

// Reasons why an import ends early or cannot be requested.
var (
	errNoDestination    = fault.Mark(fault.Fatal, errors.New("this server has no destination yet; configure one first"))
	errUnderWay         = errors.New("an import is already under way")
	errOtherDestination = errors.New("another destination was configured")
	errCanceled         = errors.New("it was canceled")
	errStopped          = errors.New("the server stops; the import continues when it starts again")
)

// keptJobs is the number of most recent imports for which WatchImport works.
const keptJobs = 8

// importJob is a requested, running or ended import.
type importJob struct {
	ImportRequest
	destination *Destination
	started     atomic.Bool // set when the import starts, or is canceled before that
	progress    importProgress
	done        chan struct{} // closed at the end; report and err do not change after that
	report      snapshot.Report
	err         error

	mu      sync.Mutex
	stopped error                   // why the import must end early; nil if it need not
	cancel  context.CancelCauseFunc // cancels the context of the running import
}

// begin returns the context for running the import. The context ends when ctx ends or stop is
// called.
func (j *importJob) begin(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cancel = cancel
	if j.stopped != nil {
		cancel(j.stopped)
	}
	return ctx
}

// stop ends the import early. If stop is called more than once, the first reason counts.
func (j *importJob) stop(reason error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.stopped == nil {
		j.stopped = reason
	}
	if j.cancel != nil {
		j.cancel(j.stopped)
	}
}

// isCanceled reports whether the operator or HQ has canceled the import.
func (j *importJob) isCanceled() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Is(j.stopped, errCanceled)
}

func (j *importJob) finish(err error) {
	j.err = err
	close(j.done)
}

// newJob returns a new job, and adds it to the jobs for which WatchImport works.
func (r *Reconciler) newJob(q ImportRequest, d *Destination) *importJob {
	job := &importJob{ImportRequest: q, destination: d, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs = append(r.jobs, job)
	r.jobs = r.jobs[max(0, len(r.jobs)-keptJobs):]
	return job
}

func (r *Reconciler) job(id string) (*importJob, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, job := range r.jobs {
		if job.ID == id {
			return job, nil
		}
	}
	return nil, fmt.Errorf("this server knows no import %q", id)
}

// RequestImport requests an import and returns its id. The request survives restarts. RequestImport
// fails if another import is running or requested, or if there is no destination. If q.ID is the id
// of a known import, RequestImport does nothing and returns that id.
func (r *Reconciler) RequestImport(q ImportRequest) (id string, err error) {
	return r.requestImport(q, func(*desired) error { return nil })
}

// requestImport is like RequestImport, but also calls the callback, which edits the desired state.
// If the callback fails, requestImport requests no import.
func (r *Reconciler) requestImport(q ImportRequest, do func(*desired) error) (id string, err error) {
	options, err := json.Marshal(q.Options)
	if err != nil {
		return "", fmt.Errorf("record the options of an import: %w", err)
	}
	if q.ID == "" {
		q.ID = uuid.NewString()
	} else if _, err := r.job(q.ID); err == nil {
		return q.ID, nil
	}
	states := r.currentTables() != nil
	return q.ID, r.desired.change(func(d *desired) error {
		switch {
		case d.destination == nil:
			return errNoDestination
		case d.job != nil:
			return fmt.Errorf(
				"%w: watch it with eds import --watch %s, or end it with eds import --cancel %s", errUnderWay, d.job.ID, d.job.ID,
			)
		}
		if err := do(d); err != nil {
			return err
		}
		beside := states && d.follows()
		d.job = r.newJob(q, d.destination)
		d.Import = &state.RequestedImport{ID: q.ID, Destination: d.destination.Identity, HQ: q.HQ, Beside: beside, Options: options}
		return nil
	})
}

// importAlone changes a requested import so that it runs alone: the stream is not followed until
// that import has ended.
func (r *Reconciler) importAlone() error {
	return r.desired.change(func(d *desired) error {
		if d.beside() {
			alone := *d.Import
			alone.Beside = false
			d.Import = &alone
		}
		return nil
	})
}

// WatchImport waits until an import ends, and returns the outcome. Until then, it calls observe
// each time that it sees new progress of a table. Calls of observe may be slow. If the import has
// already ended, it must be one of the last keptJobs imports. If ctx ends, the import continues.
func (r *Reconciler) WatchImport(
	ctx context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals),
) (snapshot.Report, error) {
	job, err := r.job(id)
	if err != nil {
		return snapshot.Report{}, err
	}
	for seen := 0; ; {
		tables, totals, version, changed := job.progress.since(seen)
		for _, t := range tables {
			observe(t, totals)
		}
		if seen = version; len(tables) > 0 {
			continue
		}
		select {
		case <-job.done:
			return job.report, job.err
		default:
		}
		select {
		case <-changed:
		case <-job.done:
		case <-ctx.Done():
			return snapshot.Report{}, context.Cause(ctx)
		case <-r.closed:
			return snapshot.Report{}, errStopped
		}
	}
}

// CancelImport cancels an import. Tables that the import has not replaced yet keep their rows. If
// the import has already ended, CancelImport does nothing.
func (r *Reconciler) CancelImport(id string) error {
	job, err := r.job(id)
	if err == nil {
		r.cancelImport(job, errCanceled)
	}
	return err
}

func (r *Reconciler) cancelImport(job *importJob, cause error) {
	job.stop(cause)
	if !job.started.Swap(true) {
		ctx, end := r.untilClosed()
		defer end()
		r.finishImport(ctx, job, cause)
	}
}

// importProgress is the progress of an import. Any number of watchers can read it, each at its own
// pace.
type importProgress struct {
	mu      sync.Mutex
	version int // number of calls of observe
	tables  map[string]versionedProgress
	totals  snapshot.Totals
	changed chan struct{} // closed at the next call of observe; nil if no caller waits
}

// versionedProgress is the progress of a table, and the version at which it last changed.
type versionedProgress struct {
	snapshot.TableProgress
	version int
}

func (p *importProgress) observe(t snapshot.TableProgress, totals snapshot.Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tables == nil {
		p.tables = make(map[string]versionedProgress)
	}
	p.version++
	p.tables[t.Table], p.totals = versionedProgress{t, p.version}, totals
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// since returns the progress of the tables that have changed since the given version, in the order
// of their last changes. It also returns the totals, the current version, and a channel that is
// closed when the version changes.
func (p *importProgress) since(version int) (changes []snapshot.TableProgress, totals snapshot.Totals, now int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	for _, t := range slices.SortedFunc(maps.Values(p.tables), func(a, b versionedProgress) int { return a.version - b.version }) {
		if t.version > version {
			changes = append(changes, t.TableProgress)
		}
	}
	return changes, p.totals, p.version, p.changed
}
