package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/selfupdate"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/supervisor"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// workerCommand is the name of the hidden command with which the parent starts the worker.
const workerCommand = "worker"

// supervise runs the small parent process, which starts the worker, watches it, and restarts
// it. This process is also needed under the parent process of the reference server, because
// that process neither detects a hung worker nor rolls back an upgrade, and gives up after five
// starts.
func supervise(ctx context.Context, p Process, s *setup, o config.ServerSettings, flags serverFlagSets) error {
	p.signals.handlesSecond.Store(true)
	supervisor.IgnoreBrokenPipes() // the reader of the log may be gone
	if p.wrapped() {
		var end func()
		ctx, end = p.endWithParent(ctx, s)
		defer end()
	}
	c := supervisor.Config{
		Executable: p.executable, Args: []string{workerCommand}, WorkerArgs: p.Args, Terminal: isTerminal(p.Stderr),
		Dir: s.common.DataDir, Version: s.build.Version, Stderr: p.Stderr, Redact: telemetry.MaskText,
		Kill: p.signals.second, NoRestart: o.NoRestart, Logger: s.logger,
	}
	// The server works without an updater, too; a request by HQ for an upgrade then fails.
	if u, err := newUpdater(p, s, flags.release(), false); err != nil {
		s.logger.Debug("this program cannot be replaced while it runs", "error", err)
	} else {
		c.Upgrader = binaryUpgrader{u, s}
	}
	code, err := supervisor.Run(ctx, c)
	switch {
	case err != nil:
		return err
	case code != exitOK:
		return codeError(code)
	}
	return nil
}

// endWithParent returns two results: a context that is also canceled when the parent process has
// ended, and a function that releases the context's resources. If this process takes too long to
// shut down after its parent has ended, endWithParent ends this process.
func (p Process) endWithParent(ctx context.Context, s *setup) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	alive, end := context.WithCancel(hard(ctx))
	gone := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		if supervisor.AwaitParent(alive) {
			cancel(errParentEnds)
			close(gone)
		}
	})
	watching.Go(func() { p.limitOrphan(alive, gone, func(error) { p.signals.endNow() }, s.logger) })
	return ctx, func() {
		end()
		watching.Wait()
		cancel(nil)
	}
}

// maxProbationStarts is the maximum number of times that a program on probation may be started.
const maxProbationStarts = 5

// binaryUpgrader implements supervisor.Upgrader. The worker swaps the binary itself before it
// requests an upgrade, so Swap only checks that the worker has done so.
type binaryUpgrader struct {
	updater *selfupdate.Updater
	s       *setup
}

func (e binaryUpgrader) Swap(string) error {
	status, err := e.updater.Status()
	if err == nil && status.State != selfupdate.Probation {
		err = errors.New("the new program is not installed")
	}
	return err
}

func (e binaryUpgrader) Commit() error { return e.updater.Commit() }

func (e binaryUpgrader) Rollback(reason string) error {
	status, err := e.updater.Status()
	switch {
	case err != nil:
		return err
	case status.State == selfupdate.Settled:
		return supervisor.ErrSettled
	}
	return e.updater.Rollback(context.Background(), reason)
}

func (e binaryUpgrader) Status() *supervisor.Upgraded {
	status, err := e.updater.Attempt(context.Background(), maxProbationStarts)
	if err != nil {
		e.s.logger.Error("the state of an interrupted upgrade cannot be read", "error", err)
	}
	if status.State == selfupdate.Settled {
		return nil
	}
	return &supervisor.Upgraded{
		Version: status.To, Before: status.From, Failed: status.State == selfupdate.Reverted, Reason: status.Reason,
	}
}

