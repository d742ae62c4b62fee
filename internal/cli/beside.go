package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/supervisor"
)

// beside is an import by the server that runs with the same data directory.
type beside struct {
	*importer
	client  *control.Client
	running server.Report
	id      string
	// accepted is set once the server goes on with the import whatever happens to this
	// process.
	accepted bool
}

// findServer returns the import by the server of the data directory; nil: none runs. It
// waits for one that is starting.
func (im *importer) findServer(ctx context.Context) (*beside, error) {
	b := &beside{importer: im, client: control.NewClient(im.s.common.DataDir)}
	err := b.await(ctx, func() (err error) {
		b.running, err = b.client.Status(ctx)
		return err
	})
	if errors.Is(err, control.ErrNoServer) {
		return nil, nil
	}
	return b, err
}

// run asks the server for the import, and shows its progress and outcome as if it were
// run here. If ctx ends, the import goes on.
func (b *beside) run(ctx context.Context) error {
	if err := b.refuseOptions(); err != nil {
		return err
	}
	if err := b.confirm(); err != nil {
		return err
	}
	b.id = uuid.NewString()
	request := b.request()
	return b.show(ctx, func(observe snapshot.Observer) (snapshot.Report, error) {
		if b.accepted {
			return b.client.WatchImport(ctx, b.id, observe)
		}
		return b.client.Import(ctx, request, func(string) { b.accepted = true }, observe)
	})
}

// watch shows an import that the server has accepted.
func (b *beside) watch(ctx context.Context, id string) error {
	b.id, b.accepted = id, true
	return b.show(ctx, func(observe snapshot.Observer) (snapshot.Report, error) {
		return b.client.WatchImport(ctx, id, observe)
	})
}

// cancel ends an import that the server has accepted.
func (b *beside) cancel(ctx context.Context, id string) error {
	if err := b.await(ctx, func() error { return b.client.CancelImport(ctx, id) }); err != nil {
		return err
	}
	_, err := fmt.Fprintf(b.out, "The import %s ends. Tables that it has not put in place keep their rows.\n", id)
	return err
}

// show shows the progress of an import while follow follows it, and then its outcome.
// follow is called again if the server was not there, or has ended.
func (b *beside) show(ctx context.Context, follow func(snapshot.Observer) (snapshot.Report, error)) error {
	observe, finish := b.display()
	var report snapshot.Report
	err := b.await(ctx, func() (err error) {
		report, err = follow(observe)
		return err
	})
	finish()
	refused := new(control.Error)
	switch {
	case ctx.Err() != nil && b.accepted:
		return fmt.Errorf("%w; the server goes on with the import: watch it with eds import --watch %s, end it with eds import --cancel %s", context.Cause(ctx), b.id, b.id)
	case errors.As(err, &refused) && refused.ExitCode == exitUsage:
		return usageError{err}
	}
	return b.conclude(report, err)
}

// restartPatience is how long a server that has crashed may take to start again.
const restartPatience = time.Minute

// await calls do until the server has answered. A server that is starting, or has crashed and
// starts again, is waited for; if there is none, the error is control.ErrNoServer.
func (b *beside) await(ctx context.Context, do func() error) error {
	dir := b.s.common.DataDir
	var silent time.Time // since when the server has not answered
	for {
		err := do()
		lost := errors.Is(err, control.ErrConnectionLost)
		absent := errors.Is(err, control.ErrNoServer) && (!silent.IsZero() || supervisor.Running(dir))
		switch {
		case ctx.Err() != nil || !lost && !absent:
			return err
		case lost || silent.IsZero():
			silent = time.Now()
			b.s.logger.Warn("the server is starting, or has crashed and starts again; waiting for it", "dataDir", dir)
		case time.Since(silent) > restartPatience:
			return fmt.Errorf("the server with the data directory %s has not answered for %v; its log says why, and eds status how it is once it answers", dir, restartPatience)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// silence returns why the server of a data directory did not answer: err, unless the server
// is starting.
func silence(dataDir string, err error) error {
	if errors.Is(err, control.ErrNoServer) && supervisor.Running(dataDir) {
		return fmt.Errorf("the server with the data directory %s is starting, or has crashed and starts again: its log says why; ask again in a moment", dataDir)
	}
	return err
}

func (b *beside) request() control.ImportRequest {
	o := b.o
	q := control.ImportRequest{ID: b.id, Options: control.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		NoDelete: o.NoDelete, AllowEmpty: o.AllowEmpty, Strict: o.Strict, Parallel: o.Parallel,
	}}
	if b.urlGiven {
		q.Destination = reconciler.Named(o.URL.Reveal(), b.p.Lookup).Identity
	}
	return q
}

// refuseOptions refuses options that need a process of their own.
func (b *beside) refuseOptions() error {
	const (
		looks = "the server holds the lock of the data directory, which a plan and a test read"
		files = "the server, which imports, may run as another user and from another directory"
	)
	for _, option := range []struct {
		name, why string
		given     bool
	}{
		{"dry-run", looks, b.o.DryRun},
		{"validate-only", looks, b.o.ValidateOnly},
		{"job-id", "the server exports the tables itself, so that it knows from where each has to follow the stream", b.o.JobID != ""},
		{"dir", files, b.o.Dir != ""},
		{"download-dir", files, b.o.DownloadDir != ""},
		{"no-cleanup", "the server removes the files that it has loaded", b.o.NoCleanup},
	} {
		if option.given {
			return usagef("--%s cannot be used while a server (pid %d) runs with the data directory %s: %s; leave it out, or stop the server first", option.name, b.running.PID, b.s.common.DataDir, option.why)
		}
	}
	return nil
}

// confirm asks before rows are replaced. Which tables those are the server finds out.
func (b *beside) confirm() error {
	tables := "all tables"
	if len(b.o.Only) > 0 {
		tables = "the tables " + strings.Join(b.o.Only, ", ")
	}
	if b.o.SchemaOnly {
		return nil
	}
	mode := sink.Replace
	if b.o.NoDelete || !b.o.TimeOffset.IsZero() {
		mode = sink.Merge
	}
	return b.ask(mode, tables, b.running.Destination)
}
