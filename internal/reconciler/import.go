package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// startImport starts the job, unless the job has already been started. The import continues over
// any number of HQ sessions, until it ends or the Reconciler is closed.
func (r *follower) startImport(job *importJob, beside bool) {
	if job.started.Swap(true) {
		return
	}
	if !beside {
		r.closeDestination()
	}
	r.Health.Ready()
	r.imports.Go(func() { r.runImport(job) })
}

// startImports starts imports that are requested while the stream is followed. It returns when ctx
// ends.
func (r *follower) startImports(ctx context.Context) {
	for ctx.Err() == nil {
		desired, changed := r.desired.now()
		if desired.job != nil && desired.beside() {
			r.startImport(desired.job, true)
		}
		awaitChange(ctx, changed, time.Time{})
	}
}

// runImport runs the job. If the Reconciler is closed before the job ends, the job remains
// requested, and the next process resumes the import.
func (r *follower) runImport(job *importJob) {
	ctx, end := r.untilClosed()
	defer end()
	observe := r.observe()
	report, err := r.importSnapshot(job.begin(ctx), job.destination, job.ImportRequest, func(p snapshot.TableProgress, t snapshot.Totals) {
		job.progress.observe(p, t)
		observe(p, t)
	})
	r.setProgress("")
	if err != nil && ctx.Err() != nil {
		r.Logger.Info("the requested import is interrupted; it continues when this server starts again")
		return
	}
	job.report = report
	r.finishImport(ctx, job, err)
}

// finishImport records the outcome of the job. If the write fails, finishImport retries it until
// ctx ends. An import that has filled the destination has also closed any gap, so HQ need not
// request another import.
func (r *Reconciler) finishImport(ctx context.Context, job *importJob, err error) {
	failed := new(snapshot.TablesError)
	filled := err == nil || errors.As(err, &failed) && failed.Final()
	o := job.Options
	if filled = filled && !o.DryRun && !o.ValidateOnly; filled {
		r.Health.Set("stream", nil)
	}
	switch {
	case err != nil && job.isCanceled():
		r.Logger.Info("the requested import was canceled; tables that it had not put in place keep their rows", "id", job.ID)
	case err != nil:
		r.Logger.Error("the requested import failed; the tables keep their rows", "id", job.ID, "error", err)
	default:
		r.Logger.Info("the requested import is done", "id", job.ID)
	}
	recorded := r.retry(ctx, "state", func() error {
		return r.desired.change(func(d *desired) error {
			d.finish(job, err)
			if filled {
				d.filled++
				if len(o.Only) == 0 {
					d.fill(job.destination)
				}
			}
			return r.recordUnobtainable(job)
		})
	})
	if recorded != nil {
		r.Logger.Error("the outcome of the import is not recorded; the next start resumes it", "error", recorded)
	}
	job.finish(err)
}

// importSnapshot copies a snapshot into d. A pipeline that follows the stream at the same time
// notices each table whose rows were replaced, and leaves that table to a lane.
func (r *follower) importSnapshot(
	ctx context.Context, d *Destination, request ImportRequest, observe snapshot.Observer,
) (report snapshot.Report, err error) {
	began := time.Now()
	env, err := r.envWithIdentity(d)
	if err != nil {
		return report, err
	}
	env.Filter = joinFilters(r.Filters)
	if env.Access, err = r.access(d, conditionImport); err != nil {
		return report, err
	}
	defer r.Health.Set(conditionImport, nil)
	var destination *sink.Opened
	err = r.retry(ctx, conditionImport, func() (err error) {
		destination, err = d.open(ctx, env)
		return err
	})
	if err != nil {
		return report, fmt.Errorf("open the destination %s: %w", d.Masked, err)
	}
	defer r.closeSink(ctx, destination)
	options := request.Options
	if len(options.CompanyIDs) == 0 {
		err = r.retry(ctx, conditionImport, func() (err error) {
			options.CompanyIDs, err = r.companiesToReplace(ctx, destination)
			return err
		})
		if err != nil {
			return report, err
		}
	}
	r.Logger.Info("importing, as requested", "id", request.ID, "byHQ", request.HQ, "only", options.Only,
		"schemaOnly", options.SchemaOnly, "destination", d.Masked, "onlyCompanies", options.CompanyIDs)
	report, err = snapshot.Run(ctx, snapshot.Config{
		HQ: r.HQ, Schemas: r.Tables, Sink: destination, State: r.State, Dead: r.Dead, Destination: d.DestinationKey, ID: env.ID,
		Logger: r.Logger, Present: r.HQ.Present, Observe: observe, Options: options, BringForward: r.bringForward,
		Stalled: stalls(r.Health),
	})
	if failed := new(snapshot.TablesError); errors.As(err, &failed) {
		return report, failed
	}
	if err != nil {
		return report, err
	}
	r.Logger.Info("imported", "tables", len(report.Tables), "rows", report.Rows, "refused", report.Refused,
		"took", report.Elapsed.Round(time.Millisecond))
	return report, r.coverOthers(d, began)
}

