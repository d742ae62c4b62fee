package sinktest

import (
	"context"
	"errors"
	"math"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// recordDefects are defects of sinks that keep records, with the checks that must find them.
var recordDefects = []struct {
	name   string
	checks []string
	with   func(w *worseRecorder)
}{
	{
		"no id is recorded",
		[]string{"records of a new destination", "records name the latest writer, and keep the first id"},
		recording(func(r *sink.Records) { r.ID = "" }),
	},
	{
		"another writer is not noticed",
		[]string{"a later writer is named", "a later writer with another filter is named", "a writer of an earlier version is noticed"},
		forcing(func(err error) bool { return errors.As(err, new(*sink.WriterError)) }),
	},
	{
		"another state is not noticed",
		[]string{
			"a destination that was restored is reopened", "a destination without its checkpoint is reopened",
			"an import is followed by a running server", "a server that begins while an import runs",
		},
		forcing(func(err error) bool { return errors.As(err, new(*sink.ReopenError)) }),
	},
	{"records that changed are written over", []string{"records that changed since they were read are read again"}, func(w *worseRecorder) {
		w.begin = func(ctx context.Context, b sink.Beginning) (int64, error) {
			if _, err := w.recordingSink.Records(ctx); err != nil {
				return 0, err
			}
			return w.recordingSink.Begin(ctx, b)
		}
	}},
	{"an import is taken for something else", []string{"records that changed since they were read are read again"}, func(w *worseRecorder) {
		w.begin = func(ctx context.Context, b sink.Beginning) (int64, error) {
			epoch, err := w.recordingSink.Begin(ctx, b)
			if reopen := new(sink.ReopenError); errors.As(err, &reopen) {
				reopen.Imported = false
			}
			return epoch, err
		}
	}},
	{"the checkpoint is forgotten", []string{
		"a checkpoint of an earlier version is taken over",
		"a changed filter continues from the position of each subject",
	}, recording(func(r *sink.Records) { r.Checkpoint = nil })},
	{
		"a snapshot is forgotten",
		[]string{"a complete snapshot replaces the others of its table"},
		recording(func(r *sink.Records) { r.Snapshots = r.Snapshots[:max(1, len(r.Snapshots))-1] }),
	},
	{
		"states of tables are forgotten",
		[]string{
			"a table that is behind is brought forward", "an earlier version resumes from the lowest position, and its checkpoint counts",
			"states of tables survive a fault at any step",
		},
		recording(func(r *sink.Records) { r.Tables = nil }),
	},
	{"no import is whole", []string{"a whole import"}, func(w *worseRecorder) {
		w.finishImport = func(context.Context, []string, []string) error { return nil }
	}},
	{
		"every snapshot counts as followed",
		[]string{"concurrent loads are all followed, whichever ends first"},
		recording(func(r *sink.Records) {
			if r.Checkpoint != nil {
				r.Checkpoint.Followed = math.MaxInt64
			}
		}),
	},
	{"snapshots are not recorded", []string{
		"an import that is killed leaves records that fit the rows",
		"concurrent loads are each recorded",
	}, func(w *worseRecorder) {
		w.load = func(l sink.Load) sink.Load { return deafLoad{l} }
	}},
	{
		"changes are not applied to a load",
		[]string{
			"a load is brought forward before it is put in place", "a load is brought forward with metadata columns",
			"a load is brought forward with soft deletes",
			"a load that is brought forward keeps older changes out", "a load that was brought forward starts afresh",
			"the columns change twice while a load is brought forward", "a load is brought forward despite a fault at any step",
		},
		func(w *worseRecorder) {
			w.load = func(l sink.Load) sink.Load { return idleLoad{wholeLoad{l, l.(sink.SnapshotLoad), l.(sink.Advancer)}} }
		},
	},
	{
		"the rows of a load are not checked",
		[]string{
			"a load without rows empties no table, whatever comes later",
			"a stage that was brought forward and lost its rows is not put in place",
		},
		func(w *worseRecorder) {
			w.load = func(l sink.Load) sink.Load {
				return trustingLoad{wholeLoad{l, l.(sink.SnapshotLoad), l.(sink.Advancer)}}
			}
		},
	},
	{"nothing is released", []string{"closing releases the checkpoint"}, func(w *worseRecorder) {
		w.closing = func(ctx context.Context) error {
			_, err := w.recordingSink.Records(ctx)
			return errors.Join(err, w.recordingSink.Close(ctx))
		}
	}},
	{"no loss is found", []string{
		"a table that was imported and dropped is missing",
		"a change without a consumer does not make a dropped table", "removed rows are noticed",
		"a view in the place of a table",
	}, finding()},
	{
		"a loss is always found",
		[]string{
			"a dropped table without a snapshot is made again", "a table imported without rows is no finding",
			"softly deleted rows count as rows",
		},
		finding(sink.Finding{Table: "customer", Kind: sink.FoundEmpty}),
	},
	{
		"a refused table is not named",
		[]string{
			"a table that was imported and dropped is missing", "a change without a consumer does not make a dropped table",
			"an import brings a dropped table back", "a view in the place of a table",
			"a table without the key's columns is refused, the others are made",
		},
		func(w *worseRecorder) {
			w.refuse = func(lines []string, err error) ([]string, error) {
				return lines, fault.Mark(fault.Fatal, errors.New("a table is refused"))
			}
		},
	},
	{
		"a refused table is ignored",
		[]string{
			"a table that was imported and dropped is missing", "a change without a consumer does not make a dropped table",
			"an import brings a dropped table back", "a view in the place of a table",
			"a table without the key's columns is refused, the others are made",
		},
		func(w *worseRecorder) {
			w.refuse = func(lines []string, _ error) ([]string, error) { return lines, nil }
		},
	},
	{
		"a refused table stops the others",
		[]string{"a table without the key's columns is refused, the others are made"},
		func(w *worseRecorder) {
			w.refuse = func(_ []string, err error) ([]string, error) { return nil, err }
		},
	},
	{"a sink that failed never works again", []string{
		"beginning survives a fault at any step",
		"a batch of a writer survives a fault at any step",
	}, func(w *worseRecorder) { w.once = true }},
}

// recordingSink has all methods of a SQL sink.
type recordingSink interface {
	sink.Sink
	sink.Recorder
	sink.FilterReader
	sink.Migrator
	sink.Reader
	sink.Inspector
}

// worseRecorder is a SQLite sink with some methods replaced. It is a Faults whose steps are the
// calls of Apply, Begin and Check.
type worseRecorder struct {
	recordingSink
	record       func(r *sink.Records)
	begin        func(ctx context.Context, b sink.Beginning) (int64, error)
	apply        func(ctx context.Context, b *change.Batch) error
	finishImport func(ctx context.Context, imported, source []string) error
	load         func(l sink.Load) sink.Load
	closing      func(ctx context.Context) error
	inspect      func() []sink.Finding
	refuse       func(lines []string, err error) ([]string, error) // replaces a *sink.TableError

	steps, limit int
	mode         Mode
	once, failed bool // once: after an error all calls fail
}

func (w *worseRecorder) Steps() int             { return w.steps }
func (w *worseRecorder) Break(n int, mode Mode) { w.limit, w.mode = w.steps+n, mode }
func (w *worseRecorder) Repair()                { w.mode = "" }

func (w *worseRecorder) step(do func() error) error {
	if w.once && w.failed {
		return errSoon
	}
	broken := w.mode != "" && w.steps >= w.limit
	w.steps++
	w.failed = w.failed || broken
	if broken && w.mode == Lost {
		return errSoon
	}
	err := do()
	if broken {
		err = errSoon
	}
	return err
}

func (w *worseRecorder) Records(ctx context.Context) (sink.Records, error) {
	r, err := w.recordingSink.Records(ctx)
	if w.record != nil {
		w.record(&r)
	}
	return r, err
}

func (w *worseRecorder) Begin(ctx context.Context, b sink.Beginning) (epoch int64, err error) {
	begin := w.recordingSink.Begin
	if w.begin != nil {
		begin = w.begin
	}
	err = w.step(func() (err error) {
		epoch, err = begin(ctx, b)
		return err
	})
	return epoch, err
}

func (w *worseRecorder) Check(ctx context.Context) error {
	return w.step(func() error { return w.recordingSink.Check(ctx) })
}

func (w *worseRecorder) Apply(ctx context.Context, b *change.Batch) error {
	apply := w.recordingSink.Apply
	if w.apply != nil {
		apply = w.apply
	}
	return w.step(func() error {
		_, err := w.refused(nil, apply(ctx, b))
		return err
	})
}

func (w *worseRecorder) Migrate(ctx context.Context, tables []*schema.Table) ([]string, error) {
	return w.refused(w.recordingSink.Migrate(ctx, tables))
}

func (w *worseRecorder) refused(lines []string, err error) ([]string, error) {
	if w.refuse != nil && errors.As(err, new(*sink.TableError)) {
		return w.refuse(lines, err)
	}
	return lines, err
}

func (w *worseRecorder) Inspect(ctx context.Context) ([]sink.Finding, error) {
	if w.inspect != nil {
		return w.inspect(), nil
	}
	return w.recordingSink.Inspect(ctx)
}

func (w *worseRecorder) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load,
	error,
) {
	l, err := w.recordingSink.BeginLoad(ctx, job, t, mode, scope)
	if err == nil && w.load != nil {
		l = w.load(l)
	}
	return l, err
}

