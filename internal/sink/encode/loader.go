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

// Loader makes a sink that keeps events one that takes snapshots: each row
// becomes an INSERT with imported set, and is applied like any event. Nothing
// can be staged in a history, so rows of a file that fails later may be there
// already; they are written again, the same in every byte, when the file is. A file
// that was loaded is not loaded again by a later run of its job.
// What a table's history held before stays, whatever the mode.
type Loader struct {
	// Apply makes a batch of events durable. It is called serially.
	Apply func(ctx context.Context, b *change.Batch) error
	// ApplyFrom is called instead, where it is set, with where the batch is from:
	// the same each time that the file is loaded.
	ApplyFrom func(ctx context.Context, b *change.Batch, from Origin) error
	// Limits bound a batch.
	Limits sink.Limits
	// Journal remembers loaded files between runs, at the destination. Nil: whoever
	// loads remembers them.
	Journal Journal

	mu sync.Mutex
}

// Journal keeps the names of the files that were loaded, by job and table. It
// is called serially for one table.
type Journal interface {
	Files(ctx context.Context, job, table string) ([]string, error)
	Add(ctx context.Context, job, table, file string) error
	// Forget forgets the table's files of every job.
	Forget(ctx context.Context, table string) error
}

// Origin is a part of a snapshot.
type Origin struct {
	Job, File string
	Batch     int           // of the file, from 1
	Table     *schema.Table // of its rows
}

// BeginLoad begins the load of one table.
func (l *Loader) BeginLoad(ctx context.Context, job string, t *schema.Table, _ sink.LoadMode, _ sink.Scope) (sink.Load, error) {
	load := &load{loader: l, job: job, table: t, loaded: make(map[string]bool)}
	if l.Journal == nil {
		return load, nil
	}
	files, err := l.Journal.Files(ctx, job, t.Name)
	for _, f := range files {
		load.loaded[f] = true
	}
	return load, err
}

type load struct {
	loader *Loader
	job    string
	table  *schema.Table
	loaded map[string]bool
}

// Resume tells which files are loaded, where the destination does not remember.
func (l *load) Resume(files []string) {
	if l.loader.Journal != nil {
		return
	}
	for _, f := range files {
		l.loaded[f] = true
	}
}

func (l *load) Loaded(file string) bool { return l.loaded[file] }

// LoadFile applies the rows of a file, batch by batch.
func (l *load) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	from := Origin{Job: l.job, File: file, Table: l.table}
	n, err := l.eachBatch(rows, func(events []*cdc.Event, _ int64) error { return l.apply(ctx, events, &from) })
	if err != nil {
		return 0, err
	}
	return n, l.note(ctx, file)
}

// LoadRows halves batches that are refused. Those before the first one are what they are
// of LoadFile, so that they replace them.
func (l *load) LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused func(*change.Row, int64, error) error) (int64, error) {
	from := Origin{Job: l.job, File: file, Table: l.table}
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
	return n - out, l.note(ctx, file)
}

// eachBatch calls do with the events of the rows, as many at a time as the limits say,
// and the number of the first. It returns how many rows there were.
func (l *load) eachBatch(rows iter.Seq2[*change.Row, error], do func(events []*cdc.Event, first int64) error) (n int64, err error) {
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

// note remembers that the file is loaded.
func (l *load) note(ctx context.Context, file string) error {
	if l.loader.Journal != nil {
		if err := l.loader.Journal.Add(ctx, l.job, l.table.Name, file); err != nil {
			return err
		}
	}
	l.loaded[file] = true
	return nil
}

func (l *load) apply(ctx context.Context, events []*cdc.Event, from *Origin) error {
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

// Finish has nothing to put in place.
func (l *load) Finish(ctx context.Context) (int64, error) { return -1, l.Discard(ctx) }

// Discard forgets the load; what it wrote stays, as a history does.
func (l *load) Discard(ctx context.Context) error {
	clear(l.loaded)
	if l.loader.Journal == nil {
		return nil
	}
	return l.loader.Journal.Forget(ctx, l.table.Name)
}

func (l *load) Close(context.Context) error { return nil }
