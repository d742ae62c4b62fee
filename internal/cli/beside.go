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
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/supervisor"
)

// beside is an import for this command that is run by the server with the same data directory.
type beside struct {
	*importer
	client  *control.Client
	running server.Report
	id      string
	// accepted becomes true when the server accepts the import. From then on, the import continues
	// even if this process ends.
	accepted bool
}

// findServer returns an import to be run by the server with the same data directory. It returns nil
// if no such server runs, and waits for a server that is starting.
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

// run requests the import from the server. It shows the progress and the outcome in the same way
// as for an import in this process. If ctx is done, the import continues.
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

// cancel cancels an import that the server has accepted.
func (b *beside) cancel(ctx context.Context, id string) error {
	if err := b.await(ctx, func() error { return b.client.CancelImport(ctx, id) }); err != nil {
		return err
	}
	_, err := fmt.Fprintf(b.out, "Import %s is canceled. Tables that it has not replaced yet keep their rows.\n", id)
	return err
}

// show displays the progress of an import and then its outcome. The callback passes the progress
// to the given observer and returns the outcome. If the server restarts, show calls the callback
// again.
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
		return fmt.Errorf("%w; the server continues the import: watch it with eds import --watch %s, end it with eds import --cancel %s",
			context.Cause(ctx), b.id, b.id)
	case errors.As(err, &refused) && refused.ExitCode == exitUsage:
		return usageError{err}
	}
	return b.conclude(report, err)
}

// restartPatience is the maximum time that await waits for a crashed server to restart.
const restartPatience = time.Minute

// await calls the function do. While the server is starting, or restarting after a crash, await
// repeats the call until the server has answered. If no server runs, the error is
// control.ErrNoServer.
func (b *beside) await(ctx context.Context, do func() error) error {
	dir := b.s.common.DataDir
	var silent time.Time // time since which the server has not answered, or zero
	again := func(err error) bool {
		lost := errors.Is(err, control.ErrConnectionLost)
		absent := errors.Is(err, control.ErrNoServer) && (!silent.IsZero() || supervisor.Running(dir))
		if lost || absent && silent.IsZero() {
			silent = time.Now()
			b.s.logger.Warn("the server is starting, or restarts after a crash; waiting for it", "dataDir", dir)
		}
		return (lost || absent) && time.Since(silent) <= restartPatience
	}
	every := retry.Backoff{Min: 500 * time.Millisecond, Max: 500 * time.Millisecond}
	err := retry.Do(ctx, retry.Policy{Backoff: every, Retryable: again}, do)
	if errors.Is(err, control.ErrNoServer) && !silent.IsZero() {
		return fmt.Errorf("the server with the data directory %s has not answered for %v; see its log", dir, restartPatience)
	}
	return err
}

// noAnswer returns an error that explains why the server of a data directory did not answer. It
// returns err unless the server is starting or restarting.
func noAnswer(dataDir string, err error) error {
	if errors.Is(err, control.ErrNoServer) && supervisor.Running(dataDir) {
		return fmt.Errorf(
			"the server with the data directory %s is starting, or restarts after a crash; see its log, and try again in a moment",
			dataDir,
		)
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

// refuseOptions returns an error if the command has an option that only an import in this
// process supports.
func (b *beside) refuseOptions() error {
	const (
		looks = "it needs the lock of the data directory, which the server holds"
		files = "the server does the import, and may run as another user and in another directory"
	)
	for _, option := range []struct {
		name, why string
		given     bool
	}{
		{"dry-run", looks, b.o.DryRun},
		{"validate-only", looks, b.o.ValidateOnly},
		{"job-id", "the server has to export the tables itself, to know the time of each snapshot", b.o.JobID != ""},
		{"dir", files, b.o.Dir != ""},
		{"download-dir", files, b.o.DownloadDir != ""},
		{"no-cleanup", "the server removes files that it has loaded", b.o.NoCleanup},
	} {
		if option.given {
			return usagef(
				"--%s cannot be used while a server (pid %d) runs with the data directory %s: %s; leave it out, or stop the server first",
				option.name, b.running.PID, b.s.common.DataDir, option.why,
			)
		}
	}
	return nil
}

// confirm prompts the operator before the server replaces rows. The server decides which tables
// are imported, so the prompt does not count them.
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