// coverOthers records that tables without a record lack nothing. It does so only if an import has
// replaced all rows of every table of the source, because the source then no longer has the tables
// without a record. The parameter began is the start time of the import. The call is needed because
// a running pipeline restarts after each imported table: for the last table, the pipeline may have
// restarted before eds recorded that the import covers all tables.
func (r *Reconciler) coverOthers(d *Destination, began time.Time) error {
	set := r.currentTables()
	if set == nil {
		return nil
	}
	snapshots, err := r.State.Snapshots(d.DestinationKey)
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if s.Whole && !s.Partial && s.ImportedAt.After(began) {
			set.CoverOthers(earlier(cdc.At(began), s.Clock.Timestamp).Time())
			return nil
		}
	}
	return nil
}

// conditionImport is the name of the health condition for the destination of an import.
const conditionImport = "import"

// stalls returns a function that sets the health warnings for parts of an import that make no
// progress. The reason "" ends the warning for a part. The function is safe for concurrent use.
func stalls(health *telemetry.Health) func(part, reason string) {
	var mu sync.Mutex
	reasons := make(map[string]string) // by part
	return func(part, reason string) {
		mu.Lock()
		defer mu.Unlock()
		if reasons[part] = reason; reason == "" {
			delete(reasons, part)
		}
		health.Warn(conditionImport, strings.Join(slices.Sorted(maps.Values(reasons)), "; "))
	}
}

// companiesToReplace returns the companies whose rows an import replaces, or nil if the import
// replaces all rows of the destination. It returns companies only if the destination may hold rows
// of other companies.
func (r *follower) companiesToReplace(ctx context.Context, destination *sink.Opened) ([]string, error) {
	if slices.Contains(r.Filters, Subjects([]string{AllCompanies})[0]) {
		return nil, nil
	}
	if ids := r.Options.CompanyIDs; len(ids) > 0 && !slices.Contains(ids, AllCompanies) {
		return companies(r.Filters), nil
	}
	if destination.FilterReader == nil {
		return nil, nil
	}
	others, err := destination.FilterReader.OtherFilters(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the companies whose rows the destination holds: %w", err)
	}
	for _, subject := range strings.Fields(joinFilters(others)) {
		if !slices.Contains(r.Filters, subject) {
			return companies(r.Filters), nil
		}
	}
	return nil, nil
}

// progressInterval is the time between two log lines about an import's progress.
const progressInterval = 5 * time.Second

// observe returns an observer that logs the progress of an import, and stores it for heartbeats.
func (r *Reconciler) observe() snapshot.Observer {
	var logged time.Time
	return func(_ snapshot.TableProgress, t snapshot.Totals) {
		r.setProgress(fmt.Sprintf("%d of %d tables, %d rows", t.Done, t.Tables, t.Rows))
		if now := time.Now(); now.Sub(logged) >= progressInterval {
			logged = now
			r.Logger.Info("importing", "tables", t.Done, "of", t.Tables, "failed", t.Failed, "rows", t.Rows,
				"bytes", t.Bytes, "ofBytes", t.TotalBytes)
		}
	}
}

// Progress returns the progress of the running import, or "" if none is running.
func (r *Reconciler) Progress() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// ImportID returns the id of the requested import, or "" if there is none.
func (r *Reconciler) ImportID() string {
	if now, _ := r.desired.now(); now.job != nil {
		return now.job.ID
	}
	return ""
}

func (r *Reconciler) setProgress(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = text
}
