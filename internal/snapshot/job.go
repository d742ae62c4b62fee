package snapshot

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// execute runs the confirmed plan.
func (r *importRun) execute(ctx context.Context) error {
	if err := r.checkDownloads(); err != nil {
		return err
	}
	if err := r.readRecords(ctx); err != nil {
		return err
	}
	if err := r.reloadLost(ctx); err != nil {
		return err
	}
	r.tracker.expect(r.wanted...)
	for _, name := range r.wanted {
		if t := r.imp.Tables[name]; t.Done {
			r.setResult(TableReport{
				Table: name, Rows: t.Rows, Refused: r.countRefused(name, t.Job), Clock: t.Clock.Timestamp, Earlier: true,
			})
			r.tracker.table(name).phase(Done)
		}
	}
	if err := r.makeTables(ctx); err != nil {
		return err
	}
	for name, err := range r.refused {
		r.fail(TableReport{Table: name, Err: err}, state.ImportTable{})
	}
	for _, t := range r.reserved {
		r.fail(t, state.ImportTable{})
	}
	if r.previous != nil {
		r.discard(ctx, r.previous)
	}
	if !r.resumed {
		if err := r.cfg.State.BeginImport(r.imp); err != nil {
			return err
		}
	}
	if err := r.startJobs(ctx); err != nil {
		return err
	}
	for i := range r.imp.Jobs {
		if err := r.runJob(ctx, i); err != nil {
			return err
		}
	}
	return r.finishImport(ctx)
}

// checkDownloads checks that the download directory is writable. It runs before the import changes
// the destination or requests an export from HQ.
func (r *importRun) checkDownloads() error {
	if r.cfg.Dir != "" {
		return nil
	}
	dir := r.cfg.DownloadDir
	if dir == "" {
		dir = r.cfg.State.Path("import")
	}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = tryWrite(dir)
	}
	if err != nil {
		err = fmt.Errorf(
			"check that files can be downloaded into %s: %w; free some space there, or name another directory with --download-dir",
			dir, err)
		return fault.Mark(fault.Fatal, err)
	}
	return nil
}

// tryWrite writes a small file in the directory, and removes the file again.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".eds-probe-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 64<<10))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}

