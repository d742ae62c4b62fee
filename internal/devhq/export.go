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

// exportPath is the path prefix of export files. The rest of the path is <job>/<file>.
const exportPath = "/storage/exports/"

// These are the states of a table in an export job.
const (
	statusPending   = "Pending"
	statusCompleted = "Completed"
	statusFailed    = "Failed"
)

// exportJob is an export of some tables. HQ runs it in the background.
type exportJob struct {
	ID        string                 `json:"id"`
	History   string                 `json:"history"` // history of the shop at the start of the job
	Created   time.Time              `json:"created"`
	Since     int64                  `json:"since"`                // rows last changed before this time, in Unix milliseconds, are omitted
	Companies []string               `json:"companyIds,omitempty"` // none means all
	Locations []string               `json:"locationIds,omitempty"`
	Tables    map[string]exportTable `json:"tables"`
}

// exportTable is the state of one table in a job. It is immutable; record replaces it with a new
// state.
type exportTable struct {
	Status string       `json:"status"`
	Error  string       `json:"error,omitempty"`
	Cursor string       `json:"cursor,omitempty"` // time of the snapshot, in Unix nanoseconds
	Files  []exportFile `json:"files,omitempty"`
}

func (j *exportJob) completed() bool {
	for _, t := range j.Tables {
		if t.Status == statusPending {
			return false
		}
	}
	return true
}

// exportRunner runs export jobs, one at a time.
type exportRunner struct {
	store  *store
	shop   *shop.Shop
	dir    string
	limits fileLimits

	mu    sync.Mutex
	jobs  map[string]*exportJob
	queue []string // ids of the jobs to run, oldest first
	work  chan struct{}
}

// newExportRunner loads the stored jobs. Interrupted jobs continue with their pending tables. Jobs
// that are older than jobLife, or that belong to another history of the shop, are deleted.
func newExportRunner(s *store, sh *shop.Shop, dir string, limits fileLimits, now time.Time) (*exportRunner, error) {
	e := &exportRunner{store: s, shop: sh, dir: dir, limits: limits, jobs: make(map[string]*exportJob), work: make(chan struct{}, 1)}
	jobs, err := all[*exportJob](s, bucketJobs)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(jobs, func(a, b *exportJob) int { return a.Created.Compare(b.Created) })
	for _, j := range jobs {
		if now.Sub(j.Created) > jobLife || j.History != sh.History() {
			if err := e.remove(j); err != nil {
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

// start stores a new job and queues it.
func (e *exportRunner) start(j *exportJob) error {
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

// run runs the queued jobs until ctx is done. A job that is not finished by then continues at the
// next start.
func (e *exportRunner) run(ctx context.Context) error {
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

// next removes the oldest job from the queue and returns that job. If the queue is empty, it
// returns nil.
func (e *exportRunner) next() *exportJob {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil
	}
	j := e.jobs[e.queue[0]]
	e.queue = e.queue[1:]
	return j
}

// do exports all pending tables of the job from one snapshot. If a table cannot be written, the
// state of that table becomes failed. If do returns an error, HQ's own store has failed.
func (e *exportRunner) do(ctx context.Context, j *exportJob) error {
	snap, known := e.shop.Snapshot(), e.shop.Tables()
	for _, name := range e.pending(j) {
		w := tableWriter{
			dir: filepath.Join(e.dir, j.ID), table: name, schemaID: slices.Index(known, name) + 1,
			job: j.ID, clock: snap.Clock, limits: e.limits, since: j.Since,
		}
		done := exportTable{Status: statusCompleted, Cursor: strconv.FormatInt(snap.Clock.Wall, 10)}
		files, err := w.write(ctx, snap.Rows(name, j.Companies, j.Locations))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			done = exportTable{Status: statusFailed, Error: err.Error()}
		default:
			done.Files = files
		}
		if err := e.record(j, name, done); err != nil {
			return err
		}
	}
	return nil
}

func (e *exportRunner) pending(j *exportJob) []string {
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

// record durably stores the new state of a table. Clients see the new state only after it is
// stored.
func (e *exportRunner) record(j *exportJob, table string, t exportTable) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	j.Tables[table] = t
	return put(e.store, bucketJobs, j.ID, j)
}

// exportRequest is the request body that starts a job.
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
	j := &exportJob{
		ID: newID(), History: h.shop.History(), Created: time.Now().UTC(), Locations: body.LocationIDs,
		Tables: make(map[string]exportTable),
	}
	for _, name := range tables {
		if !slices.Contains(known, name) {
			return nil, httpErrorf(http.StatusBadRequest, "there is no table %q", name)
		}
		j.Tables[name] = exportTable{Status: statusPending}
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

// exportResponse is the response to a request for the state of a job.
type exportResponse struct {
	Completed bool                     `json:"completed"`
	Tables    map[string]tableResponse `json:"tables"`
}

type tableResponse struct {
	Status string   `json:"status"`
	Error  string   `json:"error"`
	URLs   []string `json:"urls"`
	Cursor string   `json:"cursor"`
}

func (h *HQ) exportStatus(r *http.Request) (any, error) {
	if _, err := h.authorize(r); err != nil {
		return nil, err
	}
	response, err := h.exports.status(r.PathValue("job"), func(job, file string) string {
		return h.keys.signedURL(h.APIURL(), http.MethodGet, exportPath+job+"/"+file, time.Now())
	})
	if errors.Is(err, errNotFound) {
		return nil, httpErrorf(http.StatusNotFound, "there is no export job %q", r.PathValue("job"))
	}
	return response, err
}

func (e *exportRunner) status(id string, url func(job, file string) string) (exportResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j, ok := e.jobs[id]
	if !ok {
		return exportResponse{}, errNotFound
	}
	response := exportResponse{Completed: j.completed(), Tables: make(map[string]tableResponse, len(j.Tables))}
	for name, t := range j.Tables {
		urls := make([]string, len(t.Files))
		for i, f := range t.Files {
			urls[i] = url(id, f.Name)
		}
		response.Tables[name] = tableResponse{Status: t.Status, Error: t.Error, URLs: urls, Cursor: t.Cursor}
	}
	return response, nil
}

// serveExport serves a file of an export, or a byte range of it.
func (h *HQ) serveExport(w http.ResponseWriter, r *http.Request) {
	if err := h.keys.checkURL(r, time.Now()); err != nil {
		h.writeError(w, r, err)
		return
	}
	if err := h.exports.serve(w, r, r.PathValue("job"), r.PathValue("file")); err != nil {
		h.writeError(w, r, err)
	}
}
