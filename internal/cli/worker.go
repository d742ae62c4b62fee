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

// workerCommand is the name of the command that a parent starts.
const workerCommand = "worker"

// supervise is the small parent process: it starts the worker, watches it, and
// starts it again. It is the same under the parent process of the reference server,
// which neither sees a worker hang nor takes an upgrade back, and gives up after five starts.
func supervise(ctx context.Context, p Process, s *setup, o config.Server, flags serverFlags) error {
	p.signals.heeded.Store(true)
	supervisor.IgnoreBrokenPipes() // nobody may be reading the log any more
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
	// Without an updater the server works all the same; HQ is told when it asks for an upgrade.
	if u, err := newUpdater(p, s, flags.release(), false); err != nil {
		s.logger.Debug("this program can not be exchanged while it runs", "error", err)
	} else {
		c.Upgrader = exchanger{u, s}
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

// endWithParent returns a context that ends also when the process that started this one
// is gone, and what ends the watch over that. A worker that then takes too long is ended.
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

// trials is how often a new program may be started that does not prove itself.
const trials = 5

// exchanger finishes upgrades. The worker has put the new binary in its place
// before it ended.
type exchanger struct {
	updater *selfupdate.Updater
	s       *setup
}

func (e exchanger) Swap(string) error {
	standing, err := e.updater.Standing()
	if err == nil && standing.State != selfupdate.Probation {
		err = errors.New("the new program is not in its place")
	}
	return err
}

func (e exchanger) Commit() error { return e.updater.Commit() }

func (e exchanger) Rollback(reason string) error {
	standing, err := e.updater.Standing()
	switch {
	case err != nil:
		return err
	case standing.State == selfupdate.Settled:
		return supervisor.ErrSettled
	}
	return e.updater.Rollback(context.Background(), reason)
}

func (e exchanger) Standing() *supervisor.Upgraded {
	standing, err := e.updater.Attempt(context.Background(), trials)
	if err != nil {
		e.s.logger.Error("an upgrade that was interrupted can not be looked at", "error", err)
	}
	if standing.State == selfupdate.Settled {
		return nil
	}
	return &supervisor.Upgraded{Version: standing.To, Before: standing.From, Failed: standing.State == selfupdate.Reverted, Reason: standing.Reason}
}

func newWorker(p Process) *cobra.Command {
	return &cobra.Command{
		Use: workerCommand, Hidden: true, Args: noArgs,
		Short: "Do the work of eds server, which starts it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			supervisor.IgnoreBrokenPipes()
			w, start, err := supervisor.Attach(p.Stdin, p.Stdout)
			if err != nil {
				return usageError{err}
			}
			defer w.Close()
			os.Stdout = os.Stderr // what a library prints must not be taken for a message
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
			if err != nil && !errors.As(err, new(silentError)) && !errors.Is(err, agent.ErrReplaced) {
				fmt.Fprintf(p.Stderr, "eds: %v\n", err)
				err = silentError{err}
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

// work does what eds server was asked for.
func work(ctx context.Context, p Process, w *supervisor.Worker, start supervisor.Start) error {
	fs := pflag.NewFlagSet("server", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	flags := bindServer(config.BindCommon(fs), fs)
	if err := fs.Parse(start.Args); err != nil { // the command's name is among them
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

// beats returns what tells the parent that the worker lives, and, once, that it
// works. One that waits for its destination works.
func beats(w *supervisor.Worker, health *telemetry.Health) func() {
	ready := sync.OnceFunc(w.Ready)
	return func() {
		w.Beat()
		if health.Report().Status != telemetry.Starting {
			ready()
		}
	}
}

// crashes returns the ends of earlier workers that HQ has not been told of.
func crashes(s *setup) []agent.Crash {
	tombstones, err := supervisor.Tombstones(s.common.DataDir)
	if err != nil {
		s.logger.Warn("what is known of earlier crashes can not be read", "error", err)
	}
	var all []agent.Crash
	for _, t := range tombstones {
		all = append(all, agent.Crash{Session: t.Session, Kind: string(t.Kind), Stderr: t.Reason + "\n" + t.Message + "\n\n" + t.Stderr, Forget: t.Remove})
	}
	return all
}

// probation returns what reports whether the program that runs is on probation.
func probation(p Process, s *setup, release config.Release) func() bool {
	return func() bool {
		u, err := newUpdater(p, s, release, false)
		if err != nil {
			return false // this program cannot have been upgraded
		}
		standing, err := u.Standing()
		return err != nil || standing.State == selfupdate.Probation
	}
}

// upgrades returns what puts another version in this one's place.
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