// deafLoad records no snapshot.
type deafLoad struct{ sink.Load }

func (deafLoad) Record(sink.LoadRecord) bool { return true }

func (w *worseRecorder) FinishImport(ctx context.Context, scope sink.Scope, imported, source []string) error {
	if w.finishImport != nil {
		return w.finishImport(ctx, imported, source)
	}
	return w.recordingSink.FinishImport(ctx, scope, imported, source)
}

func (w *worseRecorder) Close(ctx context.Context) error {
	if w.closing != nil {
		return w.closing(ctx)
	}
	return w.recordingSink.Close(ctx)
}

// recording returns a defect that alters the records that the sink returns.
func recording(alter func(r *sink.Records)) func(w *worseRecorder) {
	return func(w *worseRecorder) { w.record = alter }
}

// finding returns a defect: Inspect returns the same findings for any tables.
func finding(findings ...sink.Finding) func(w *worseRecorder) {
	return func(w *worseRecorder) { w.inspect = func() []sink.Finding { return findings } }
}

// forcing returns a defect: if an error of Apply is to be ignored, the sink takes over the
// checkpoint and applies the batch.
func forcing(ignored func(err error) bool) func(w *worseRecorder) {
	return func(w *worseRecorder) {
		w.apply = func(ctx context.Context, b *change.Batch) error {
			err := w.recordingSink.Apply(ctx, b)
			if !ignored(err) {
				return err
			}
			if _, err := w.recordingSink.Records(ctx); err != nil {
				return err
			}
			if _, err := w.recordingSink.Begin(ctx, sink.Beginning{}); err != nil {
				return err
			}
			return w.recordingSink.Apply(ctx, b)
		}
	}
}

