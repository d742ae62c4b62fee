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

// ImportRequest asks for an import into the destination.
type ImportRequest struct {
	ID      string // "": RequestImport chooses one
	Options snapshot.Options
	HQ      bool // HQ asked, and is answered
}

// What ends an import besides its own outcome, or keeps one from being requested.
var (
	errNoDestination    = fault.Mark(fault.Fatal, errors.New("this server has no destination yet; configure one first"))
	errUnderWay         = errors.New("an import is under way already")
	errOtherDestination = errors.New("another destination was configured")
	errCanceled         = errors.New("it was canceled")
	errStopped          = errors.New("the server stops; the import continues when it starts again")
)

// keptJobs is how many imports are kept for WatchImport.
const keptJobs = 8

// importJob is an import from its request to its end.
type importJob struct {
	ImportRequest
	destination *Destination
	ctx         context.Context // of the import, which outlives its caller
	cancel      context.CancelCauseFunc
	started     atomic.Bool // or canceled before that
	progress    progress
	done        chan struct{} // closed at the end, after which report and err stay
	report      snapshot.Report
	err         error
}

func (j *importJob) finish(err error) {
	j.err = err
	j.cancel(nil)
	close(j.done)
}

// newJob returns a job, which WatchImport finds.
func (r *Reconciler) newJob(q ImportRequest, d *Destination) *importJob {
	job := &importJob{ImportRequest: q, destination: d, done: make(chan struct{})}
	job.ctx, job.cancel = context.WithCancelCause(r.life)
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

// RequestImport requests an import, which also survives a restart, and returns its id. It
// fails if another one is under way, or there is no destination. If the import of
// ImportRequest.ID is known, it does nothing.
func (r *Reconciler) RequestImport(q ImportRequest) (id string, err error) {
	return r.requestImport(q, func(*desired) error { return nil })
}

// requestImport is RequestImport that also changes the desired state as do says. If do
// fails, no import is requested.
func (r *Reconciler) requestImport(q ImportRequest, do func(*desired) error) (id string, err error) {
	options, err := json.Marshal(q.Options)
	if err != nil {
		return "", fmt.Errorf("remember the options of an import: %w", err)
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
			return fmt.Errorf("%w: watch it with eds import --watch %s, or end it with eds import --cancel %s", errUnderWay, d.job.ID, d.job.ID)
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

// importAlone has the import under way keep the stream from being followed.
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

// WatchImport calls observe with the progress of the import until it ends, and returns
// its outcome, also of one of the last few that have ended. Observe is called for each
// table that has changed since its last call, and may take its time. If ctx ends, the
// import goes on.
func (r *Reconciler) WatchImport(ctx context.Context, id string, observe func(snapshot.Progress, snapshot.Totals)) (snapshot.Report, error) {
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
		case <-r.life.Done():
			return snapshot.Report{}, errStopped
		}
	}
}

// CancelImport ends an import; its tables keep their rows. One that has ended already
// stays as it is.
func (r *Reconciler) CancelImport(id string) error {
	job, err := r.job(id)
	if err == nil {
		r.cancelImport(job, errCanceled)
	}
	return err
}

func (r *Reconciler) cancelImport(job *importJob, cause error) {
	job.cancel(cause)
	if !job.started.Swap(true) {
		r.finishImport(job, cause)
	}
}

// progress is how far an import is, for any number of watchers, each at its own pace.
type progress struct {
	mu      sync.Mutex
	version int // counts the calls of observe
	tables  map[string]tableProgress
	totals  snapshot.Totals
	changed chan struct{} // closed at the next call; nil if no caller waits
}

type tableProgress struct {
	snapshot.Progress
	version int
}

func (p *progress) observe(t snapshot.Progress, totals snapshot.Totals) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tables == nil {
		p.tables = make(map[string]tableProgress)
	}
	p.version++
	p.tables[t.Table], p.totals = tableProgress{t, p.version}, totals
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// since returns the progress of the tables that have changed since a version, oldest
// change first, the present version, and a channel that is closed when it changes.
func (p *progress) since(version int) (changes []snapshot.Progress, totals snapshot.Totals, now int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	for _, t := range slices.SortedFunc(maps.Values(p.tables), func(a, b tableProgress) int { return a.version - b.version }) {
		if t.version > version {
			changes = append(changes, t.Progress)
		}
	}
	return changes, p.totals, p.version, p.changed
}
