package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// closeTimeout is the maximum time for closing a load.
const closeTimeout = 10 * time.Second

// tableImport is the import of one table.
type tableImport struct {
	*importRun
	table    *schema.Table
	mode     sink.LoadMode
	job      string
	export   tableExport
	source   exportSource
	dir      string
	known    map[string]state.ImportFile // loaded files, by name
	counted  map[string]bool             // known files whose rows are included in progress
	files    int                         // number of files that this run has loaded
	rows     int64                       // number of rows in place; -1 if the destination does not count them
	recorded string                      // id of the destination if it records the snapshot, else ""
	progress *tableProgress
	watch    *stallWatch
	unknown  map[string]bool
	refused  refusals
	alone    bool // set if the table has long lines: no other file is then loaded at the same time
}

func (r *importRun) newTable(job, name string, e tableExport) *tableImport {
	known := r.imp.Tables[name].Files
	if known == nil || r.imp.Tables[name].Job != job {
		known = make(map[string]state.ImportFile)
	}
	return &tableImport{
		importRun: r, table: r.tables[name], mode: r.modeOf(r.tables[name]), job: job, export: e, source: r.sources[job],
		dir:   r.workDir(job),
		known: known, counted: make(map[string]bool), progress: r.tracker.table(name), unknown: make(map[string]bool),
	}
}

// modeOf returns the mode in which a load puts the rows of a table in place. If the snapshot
// replaces only some rows, and the table has no columns that identify these rows, the load merges
// the rows.
func (r *importRun) modeOf(t *schema.Table) sink.LoadMode {
	scope := r.scope()
	if _, ok := scope.Columns(t); ok || !r.mode.Replaces() {
		return r.mode
	}
	if r.sink.Migrator != nil {
		r.cfg.Logger.Warn(
			"a table does not have the company or location of its rows; keeping rows that the snapshot lacks", "table", t.Name,
		)
	}
	return sink.Merge
}

// sinkError is an error of the sink, as opposed to an error of a file.
type sinkError struct{ error }

func (e sinkError) Unwrap() error { return e.error }

// work imports the table and records the result.
func (t *tableImport) work(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	t.watch = t.importRun.newWatch(fmt.Sprintf("table %q", t.table.Name), "begin the load")
	t.progress.setWatch(t.watch)
	defer t.watch.end()
	defer t.progress.setWatch(nil)
	err := t.importWithRetries(ctx)
	if ctx.Err() != nil && err != nil {
		return // another run continues the import of the table
	}
	kept := errors.Is(err, sink.ErrWouldEmpty)
	report := TableReport{Table: t.table.Name, Files: len(t.export.files), Kept: kept, Final: kept, Err: err}
	if err == nil {
		report.Refused, err = t.finishRefused(ctx)
		report.Err = err
	}
	for _, f := range t.export.files {
		report.Rows += t.known[f.name].Rows
		report.Bytes += t.known[f.name].Bytes
	}
	if err == nil {
		if t.rows >= 0 {
			report.Rows = t.rows
		}
		report.Clock = t.export.clock
		report.Err = t.cfg.State.FinishTable(t.cfg.Destination, state.ImportRecord{
			Table: t.table.Name, Clock: state.Clock{Timestamp: t.export.clock},
			ID: t.recorded, Job: t.job, Rows: report.Rows, ImportedAt: time.Now().UTC(), Partial: t.partial(),
		})
	}
	if report.Err != nil {
		t.fail(report, state.ImportTable{})
		return
	}
	t.setResult(report)
	t.progress.phase(Done)
}

// maxLost is the maximum number of times that a table is loaded again because its staged rows were
// lost.
const maxLost = 2