// recorders returns a Config of SQLite sinks. The function with adds a defect to each sink.
func recorders(with func(w *worseRecorder)) Config {
	c := Config{Driver: sqlite.Driver(), URL: func(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") }}
	open := c.Driver.Open
	c.Driver.Open = func(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
		s, err := open(ctx, target, env)
		if err != nil {
			return nil, err
		}
		w := &worseRecorder{recordingSink: s.(recordingSink)}
		with(w)
		return w, nil
	}
	c.Faulty = func(t testing.TB, raw string, env sink.Env) (sink.Sink, Faults) {
		target, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Driver.Open(t.Context(), target, env)
		if err != nil {
			t.Fatal(err)
		}
		return s, s.(*worseRecorder)
	}
	c.Views = true
	c.SQL = func(t testing.TB, raw, statement string) {
		db, err := capi.Open(strings.TrimPrefix(raw, "sqlite://"), capi.Options{Create: true})
		if err == nil {
			err = errors.Join(db.Exec(statement), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c.LoseStage = func(t testing.TB, raw, job, table, id string) { c.SQL(t, raw, LoseStageSQL(`"`, job, table, id)) }
	c.Foreign = func(t testing.TB, raw, table string) {
		c.SQL(t, raw, "CREATE TABLE "+table+" (id VARCHAR(40) PRIMARY KEY, n INT)")
	}
	return c
}

// TestRun_FindsDefectsOfRecords proves that the checks of records fail for a sink with a defect,
// and pass without a defect.
func TestRun_FindsDefectsOfRecords(t *testing.T) {
	for _, d := range recordDefects {
		t.Run(d.name, func(t *testing.T) {
			for _, name := range d.checks {
				mustFail(t, recorders(d.with), name)
				if failures := failuresOf(t, recorders(func(*worseRecorder) {}), name); len(failures) > 0 {
					t.Errorf("without the defect %q finds %q", name, failures)
				}
			}
		})
	}
}

// wholeLoad has all methods of a load of a SQL sink.
type wholeLoad struct {
	sink.Load
	sink.SnapshotLoad
	sink.Advancer
}

// idleLoad applies no change.
type idleLoad struct{ wholeLoad }

func (idleLoad) Advance(context.Context, *change.Batch) error { return nil }

// trustingLoad treats every load as complete.
type trustingLoad struct{ wholeLoad }

func (l trustingLoad) Seal(ctx context.Context) error {
	if err := l.wholeLoad.Seal(ctx); !errors.Is(err, sink.ErrLoadLost) && !errors.Is(err, sink.ErrWouldEmpty) {
		return err
	}
	return nil
}

func (l trustingLoad) Finish(ctx context.Context) (int64, error) {
	rows, err := l.wholeLoad.Finish(ctx)
	if errors.Is(err, sink.ErrLoadLost) || errors.Is(err, sink.ErrWouldEmpty) {
		err = nil
	}
	return rows, err
}
