package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// closeTimeout is how long a load that is left may take to let go.
const closeTimeout = 10 * time.Second

// maxUnknown is how many columns that the schema lacks are named in the log.
const maxUnknown = 20

// tableImport is the import of one table.
type tableImport struct {
	*run
	table    *schema.Table
	mode     sink.LoadMode
	job      string
	export   exportTable
	source   source
	dir      string
	known    map[string]state.ImportFile // loaded files
	counted  map[string]bool             // those whose rows are in progress
	files    int                         // loaded by this run
	rows     int64                       // put in place; -1 if the destination does not count them
	recorded string                      // id of the destination, if it records the snapshot
	progress *tableProgress
	watch    *watch
	unknown  map[string]bool
	refused  refusals
	alone    bool // it has long lines: no other file is loaded beside one of its
}

func (r *run) newTable(job, name string, e exportTable) *tableImport {
	known := r.imp.Tables[name].Files
	if known == nil || r.imp.Tables[name].Job != job {
		known = make(map[string]state.ImportFile)
	}
	return &tableImport{
		run: r, table: r.tables[name], mode: r.modeOf(r.tables[name]), job: job, export: e, source: r.sources[job], dir: r.workDir(job),
		known: known, counted: make(map[string]bool), progress: r.tracker.table(name), unknown: make(map[string]bool),
	}
}

// modeOf returns how the rows of a table are put in place: they are merged if the table
// does not tell which of its rows the snapshot is to replace.
func (r *run) modeOf(t *schema.Table) sink.LoadMode {
	scope := r.scope()
	if _, ok := scope.Columns(t); ok || !r.mode.Replaces() {
		return r.mode
	}
	if r.sink.Migrator != nil {
		r.cfg.Logger.Warn("a table does not tell the company or location of its rows; rows that the snapshot lacks are kept", "table", t.Name)
	}
	return sink.Merge
}

// destinationError is an error of the sink, as against one of the files.
type destinationError struct{ error }

func (e destinationError) Unwrap() error { return e.error }

// work imports the table and settles it.
func (t *tableImport) work(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	t.watch = t.run.watch(fmt.Sprintf("table %q", t.table.Name), "begin the load")
	t.progress.watched(t.watch)
	defer t.watch.end()
	defer t.progress.watched(nil)
	err := t.persistently(ctx)
	if ctx.Err() != nil && err != nil {
		return // neither done nor failed: it goes on in another run
	}
	kept := errors.Is(err, sink.ErrWouldEmpty)
	report := TableReport{Table: t.table.Name, Files: len(t.export.files), Kept: kept, Final: kept, Err: err}
	if err == nil {
		report.Refused, err = t.noteRefused(ctx)
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
		report.Err = t.cfg.State.FinishTable(t.cfg.Destination, state.Snapshot{
			Table: t.table.Name, Clock: state.Clock{Timestamp: t.export.clock},
			ID: t.recorded, Job: t.job, Rows: report.Rows, ImportedAt: time.Now().UTC(), Partial: t.partial(),
		})
	}
	if report.Err != nil {
		t.failed(report, state.ImportTable{})
		return
	}
	t.settle(report)
	t.progress.phase(Done)
}

// maxLost is how often a table is loaded again because what was loaded is lost.
const maxLost = 2