// importWithRetries imports the table, and retries transient errors of the destination until they
// have lasted for Config.Patience. That time starts with the first failure after progress.
func (t *tableImport) importWithRetries(ctx context.Context) error {
	if before := t.imp.Tables[t.table.Name].Job; before != "" && before != t.job {
		t.discardTable(ctx, t.table.Name, before)
	}
	if err := t.cfg.State.RecordTable(t.table.Name, state.ImportTable{Job: t.job}); err != nil {
		return err
	}
	backoff := t.cfg.Retry
	var failing time.Time // time of the first failure after progress
	for lost := 0; ; {
		files := t.files
		err := t.attempt(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, errLongLine) {
			t.alone = true
			continue
		}
		if t.files > files {
			failing = time.Time{}
			backoff.Reset()
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		t.watch.failed(err)
		wait := backoff.Next(err)
		narrow := new(sink.NarrowLoadError)
		switch {
		case errors.As(err, &narrow): // the table gains columns each time, so this ends
			t.table, failing = narrow.Table, time.Now()
		case errors.Is(err, sink.ErrLoadLost):
			lost++
		case !errors.As(err, new(sinkError)) || fault.Of(err) != fault.Transient:
			return err
		}
		if lost > maxLost || time.Since(failing)+wait > t.cfg.Patience {
			return err
		}
		t.cfg.Logger.WarnContext(ctx, "loading a table was interrupted; continuing it", "table", t.table.Name, "wait", wait, "error", err)
		if err := retry.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// attempt loads the files that the destination has not loaded yet, and puts the loaded rows in
// place.
func (t *tableImport) attempt(ctx context.Context) (err error) {
	t.progress.phase(Loading)
	t.refused = refusals{}
	t.watch.doing("begin the load")
	load, err := t.cfg.Sink.BeginLoad(ctx, t.job, t.table, t.mode, t.scope())
	if err != nil {
		return sinkError{fmt.Errorf("begin the load: %w", err)}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if closing := load.Close(ctx); closing != nil && err != nil {
			t.cfg.Logger.WarnContext(ctx, "a load could not be closed", "table", t.table.Name, "error", closing)
		}
	}()
	t.recorded = t.record(load, cdc.Position{})
	if r, ok := load.(sink.Resumer); ok {
		r.Resume(slices.Collect(maps.Keys(t.known)))
	}
	for file := range t.known {
		if !load.Loaded(file) {
			t.forget(file)
		}
	}
	if err := t.loadFiles(ctx, load); err != nil {
		return err
	}
	t.progress.phase(Finishing)
	done, err := t.bringForward(ctx, load)
	if err != nil {
		return t.finishError(ctx, load, err)
	}
	defer done()
	return t.finish(ctx, load)
}

// bringForward applies later changes to the loaded rows, if the load replaces the whole table and
// Config.BringForward is set. The caller must call done after the load has ended.
func (t *tableImport) bringForward(ctx context.Context, load sink.Load) (done func(), err error) {
	scope := t.scope()
	advancer, ok := load.(sink.Advancer)
	if t.cfg.BringForward == nil || t.recorded == "" || !ok || !t.mode.Replaces() || !scope.All() {
		return func() {}, nil
	}
	if err := t.retry(ctx, "seal the load", func() error { return advancer.Seal(ctx) }); err != nil {
		return nil, err
	}
	t.watch.doing("bring the loaded rows forward")
	applied, done, err := t.cfg.BringForward(ctx, t.table, t.export.clock, watchedAdvancer{advancer, t.watch})
	if err != nil {
		return nil, fmt.Errorf("bring the loaded rows forward: %w", err)
	}
	t.record(load, applied)
	return done, nil
}

// retry is like importRun.retry, but uses the watch of the table.
func (t *tableImport) retry(ctx context.Context, operation string, f func() error) error {
	return t.retryWatched(ctx, t.watch, operation, f)
}

// watchedAdvancer reports each advance of a load to a watch.
type watchedAdvancer struct {
	sink.Advancer
	watch *stallWatch
}

func (a watchedAdvancer) Advance(ctx context.Context, b *change.Batch) error {
	err := a.Advancer.Advance(ctx, b)
	if err != nil {
		a.watch.failed(fmt.Errorf("bring the loaded rows forward: %w", err))
	} else {
		a.watch.progress()
	}
	return err
}

// forget removes a file from the loaded files and from the progress, because the destination no
// longer has the file's rows.
func (t *tableImport) forget(file string) {
	if t.counted[file] {
		t.progress.addRows(-t.known[file].Rows, -t.known[file].Bytes)
	}
	delete(t.known, file)
	delete(t.counted, file)
}

// finish puts the loaded rows in place. If the destination fails, finish retries, although the
// failed call may have put the rows in place.
func (t *tableImport) finish(ctx context.Context, load sink.Load) error {
	err := t.retry(ctx, "put the table in place", func() (err error) {
		t.rows, err = load.Finish(ctx)
		return err
	})
	return t.finishError(ctx, load, err)
}

// finishError returns the error for a failure to finish a load, or nil if err is nil. If the
// failure is that the load has no rows, finishError discards the load, and the table keeps its
// rows.
func (t *tableImport) finishError(ctx context.Context, load sink.Load, err error) error {
	if !errors.Is(err, sink.ErrWouldEmpty) {
		if err != nil {
			err = sinkError{err}
		}
		return err
	}
	if failed := load.Discard(ctx); failed != nil {
		return sinkError{fmt.Errorf("discard a load without rows: %w", failed)}
	}
	if t.refused.total > 0 {
		return fmt.Errorf("all rows of the snapshot were refused, so the table keeps its rows; see: eds dlq list --table %s", t.table.Name)
	}
	return fmt.Errorf("%w; they are kept; to empty the table, run: eds import --only %s --allow-empty", sink.ErrWouldEmpty, t.table.Name)
}
