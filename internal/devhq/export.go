package devhq

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// exportPath is where export files are: the rest of the path is <job>/<file>.
const exportPath = "/storage/exports/"

// The states of a table in an export job.
const (
	statusPending   = "Pending"
	statusCompleted = "Completed"
	statusFailed    = "Failed"
)

// job is an export job.
type job struct {
	ID        string              `json:"id"`
	History   string              `json:"history"` // of the shop
	Created   time.Time           `json:"created"`
	Since     int64               `json:"since"`                // rows changed before are left out, unix ms
	Companies []string            `json:"companyIds,omitempty"` // none means all
	Locations []string            `json:"locationIds,omitempty"`
	Tables    map[string]jobTable `json:"tables"`
}

// jobTable is one table of a job. It is a value: a new state replaces the old.
type jobTable struct {
	Status string       `json:"status"`
	Error  string       `json:"error,omitempty"`
	Cursor string       `json:"cursor,omitempty"` // of the snapshot, unix nanoseconds
	Files  []exportFile `json:"files,omitempty"`
}

func (j *job) completed() bool {
	for _, t := range j.Tables {
		if t.Status == statusPending {
			return false
		}
	}
	return true
}

// exporter runs export jobs, one at a time.
type exporter struct {
	store  *store
	shop   *shop.Shop
	dir    string
	limits fileLimits

	mu    sync.Mutex
	jobs  map[string]*job
	queue []string // ids of jobs that are not completed, in order
	work  chan struct{}
}

// newExporter loads the jobs. Interrupted ones continue with their pending tables. Jobs older than
// jobLife and those of another history of the shop are deleted.
func newExporter(s *store, sh *shop.Shop, dir string, limits fileLimits, now time.Time) (*exporter, error) {
	e := &exporter{store: s, shop: sh, dir: dir, limits: limits, jobs: make(map[string]*job), work: make(chan struct{}, 1)}
	jobs, err := all[*job](s, bucketJobs)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(jobs, func(a, b *job) int { return a.Created.Compare(b.Created) })
	for _, j := range jobs {
		if now.Sub(j.Created) > jobLife || j.History != sh.History() {
			if err := e.forget(j); err != nil {
				return nil, err
			}
			continue
		}
		e.jobs[j.ID] = j
		if !j.completed() {
			e.queue = append(e.queue, j.ID)
		}
	}
	give(e.work)
	return e, nil
}

// start records a job, which run then does.
func (e *exporter) start(j *job) error {
	if err := put(e.store, bucketJobs, j.ID, j); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.jobs[j.ID] = j
	e.queue = append(e.queue, j.ID)
	give(e.work)
	return nil
}

// run does the jobs until ctx is done. What it could not finish by then is
// still to be done.
func (e *exporter) run(ctx context.Context) error {
	for {
		j := e.next()
		if j == nil {
			select {
			case <-e.work:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := e.do(ctx, j); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// next takes the oldest job off the queue.
func (e *exporter) next() *job {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil
	}
	j := e.jobs[e.queue[0]]
	e.queue = e.queue[1:]
	return j
}

// do exports every table of the job that is pending, all from one snapshot. A
// table that can't be written fails; an error is one of HQ's own store.
func (e *exporter) do(ctx context.Context, j *job) error {
	snap, known := e.shop.Snapshot(), e.shop.Tables()
	for _, name := range e.pending(j) {
		w := tableWriter{
			dir: filepath.Join(e.dir, j.ID), table: name, schemaID: slices.Index(known, name) + 1,
			job: j.ID, clock: snap.Clock, limits: e.limits, since: j.Since,
		}
		done := jobTable{Status: statusCompleted, Cursor: strconv.FormatInt(snap.Clock.Wall, 10)}
		files, err := w.write(ctx, snap.Rows(name, j.Companies, j.Locations))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			done = jobTable{Status: statusFailed, Error: err.Error()}
		default:
			done.Files = files
		}
		if err := e.record(j, name, done); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) pending(j *job) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for name, t := range j.Tables {
		if t.Status == statusPending {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// record stores what became of a table before anybody can see it.
func (e *exporter) record(j *job, table string, t jobTable) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	j.Tables[table] = t
	return put(e.store, bucketJobs, j.ID, j)
}

// exportRequest is the body of the call that starts a job.
type exportRequest struct {
	TimeOffset  *int64   `json:"timeOffset"`
	CompanyIDs  []string `json:"companyIds"`
	LocationIDs []string `json:"locationIds"`
	Tables      []string `json:"tables"`
}

func (h *HQ) startExport(r *http.Request) (any, error) {
	claims, err := h.authorize(r)
	if err != nil {
		return nil, err
	}
	var body exportRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	known := h.shop.Tables()
	tables := body.Tables
	if len(tables) == 0 {
		tables = known
	}
	j := &job{
		ID: newID(), History: h.shop.History(), Created: time.Now().UTC(), Locations: body.LocationIDs,
		Tables: make(map[string]jobTable),
	}
	for _, name := range tables {
		if !slices.Contains(known, name) {
			return nil, refuse(http.StatusBadRequest, "there is no table %q", name)
		}
		j.Tables[name] = jobTable{Status: statusPending}
	}
	if len(body.CompanyIDs) > 0 || len(claims.Companies) > 0 {
		if j.Companies, err = h.permitted(claims, body.CompanyIDs); err != nil {
			return nil, err
		}
	}
	if body.TimeOffset != nil {
		j.Since = *body.TimeOffset
	}
	if err := h.exports.start(j); err != nil {
		return nil, err
	}
	h.logger.Info("an export started", "jobId", j.ID, "tables", len(tables))
	return struct {
		JobID string `json:"jobId"`
	}{j.ID}, nil
}

// exportAnswer is what a poll of a job gets.
type exportAnswer struct {
	Completed bool                   `json:"completed"`
	Tables    map[string]tableAnswer `json:"tables"`
}

type tableAnswer struct {
	Status string   `json:"status"`
	Error  string   `json:"error"`
	URLs   []string `json:"urls"`
	Cursor string   `json:"cursor"`
}

func (h *HQ) exportStatus(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	answer, err := h.exports.status(r.PathValue("job"), func(job, file string) string {
		return h.keys.signedURL(h.APIURL(), http.MethodGet, exportPath+job+"/"+file, time.Now())
	})
	if errors.Is(err, errNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no export job %q", r.PathValue("job"))
	}
	return answer, err
}

func (e *exporter) status(id string, url func(job, file string) string) (exportAnswer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j, ok := e.jobs[id]
	if !ok {
		return exportAnswer{}, errNotFound
	}
	answer := exportAnswer{Completed: j.completed(), Tables: make(map[string]tableAnswer, len(j.Tables))}
	for name, t := range j.Tables {
		urls := make([]string, len(t.Files))
		for i, f := range t.Files {
			urls[i] = url(id, f.Name)
		}
		answer.Tables[name] = tableAnswer{Status: t.Status, Error: t.Error, URLs: urls, Cursor: t.Cursor}
	}
	return answer, nil
}

// serveExport answers with a file, or the ranges of it that were asked for.
func (h *HQ) serveExport(w http.ResponseWriter, r *http.Request) {
	if err := h.keys.checkURL(r, time.Now()); err != nil {
		h.refuse(w, r, err)
		return
	}
	if err := h.exports.serve(w, r, r.PathValue("job"), r.PathValue("file")); err != nil {
		h.refuse(w, r, err)
	}
}
