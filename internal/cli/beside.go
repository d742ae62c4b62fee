package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// beside is an import by the server that runs with the same data directory.
type beside struct {
	*importer
	client  *control.Client
	running server.Report
	id      string // "" until the server has accepted the import
}

// findServer returns the import by the server of the data directory; nil: none runs.
func (im *importer) findServer(ctx context.Context) (*beside, error) {
	client := control.NewClient(im.s.common.DataDir)
	running, err := client.Status(ctx)
	if errors.Is(err, control.ErrNoServer) {
		return nil, nil
	}
	return &beside{importer: im, client: client, running: running}, err
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
	return b.show(ctx, func(observe snapshot.Observer) (snapshot.Report, error) {
		return b.client.Import(ctx, b.request(), func(id string) { b.id = id }, observe)
	})
}

// watch shows an import that the server has accepted.
func (b *beside) watch(ctx context.Context, id string) error {
	b.id = id
	return b.show(ctx, func(observe snapshot.Observer) (snapshot.Report, error) {
		return b.client.WatchImport(ctx, id, observe)
	})
}

// show shows the progress of an import while follow follows it, and then its outcome.
func (b *beside) show(ctx context.Context, follow func(snapshot.Observer) (snapshot.Report, error)) error {
	observe, finish := b.display()
	report, err := follow(observe)
	for errors.Is(err, control.ErrConnectionLost) && b.id != "" {
		report, err = b.resume(ctx, observe, err)
	}
	finish()
	refused := new(control.Error)
	switch {
	case ctx.Err() != nil && b.id != "":
		return fmt.Errorf("%w; the server goes on with the import: watch it with eds import --watch %s, end it with eds import --cancel %s", context.Cause(ctx), b.id, b.id)
	case errors.As(err, &refused) && refused.ExitCode == exitUsage:
		return usageError{err}
	}
	return b.conclude(report, err)
}

// restartPatience is how long a server that has crashed may take to start again.
const restartPatience = time.Minute

// resume goes on watching the import once the server is back. If it does not come back,
// the error is lost.
func (b *beside) resume(ctx context.Context, observe snapshot.Observer, lost error) (snapshot.Report, error) {
	b.s.logger.Warn("the server has ended; waiting until it is back, when it goes on with the import", "id", b.id)
	over, cancel := context.WithTimeoutCause(ctx, restartPatience, lost)
	defer cancel()
	for {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-over.Done():
			return snapshot.Report{}, context.Cause(over)
		}
		report, err := b.client.WatchImport(ctx, b.id, observe)
		if !errors.Is(err, control.ErrNoServer) {
			return report, err
		}
	}
}

func (b *beside) request() control.ImportRequest {
	o := b.o
	q := control.ImportRequest{Options: control.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		NoDelete: o.NoDelete, AllowEmpty: o.AllowEmpty, Parallel: o.Parallel,
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