// startJobs requests the exports from HQ that have not been started yet and that have unfinished
// tables.
func (r *importRun) startJobs(ctx context.Context) error {
	for i := range r.imp.Jobs {
		job := &r.imp.Jobs[i]
		if job.ID != "" || len(r.tablesOfJob(i)) == 0 {
			continue
		}
		request := hq.ExportRequest{
			TimeOffset: r.timeOffset(), CompanyIDs: r.cfg.CompanyIDs, LocationIDs: r.cfg.LocationIDs, Tables: job.Tables,
		}
		if request.Tables == nil && len(r.cfg.Only) > 0 {
			request.Tables = r.wanted
		}
		err := r.retry(ctx, "start an export", func() (err error) {
			job.ID, err = r.cfg.HQ.StartExport(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
		job.Started = time.Now().UTC()
		r.sources[job.ID] = &jobSource{hq: r.cfg.HQ, id: job.ID}
		if err := r.cfg.State.RecordJobs(r.imp.Jobs); err != nil {
			return err
		}
		r.cfg.Logger.InfoContext(ctx, "hq has started an export", "job", job.ID)
	}
	return nil
}

// tablesOfJob returns the names of the unfinished tables of job i.
func (r *importRun) tablesOfJob(i int) []string {
	return slices.DeleteFunc(r.unfinished(), func(name string) bool { return r.jobIndexOf(name) != i })
}

// discard removes the staged rows and files of the import i, which is not continued. If staged rows
// cannot be removed, they only take up space, so discard just logs the error.
func (r *importRun) discard(ctx context.Context, i *state.Import) {
	for name, t := range i.Tables {
		if t.Done || r.tables[name] == nil || !r.cfg.Destination.Owns(i.Identity, i.Destination) {
			continue
		}
		r.discardTable(ctx, name, t.Job)
	}
	for _, job := range i.Jobs {
		if dir := r.cfg.State.Path("import", "job-"+url.PathEscape(job.ID)); job.ID != "" && dir != r.workDir(r.imp.Jobs[0].ID) {
			if err := os.RemoveAll(dir); err != nil {
				r.cfg.Logger.WarnContext(ctx, "files of an earlier import could not be removed", "dir", dir, "error", err)
			}
		}
	}
}

// discardTable removes the rows that an earlier job has staged for a table.
func (r *importRun) discardTable(ctx context.Context, name, job string) {
	load, err := r.cfg.Sink.BeginLoad(ctx, job, r.tables[name], sink.Merge, sink.Scope{})
	if err == nil {
		err = errors.Join(load.Discard(ctx), load.Close(ctx))
	}
	if err != nil {
		r.cfg.Logger.WarnContext(ctx, "the staged rows of an earlier import could not be removed", "table", name, "error", err)
	}
}

// runJob imports the unfinished tables of job i. It loads each table as soon as the table's export
// is ready.
func (r *importRun) runJob(ctx context.Context, i int) error {
	tables := r.tablesOfJob(i)
	if len(tables) == 0 {
		return nil
	}
	job := r.imp.Jobs[i].ID
	if r.cfg.Dir == "" {
		if err := os.MkdirAll(r.workDir(job), 0o700); err != nil {
			return fmt.Errorf("make the directory for downloads: %w", err)
		}
	}
	ready := make(chan *tableImport, len(tables))
	var workers sync.WaitGroup
	for range min(r.cfg.Parallel, len(tables)) {
		workers.Go(func() {
			for t := range ready {
				t.work(ctx)
			}
		})
	}
	err := r.followExport(ctx, job, tables, ready)
	close(ready)
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// followExport polls the export until the export is complete, and sends each table that is ready to
// the workers.
func (r *importRun) followExport(ctx context.Context, job string, tables []string, ready chan<- *tableImport) error {
	src, backoff, handedOver := r.sources[job], r.cfg.Poll, make(map[string]bool)
	if err := r.writeJobManifest(job, src.last()); err != nil {
		return err
	}
	for {
		var now exportProgress
		if err := r.retry(ctx, "follow the export", func() (err error) {
			now, err = src.poll(ctx)
			return err
		}); err != nil {
			return err
		}
		if r.handOver(job, now, tables, handedOver, ready) > 0 {
			backoff.Reset()
		}
		if now.complete {
			r.failMissing(ctx, now, tables)
			return r.writeJobManifest(job, now)
		}
		if err := retry.Sleep(ctx, backoff.Next(nil)); err != nil {
			return err
		}
	}
}

// writeJobManifest records in the download directory which job the downloads belong to.
func (r *importRun) writeJobManifest(job string, e exportProgress) error {
	if r.cfg.Dir != "" {
		return nil
	}
	if err := writeManifest(r.workDir(job), job, e); err != nil {
		return fmt.Errorf("record the job of the downloads: %w", err)
	}
	return nil
}

// handOver sends the tables that are newly ready to the workers, starting with the tables that have
// the most files. It fails the tables that HQ could not export. It returns the number of tables
// that it has sent or failed.
func (r *importRun) handOver(job string, now exportProgress, tables []string, handedOver map[string]bool, ready chan<- *tableImport) int {
	var found []*tableImport
	changed := 0
	for name, t := range now.tables {
		switch {
		case handedOver[name] || !t.ready && t.err == nil:
			continue
		case !slices.Contains(tables, name):
			if r.tables[name] == nil && len(r.cfg.Only) == 0 {
				r.fail(TableReport{Table: name, Err: errors.New("the export has the table, but the schema does not")}, state.ImportTable{})
			}
		case t.err != nil:
			r.fail(TableReport{Table: name, Err: t.err}, state.ImportTable{Job: job, ExportFailed: true})
		default:
			found = append(found, r.newTable(job, name, t))
		}
		handedOver[name] = true
		changed++
	}
	slices.SortFunc(found, func(a, b *tableImport) int {
		if n := len(b.export.files) - len(a.export.files); n != 0 {
			return n
		}
		return strings.Compare(a.table.Name, b.table.Name)
	})
	for _, t := range found {
		t.progress.expect(len(t.export.files))
		t.progress.phase(Queued)
		ready <- t // never blocks: the channel's capacity is the number of tables
	}
	return changed
}

// fail records t as the result of a table that was not imported. The parameter at is the table's
// progress. Unless at is the zero value, fail stores the progress in the data directory.
func (r *importRun) fail(t TableReport, at state.ImportTable) {
	if at.Job != "" {
		if err := r.cfg.State.RecordTable(t.Table, at); err != nil {
			t.Err = errors.Join(t.Err, err)
		}
	}
	r.setResult(t)
	r.tracker.table(t.Table).fail(t.Err)
}

// ErrNotExported reports that the complete export lacks a requested table, because HQ has no rows
// of that table.
var ErrNotExported = errors.New("the export does not have it")

// failMissing records the results of tables that a complete export lacks. Tables that were
// requested by name fail. HQ has no rows of the other tables, so they are recorded as absent.
func (r *importRun) failMissing(ctx context.Context, now exportProgress, tables []string) {
	for _, name := range tables {
		if _, ok := now.tables[name]; ok {
			continue
		}
		if len(r.cfg.Only) > 0 {
			r.fail(TableReport{Table: name, Err: ErrNotExported}, state.ImportTable{})
			continue
		}
		r.cfg.Logger.WarnContext(ctx, "the export does not have a table of the schema; the table is not changed", "table", name)
		r.setResult(TableReport{Table: name, Absent: true})
		r.tracker.table(name).phase(Done)
	}
}

// finishImport removes the record of the import, unless another run could import more tables. If
// tables have failed, it returns a *TablesError.
func (r *importRun) finishImport(ctx context.Context) error {
	var failed []TableReport
	var imported []string
	whole := len(r.cfg.Only) == 0 && r.mode != sink.Merge && len(r.cfg.LocationIDs) == 0
	r.mu.Lock()
	for _, t := range r.results {
		switch {
		case errors.Is(t.Err, schema.ErrReserved): // no destination can have this table
			failed = append(failed, t)
		case t.Err != nil:
			whole = false
			failed = append(failed, t)
		case !t.Absent:
			imported = append(imported, t.Table)
		}
	}
	total := len(r.results)
	r.mu.Unlock()
	finish := r.cfg.State.FinishImport
	if whole {
		finish = func() error { return r.finishWhole(ctx, imported) }
	}
	if len(failed) == 0 {
		return r.cleanUp(finish)
	}
	slices.SortFunc(failed, func(a, b TableReport) int { return strings.Compare(a.Table, b.Table) })
	err := &TablesError{Failed: failed, Of: total}
	if err.Final() {
		if failed := r.cleanUp(finish); failed != nil {
			return errors.Join(err, failed)
		}
	}
	return err
}

// cleanUp calls finish(), which must remove the record of the import. It then removes the downloads
// of the import, unless files are kept.
func (r *importRun) cleanUp(finish func() error) error {
	if err := finish(); err != nil {
		return err
	}
	if r.keepsFiles() {
		return nil
	}
	for _, job := range r.imp.Jobs {
		if job.ID == "" {
			continue
		}
		if err := os.RemoveAll(r.workDir(job.ID)); err != nil {
			return fmt.Errorf("remove the downloads, which are no longer needed: %w", err)
		}
	}
	return nil
}
