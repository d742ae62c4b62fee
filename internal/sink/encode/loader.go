package encode

import (
	"context"
	"iter"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Loader loads snapshots into a sink that keeps events. Each row becomes an INSERT event, whose
// member "imported" is true, and is applied like any other event. There is no staging: if a file
// fails, some of its rows may already be in the destination. Loading the file again writes these
// rows again with the same bytes. A later run of the job skips loaded files. In every load mode,
// existing events of the table remain.
type Loader struct {
	// Apply makes a batch of events durable. It is called serially.
	Apply func(ctx context.Context, b *change.Batch) error
	// ApplyFrom, if not nil, is called instead of Apply. It also receives the origin of the
	// batch, which is the same each time that the file is loaded.
	ApplyFrom func(ctx context.Context, b *change.Batch, from SnapshotPart) error
	// Limits are the maximum size of a batch.
	Limits sink.Limits
	// Files records loaded files at the destination, for later runs. If Files is nil, the caller
	// of the load records them.
	Files LoadedFiles

	mu sync.Mutex
}

// LoadedFiles records the names of loaded files, by job and table. For any one table, its methods
// are called serially.
type LoadedFiles interface {
	Files(ctx context.Context, job, table string) ([]string, error)
	Add(ctx context.Context, job, table, file string) error
	// Forget deletes the records of all files of the table, for all jobs.
	Forget(ctx context.Context, table string) error
}

// SnapshotPart identifies one batch of a snapshot's file.
type SnapshotPart struct {
	Job, File string
	Batch     int           // number of the batch within the file, from 1
	Table     *schema.Table // table of the rows
}

// BeginLoad starts or resumes the load of one table.
func (l *Loader) BeginLoad(ctx context.Context, job string, t *schema.Table, _ sink.LoadMode, _ sink.Scope) (sink.Load, error) {
	load := &eventLoad{loader: l, job: job, table: t, loaded: make(map[string]bool)}
	if l.Files == nil {
		return load, nil
	}
	files, err := l.Files.Files(ctx, job, t.Name)
	for _, f := range files {
		load.loaded[f] = true
	}
	return load, err
}

type eventLoad struct {
	loader *Loader
	job    string
	table  *schema.Table
	loaded map[string]bool
}

// Resume marks files as loaded. It does nothing if the destination itself records loaded files.
func (l *eventLoad) Resume(files []string) {
	if l.loader.Files != nil {
		return
	}
	for _, f := range files {
		l.loaded[f] = true
	}
}

func (l *eventLoad) Loaded(file string) bool { return l.loaded[file] }

// LoadFile applies the rows of a file, batch by batch.
func (l *eventLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	from := SnapshotPart{Job: l.job, File: file, Table: l.table}
	n, err := l.eachBatch(rows, func(events []*cdc.Event, _ int64) error { return l.apply(ctx, events, &from) })
	if err != nil {
		return 0, err
	}
	return n, l.record(ctx, file)
}

// LoadRows applies the rows of a file, and halves each refused batch to find the refused rows.
// The batches before the first refused batch are the same as those of LoadFile, so they overwrite
// the output of LoadFile.
func (l *eventLoad) LoadRows(
	ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused sink.RefusedRow,
) (int64, error) {
	from := SnapshotPart{Job: l.job, File: file, Table: l.table}
	var out int64
	splitter := change.NewSplitter(l.table)
	n, err := l.eachBatch(rows, func(events []*cdc.Event, first int64) error {
		return sink.Isolate(len(events), func(a, b int) error { return l.apply(ctx, events[a:b], &from) }, func(i int, reason error) error {
			out++
			e := events[i]
			spans, err := splitter.Split(e.After)
			if err != nil {
				return err
			}
			return refused(&change.Row{Image: e.After, Spans: spans, Op: e.Op, Clock: e.Clock}, first+int64(i), reason)
		})
	})
	if err != nil {
		return 0, err
	}
	return n - out, l.record(ctx, file)
}

// eachBatch converts the rows to batches of events, within the limits. It calls the callback do
// with each batch and the number of the batch's first row. It returns the number of rows.
func (l *eventLoad) eachBatch(rows iter.Seq2[*change.Row, error], do func(events []*cdc.Event, first int64) error) (n int64, err error) {
	limits := l.loader.Limits
	decoder := cdc.NewDecoder()
	var events []*cdc.Event
	size := 0
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		n++
		e := new(cdc.Event)
		if err := decoder.Decode(e, AppendImported(nil, l.table, row), ""); err != nil {
			return 0, &sink.RowError{Row: n, Err: err}
		}
		events, size = append(events, e), size+len(e.Payload)
		if len(events) < limits.Rows && size < limits.Bytes {
			continue
		}
		if err := do(events, n-int64(len(events))+1); err != nil {
			return 0, err
		}
		events, size = nil, 0
	}
	if len(events) == 0 {
		return n, nil
	}
	return n, do(events, n-int64(len(events))+1)
}

// record marks the file as loaded, for this run and later runs.
func (l *eventLoad) record(ctx context.Context, file string) error {
	if l.loader.Files != nil {
		if err := l.loader.Files.Add(ctx, l.job, l.table.Name, file); err != nil {
			return err
		}
	}
	l.loaded[file] = true
	return nil
}

func (l *eventLoad) apply(ctx context.Context, events []*cdc.Event, from *SnapshotPart) error {
	var builder change.Builder
	for _, e := range events {
		builder.Add(e, change.Effect{})
	}
	b := builder.Batch()
	l.loader.mu.Lock()
	defer l.loader.mu.Unlock()
	from.Batch++
	if l.loader.ApplyFrom != nil {
		return l.loader.ApplyFrom(ctx, b, *from)
	}
	return l.loader.Apply(ctx, b)
}

// Finish deletes the record of loaded files. The events are already in place.
func (l *eventLoad) Finish(ctx context.Context) (int64, error) { return -1, l.Discard(ctx) }

// Discard deletes the record of loaded files. The events stay.
func (l *eventLoad) Discard(ctx context.Context) error {
	clear(l.loaded)
	if l.loader.Files == nil {
		return nil
	}
	return l.loader.Files.Forget(ctx, l.table.Name)
}

func (l *eventLoad) Close(context.Context) error { return nil }