func newWorker(p Process) *cobra.Command {
	return &cobra.Command{
		Use: workerCommand, Hidden: true, Args: noArgs,
		Short: "Do the work of eds server, which starts this process",
		RunE: func(cmd *cobra.Command, _ []string) error {
			supervisor.IgnoreBrokenPipes()
			w, start, err := supervisor.Attach(p.Stdin, p.Stdout)
			if err != nil {
				return usageError{err}
			}
			defer w.Close()
			os.Stdout = os.Stderr // a library's output must not look like a message to the parent
			ctx, cancel := context.WithCancelCause(cmd.Context())
			defer cancel(nil)
			go func() { // ends with ctx
				select {
				case <-w.Done():
					cancel(errParentEnds)
				case <-ctx.Done():
				}
			}()
			err = work(ctx, p, w, start)
			if err != nil && !errors.As(err, new(printedError)) && !errors.Is(err, agent.ErrReplaced) {
				fmt.Fprintf(p.Stderr, "eds: %v\n", err)
				err = printedError{err}
			}
			reason := ""
			if err != nil {
				reason = telemetry.MaskText(err.Error())
			}
			w.Exiting(exitCode(err), reason)
			return err
		},
	}
}

var errParentEnds = errors.New("the parent process ends")

// work runs the worker with the arguments of eds server, which the parent has sent.
func work(ctx context.Context, p Process, w *supervisor.Worker, start supervisor.StartRequest) error {
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	flags := bindServer(config.BindCommon(fs), fs)
	if err := fs.Parse(start.Args); err != nil { // the arguments include the command's name
		return usageError{err}
	}
	p.terminal = start.Terminal
	s, err := begin(p, flags.common, "server")
	if err != nil {
		return err
	}
	defer s.close()
	o, err := flags.resolve(p, s)
	if err != nil {
		return err
	}
	health := telemetry.NewHealth()
	c := server.Config{
		Options: o, Health: health, SessionBegan: w.Session, Crashes: crashes(s),
		Beat: beats(w, health), Upgrade: upgrades(p, s, w, flags.release()), Probation: probation(p, s, flags.release()),
	}
	if u := start.Note.Upgrade; u != nil && u.Failed {
		c.FailedUpgrade = &agent.FailedUpgrade{Version: u.Version, Reason: u.Reason}
	}
	alive, end := context.WithCancel(hard(ctx))
	stopNow, abandon := context.WithCancelCause(alive)
	var watching sync.WaitGroup
	watching.Go(func() { p.limitOrphan(alive, w.Orphaned(), abandon, s.logger) })
	defer watching.Wait()
	defer end()
	return follow(ctx, stopNow, p, s, c)
}

// beats returns a function that sends a sign of life to the parent. Once the health status is
// no longer telemetry.Starting, the function also reports that the worker is ready. A worker
// that waits for its destination counts as ready.
func beats(w *supervisor.Worker, health *telemetry.Health) func() {
	ready := sync.OnceFunc(w.Ready)
	return func() {
		w.Beat()
		if health.Report().Status != telemetry.Starting {
			ready()
		}
	}
}

// crashes returns those crashes of earlier workers that were not reported to HQ yet.
func crashes(s *setup) []agent.Crash {
	tombstones, err := supervisor.Tombstones(s.common.DataDir)
	if err != nil {
		s.logger.Warn("the tombstones of earlier crashes cannot be read", "error", err)
	}
	var all []agent.Crash
	for _, t := range tombstones {
		text := t.Reason + "\n" + t.Message + "\n\n" + t.Stderr
		all = append(all, agent.Crash{Session: t.Session, Kind: string(t.Kind), Stderr: text, Forget: t.Remove})
	}
	return all
}

// probation returns a function that reports whether the running program is on probation.
func probation(p Process, s *setup, release config.Release) func() bool {
	return func() bool {
		u, err := newUpdater(p, s, release, false)
		if err != nil {
			return false // without an updater, this program cannot have been upgraded
		}
		status, err := u.Status()
		return err != nil || status.State == selfupdate.Probation
	}
}

// upgrades returns a function that replaces the program with another version. The function also
// asks the parent to put that version on probation.
func upgrades(p Process, s *setup, w *supervisor.Worker, release config.Release) func(context.Context, string) error {
	return func(ctx context.Context, version string) error {
		u, err := newUpdater(p, s, release, false)
		if err != nil {
			return err
		}
		staged, err := u.Stage(ctx, version)
		if err != nil {
			return err
		}
		if err := staged.Swap(); err != nil {
			return errors.Join(err, staged.Discard())
		}
		return w.Upgrade(version, u.Target())
	}
}