// persistently imports the table; while the destination has troubles that may
// pass it tries again.
func (t *tableImport) persistently(ctx context.Context) error {
	if before := t.imp.Tables[t.table.Name].Job; before != "" && before != t.job {
		t.discardTable(ctx, t.table.Name, before)
	}
	if err := t.cfg.State.RecordTable(t.table.Name, state.ImportTable{Job: t.job}); err != nil {
		return err
	}
	backoff := t.cfg.Retry
	var failing time.Time // since the first failure after progress
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
		case errors.As(err, &narrow): // each time it has more columns
			t.table, failing = narrow.Table, time.Now()
		case errors.Is(err, sink.ErrLoadLost):
			lost++
		case !errors.As(err, new(destinationError)) || fault.Of(err) != fault.Transient:
			return err
		}
		if lost > maxLost || time.Since(failing)+wait > t.cfg.Patience {
			return err
		}
		t.cfg.Logger.WarnContext(ctx, "loading a table was interrupted; it goes on", "table", t.table.Name, "wait", wait, "error", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// attempt loads the files that the destination says are not loaded, and puts
// the table in place.
func (t *tableImport) attempt(ctx context.Context) (err error) {
	t.progress.phase(Loading)
	t.refused = refusals{}
	t.watch.doing("begin the load")
	load, err := t.cfg.Sink.BeginLoad(ctx, t.job, t.table, t.mode, t.scope())
	if err != nil {
		return destinationError{fmt.Errorf("begin the load: %w", err)}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if closing := load.Close(ctx); closing != nil && err != nil {
			t.cfg.Logger.WarnContext(ctx, "a load was not closed well", "table", t.table.Name, "error", closing)
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
		return t.keep(ctx, load, err)
	}
	defer done()
	return t.finish(ctx, load)
}

// bringForward has later changes applied to the load, if it replaces the whole table and
// its caller can do that.
func (t *tableImport) bringForward(ctx context.Context, load sink.Load) (done func(), err error) {
	scope := t.scope()
	advancer, ok := load.(sink.Advancer)
	if t.cfg.BringForward == nil || t.recorded == "" || !ok || !t.mode.Replaces() || !scope.All() {
		return func() {}, nil
	}
	if err := t.persist(ctx, "make sure of what was loaded", func() error { return advancer.Seal(ctx) }); err != nil {
		return nil, err
	}
	t.watch.doing("bring the loaded rows forward")
	applied, done, err := t.cfg.BringForward(ctx, t.table, t.export.clock, watchedAdvancer{advancer, t.watch})
	if err != nil {
		return nil, fmt.Errorf("bring what was loaded forward: %w", err)
	}
	t.record(load, applied)
	return done, nil
}

// persist is run.persist, as a part of the table's import.
func (t *tableImport) persist(ctx context.Context, operation string, f func() error) error {
	return t.retry(ctx, t.watch, operation, f)
}

// watchedAdvancer is a load whose advances are progress.
type watchedAdvancer struct {
	sink.Advancer
	watch *watch
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

// forget forgets a file that an earlier run or attempt loaded, and that is not loaded
// any more.
func (t *tableImport) forget(file string) {
	if t.counted[file] {
		t.progress.rows(-t.known[file].Rows, -t.known[file].Bytes)
	}
	delete(t.known, file)
	delete(t.counted, file)
}

// finish puts the table in place. If the destination is away meanwhile it is asked
// again, as it may have done it.
func (t *tableImport) finish(ctx context.Context, load sink.Load) error {
	err := t.persist(ctx, "put the table in place", func() (err error) {
		t.rows, err = load.Finish(ctx)
		return err
	})
	return t.keep(ctx, load, err)
}

// keep discards a load without rows, if err says that it is one: the table keeps its own.
// Other errors are the destination's.
func (t *tableImport) keep(ctx context.Context, load sink.Load, err error) error {
	if !errors.Is(err, sink.ErrWouldEmpty) {
		if err != nil {
			err = destinationError{err}
		}
		return err
	}
	if failed := load.Discard(ctx); failed != nil {
		return destinationError{fmt.Errorf("discard a load without rows: %w", failed)}
	}
	if t.refused.total > 0 {
		return fmt.Errorf("all rows of the snapshot were refused, and the rows of the table are kept; see: eds dlq list --table %s", t.table.Name)
	}
	return fmt.Errorf("%w; they are kept; to empty the table, run: eds import --only %s --allow-empty", sink.ErrWouldEmpty, t.table.Name)
}

// loadFiles downloads and loads the files that are not loaded.
func (t *tableImport) loadFiles(ctx context.Context, load sink.Load) error {
	ctx, cancel := context.WithCancel(ctx)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel()
	var pending []exportFile
	for _, f := range t.export.files {
		if !load.Loaded(f.name) {
			pending = append(pending, f)
			continue
		}
		t.count(f.name)
		t.progress.loaded(f.name)
	}
	arrivals := t.fetchAhead(ctx, &fetching, pending)
	for _, f := range pending {
		t.watch.downloading(f.name)
		arrival, ok := receive(ctx, arrivals)
		if !ok {
			return context.Cause(ctx)
		}
		err, ok := receive(ctx, arrival)
		if !ok {
			return context.Cause(ctx)
		}
		if err != nil {
			return &FileError{File: f.name, Err: err}
		}
		t.watch.doing("load file " + f.name)
		if err := t.loadFile(ctx, load, f); err != nil {
			return err
		}
	}
	return nil
}

// count adds a file that an earlier run loaded to the progress.
func (t *tableImport) count(file string) {
	if known, ok := t.known[file]; ok && !t.counted[file] {
		t.counted[file] = true
		t.progress.sized(file, known.Bytes)
		t.progress.got(file, known.Bytes)
		t.progress.rows(known.Rows, known.Bytes)
	}
}

// fetchAhead downloads the files in the background, some of them ahead, and
// returns a channel of their results in order.
func (t *tableImport) fetchAhead(ctx context.Context, group *sync.WaitGroup, files []exportFile) <-chan chan error {
	arrivals := make(chan chan error, downloads)
	group.Go(func() {
		for _, f := range files {
			arrival := make(chan error, 1)
			select {
			case arrivals <- arrival:
			case <-ctx.Done():
				return
			}
			group.Go(func() { arrival <- t.fetchFile(ctx, f.name) })
		}
	})
	return arrivals
}

// fetchFile makes the file be in the directory.
func (t *tableImport) fetchFile(ctx context.Context, file string) error {
	path := filepath.Join(t.dir, file)
	if stat, err := os.Stat(path); err == nil {
		t.progress.sized(file, stat.Size())
		t.progress.got(file, stat.Size())
		return nil
	}
	transfer := &transfer{
		path: path,
		size: func(n int64) { t.progress.sized(file, n) },
		got:  func(n int64) { t.progress.got(file, n) },
	}
	return t.fetch.fetch(ctx, transfer, func(ctx context.Context, stale string) (string, error) {
		return t.source.locate(ctx, t.table.Name, file, stale)
	})
}

// share returns how much of loading a file of the table takes: that of one file, or all. So
// few lines are in memory, or the long ones of one file. A load that is met by a long line
// is left, and begun again alone: while it waits for the others it holds nothing of the
// destination that they may need.
func (t *tableImport) share() int64 {
	if t.alone {
		return int64(t.cfg.Parallel)
	}
	return 1
}

// loadFile loads one file that was downloaded, and removes it where it was
// loaded, or is damaged.
func (t *tableImport) loadFile(ctx context.Context, load sink.Load, f exportFile) error {
	now, err := t.loadRows(ctx, load, f)
	if err != nil {
		return err
	}
	t.known[f.name], t.counted[f.name] = now, true
	t.files++
	if err := t.cfg.State.RecordFile(t.table.Name, f.name, now); err != nil {
		return err
	}
	t.progress.loaded(f.name)
	return t.remove(f)
}

// decode has load load the rows of d, and tells of the progress.
func (t *tableImport) decode(ctx context.Context, load func(context.Context, string, iter.Seq2[*change.Row, error]) (int64, error), d *fileDecoder) (now state.ImportFile, err error) {
	file, err := os.Open(filepath.Join(t.dir, d.name))
	if err != nil {
		d.err = &FileError{File: d.name, Err: err}
		return now, d.err
	}
	defer file.Close()
	reading := &countingReader{r: file}
	var told state.ImportFile
	tell := func(rows int64) {
		bytes := reading.n.Load()
		t.progress.rows(rows-told.Rows, bytes-told.Bytes)
		told = state.ImportFile{Rows: rows, Bytes: bytes}
	}
	d.passed = func(n int) { tell(told.Rows + int64(n)) }
	rows, err := load(ctx, d.name, d.Rows(ctx, reading))
	switch {
	case err == nil && d.err != nil:
		err = d.err // the sink should have said so
	case err == nil && !d.ended:
		err = fault.Mark(fault.Fatal, errors.New("the destination left out rows"))
	}
	if err != nil {
		t.progress.rows(-told.Rows, -told.Bytes)
		return now, err
	}
	tell(rows)
	return told, nil
}

// explain says where in the file the loading ended, and why. A damaged file is
// removed, where it can be downloaded again.
func (t *tableImport) explain(ctx context.Context, d *fileDecoder, f exportFile, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.err != nil { // what the sink makes of it does not matter
		if e := new(FileError); errors.As(d.err, &e) && e.damaged() && f.url != "" {
			return errors.Join(d.err, removeFile(filepath.Join(t.dir, f.name)), t.dropRefused(f))
		}
		return d.err
	}
	where := &FileError{File: f.name, Err: err}
	var row *sink.RowError
	switch {
	case errors.As(err, &row):
		where.Line, where.Err = d.lineOf(row.Row), row.Err
		// Whatever its class, the row will be refused again.
		return destinationError{fault.Mark(max(fault.Of(err), fault.Poison), where)}
	case fault.Of(err) == fault.Poison && d.row > 0:
		where.Line, where.Before = d.line, true
	}
	return destinationError{where}
}

// remove removes a file that is loaded, where it is ours and not to be kept.
func (t *tableImport) remove(f exportFile) error {
	if t.keepsFiles() {
		return nil
	}
	return removeFile(filepath.Join(t.dir, f.name))
}

// noteUnknown says, once, that the export has a column that the schema lacks.
func (t *tableImport) noteUnknown(name []byte) {
	if len(t.unknown) >= maxUnknown || t.unknown[string(name)] {
		return
	}
	t.unknown[string(name)] = true
	t.cfg.Logger.Warn("the export has a column that the schema does not; it is left out", "table", t.table.Name, "column", string(name[:min(len(name), 100)]))
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}
