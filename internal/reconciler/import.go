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

// startImport starts the job unless it was started already. It goes on until it ends or
// the Reconciler is closed, over any number of sessions.
func (r *run) startImport(job *importJob, beside bool) {
	if job.started.Swap(true) {
		return
	}
	if !beside {
		r.closeDestination()
	}
	r.Health.Ready()
	r.imports.Go(func() { r.runImport(job) })
}

// runImport runs the job. If the Reconciler is closed meanwhile, the job stays requested:
// the next process resumes it.
func (r *run) runImport(job *importJob) {
	observe := r.observe()
	report, err := r.importSnapshot(job.ctx, job.destination, job.ImportRequest, func(p snapshot.Progress, t snapshot.Totals) {
		job.progress.observe(p, t)
		observe(p, t)
	})
	r.setProgress("")
	if err != nil && r.life.Err() != nil {
		r.Logger.Info("the requested import is interrupted; it continues when this server starts again")
		return
	}
	job.report = report
	r.finishImport(job, err)
}

// finishImport records the outcome of the job. One that filled the destination closes a
// gap, and is not needed again.
func (r *Reconciler) finishImport(job *importJob, err error) {
	failed := new(snapshot.TablesError)
	filled := err == nil || errors.As(err, &failed) && failed.Final()
	o := job.Options
	if filled = filled && !o.DryRun && !o.ValidateOnly; filled {
		r.Health.Set("stream", nil)
	}
	switch {
	case err != nil && errors.Is(context.Cause(job.ctx), errCanceled):
		r.Logger.Info("the requested import was canceled; the tables that it had not put in place keep their rows", "id", job.ID)
	case err != nil:
		r.Logger.Error("the requested import failed; the tables keep their rows", "id", job.ID, "error", err)
	default:
		r.Logger.Info("the requested import is done", "id", job.ID)
	}
	recorded := r.retry(r.life, "state", func() error {
		return r.desired.change(func(d *desired) error {
			d.finish(job, err)
			if filled {
				d.filled++
				if len(o.Only) == 0 {
					d.fill(job.destination)
				}
			}
			return r.noteUnobtainable(job)
		})
	})
	if recorded != nil {
		r.Logger.Error("the outcome of the import is not recorded; the next start resumes it", "error", recorded)
	}
	job.finish(err)
}

// startImports starts the imports that are requested while the stream is followed, until
// ctx ends.
func (r *run) startImports(ctx context.Context) {
	for ctx.Err() == nil {
		desired, changed := r.desired.now()
		if desired.job != nil && desired.beside() {
			r.startImport(desired.job, true)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// importSnapshot copies a snapshot into d. If the stream is followed meanwhile, that
// notices each table that is put in place, and leaves it to a lane.
func (r *run) importSnapshot(ctx context.Context, d *Destination, request ImportRequest, observe snapshot.Observer) (report snapshot.Report, err error) {
	began := time.Now()
	env, err := r.identified(d)
	if err != nil {
		return report, err
	}
	env.Filter = joined(r.Filters)
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
			options.CompanyIDs, err = r.limited(ctx, destination)
			return err
		})
		if err != nil {
			return report, err
		}
	}
	r.Logger.Info("importing, as requested", "id", request.ID, "byHQ", request.HQ, "only", options.Only, "schemaOnly", options.SchemaOnly, "destination", d.Masked, "onlyCompanies", options.CompanyIDs)
	report, err = snapshot.Run(ctx, snapshot.Config{
		HQ: r.HQ, Schemas: r.Tables, Sink: destination, State: r.State, Dead: r.Dead, Destination: d.Destination, ID: env.ID,
		Logger: r.Logger, Present: r.HQ.Present, Observe: observe, Options: options, BringForward: r.bringForward, Stalled: stalls(r.Health),
	})
	if failed := new(snapshot.TablesError); errors.As(err, &failed) {
		return report, failed
	}
	if err != nil {
		return report, err
	}
	r.Logger.Info("imported", "tables", len(report.Tables), "rows", report.Rows, "refused", report.Refused, "took", report.Elapsed.Round(time.Millisecond))
	return report, r.coverOthers(d, began)
}

// coverOthers records that tables of which nothing is recorded lack nothing, if an import
// that began at the given time has replaced the rows of every table of the source: those
// have left it. While the stream is followed, it begins again after each table, and may have
// done so for the last one before the import was known to be of all.
func (r *run) coverOthers(d *Destination, began time.Time) error {
	set := r.currentTables()
	if set == nil {
		return nil
	}
	snapshots, err := r.State.Snapshots(d.Destination)
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

// conditionImport is the condition of health that the destination works for an import.
const conditionImport = "import"

// stalls returns what warns, in health, of the parts of an import that make no progress. It
// is safe for concurrent use.
func stalls(health *telemetry.Health) func(what, reason string) {
	var mu sync.Mutex
	reasons := make(map[string]string) // by part
	return func(what, reason string) {
		mu.Lock()
		defer mu.Unlock()
		if reasons[what] = reason; reason == "" {
			delete(reasons, what)
		}
		health.Warn(conditionImport, strings.Join(slices.Sorted(maps.Values(reasons)), "; "))
	}
}

// limited returns the companies whose rows an import replaces, if the destination may
// hold rows of others; nil if all of its rows are replaced.
func (r *run) limited(ctx context.Context, destination *sink.Opened) ([]string, error) {
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
		return nil, fmt.Errorf("find out whose rows the destination holds: %w", err)
	}
	for _, subject := range strings.Fields(joined(others)) {
		if !slices.Contains(r.Filters, subject) {
			return companies(r.Filters), nil
		}
	}
	return nil, nil
}

// progressInterval is how often the log reports an import's progress.
const progressInterval = 5 * time.Second

// observe returns an observer that keeps the progress for heartbeats and logs it.
func (r *Reconciler) observe() snapshot.Observer {
	var logged time.Time
	return func(_ snapshot.Progress, t snapshot.Totals) {
		r.setProgress(fmt.Sprintf("%d of %d tables, %d rows", t.Done, t.Tables, t.Rows))
		if now := time.Now(); now.Sub(logged) >= progressInterval {
			logged = now
			r.Logger.Info("importing", "tables", t.Done, "of", t.Tables, "failed", t.Failed, "rows", t.Rows, "bytes", t.Bytes, "ofBytes", t.TotalBytes)
		}
	}
}

// Progress returns the progress of the import under way; "" if there is none.
func (r *Reconciler) Progress() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// ImportID returns the id of the import that is requested; "" if there is none.
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
