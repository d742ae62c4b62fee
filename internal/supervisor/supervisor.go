// Package supervisor implements both processes of eds server: a small parent, and the
// worker that does all the work.
//
// The parent, Run, starts the worker, watches it, restarts it with growing waits after a
// crash, and swaps its binary on an upgrade. It knows nothing about the worker's tasks, so
// that it is small and rarely crashes.
//
// The worker, which calls Attach, is the same executable with a hidden subcommand. It gets
// the flags of eds server over its standard input, never on its command line, because they
// may contain secrets. The end of that input means that the parent has ended or requests a
// shutdown: the worker finishes its work, calls Exiting, and ends. On its standard output
// it reports its state to the parent. Messages are JSON, one per line, in both directions.
// After an upgrade the two may have different versions, so members and types are only ever
// added, and both ignore unknown ones.
//
// The worker has a process group of its own: an interrupt at the terminal reaches only the
// parent. If a signal reaches the worker directly, from a service manager that signals
// every process, it means the same as the end of the input, and counts once.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// Exit codes of the worker.
const (
	CodeOK      = 0 // an orderly end
	CodeError   = 1 // it cannot continue, and has logged why
	CodeUsage   = 3 // wrong usage, or a destination that fails its test
	CodeRestart = 4 // start another worker
)

// Config configures Run.
type Config struct {
	// Executable returns the path of the program. Run calls it before each start.
	Executable func() (string, error)
	Args       []string // the worker's command line; public
	WorkerArgs []string // arguments of eds server; may contain secrets
	Terminal   bool     // Stderr is a terminal
	Env        []string // the worker's environment; nil is the parent's
	Dir        string   // the data directory; its subdirectory crash has the tombstones
	Version    string   // of the program, for tombstones

	// Stderr receives the worker's standard error.
	Stderr io.Writer
	// Redact removes secrets from the texts of a tombstone; nil removes nothing.
	Redact func(string) string

	// Kill ends the worker at once when it is closed or receives a value.
	Kill <-chan struct{}
	// NoRestart returns after the first unexpected end of the worker.
	NoRestart bool
	Upgrader  Upgrader // nil if the binary cannot be replaced
	Logger    *slog.Logger
	Limits    Limits
}

// Limits are the times and counts of Run. Zero values stand for the defaults below.
type Limits struct {
	Hang       time.Duration // a worker without a sign of life for this long hangs: 2 min
	Quit       time.Duration // such a worker's time to write its goroutines: 10 s
	BackoffMin time.Duration // the wait before the first restart: 1 s
	BackoffMax time.Duration // the longest wait: 1 min
	Crashes    int           // crashes in a row that are followed by a restart: 5
	Healthy    time.Duration // a worker that was ready for this long resets that count: 10 min
	Ready      time.Duration // an upgraded worker's time to be ready: 1 min
	Stable     time.Duration // how long it then has to run: 5 min
}

func (l Limits) withDefaults() Limits {
	or := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	or(&l.Hang, 2*time.Minute)
	or(&l.Quit, 10*time.Second)
	or(&l.BackoffMin, time.Second)
	or(&l.BackoffMax, time.Minute)
	or(&l.Healthy, 10*time.Minute)
	or(&l.Ready, time.Minute)
	or(&l.Stable, 5*time.Minute)
	if l.Crashes <= 0 {
		l.Crashes = 5
	}
	return l
}

// Upgrader replaces the program's binary. Calls are serial, and no worker starts or ends
// meanwhile. After each method, and after a power cut at any moment, there is a binary that
// can be started.
type Upgrader interface {
	// Swap replaces the program with the binary at staged and keeps the old one. The new
	// binary is then on probation. After an error the old one is installed, not on
	// probation.
	Swap(staged string) error
	// Rollback restores the old binary and records the reason. If the operator has ended
	// the probation, it does nothing and returns ErrSettled.
	Rollback(reason string) error
	// Commit ends the probation: the new binary works, or its rollback was reported.
	Commit() error
	// Status returns the state of the last upgrade, even of one from before this process
	// started: nil if it is settled, a failed one if it was rolled back without a Commit,
	// otherwise one on probation. Run calls it before each start of a worker.
	Status() *Upgraded
}

// ErrSettled reports that no upgrade is on probation.
var ErrSettled = errors.New("the upgrade is no longer on probation")

// Run starts and restarts the worker until it ends for good, and returns the exit code for
// the program. The error is nil if the worker itself has logged the reason of its end. A
// second Run with the same data directory is an error.
//
// When ctx ends, Run asks the worker to shut down in order, which may take any time. Kill
// ends the worker at once. No worker is left when Run returns.
//
// If a worker announced its end and exited with that code, Run does not restart it, except
// after CodeRestart, at once. After any other end Run writes a tombstone and restarts the
// worker after a jittered, growing wait, until there were too many crashes without ten
// healthy minutes between them. Run makes a worker without a sign of life write its
// goroutines, and ends it.
func Run(ctx context.Context, c Config) (int, error) {
	parent, err := lockParent(ctx, c.Dir)
	if err != nil {
		return CodeError, err
	}
	if parent != nil {
		defer parent.Close()
	}
	return newSupervisor(c).loop(ctx)
}

// AwaitParent waits until the parent process has ended, and returns true; false if ctx ends
// first.
func AwaitParent(ctx context.Context) bool {
	gone := parentGone()
	ticker := time.NewTicker(probeEvery) // no system notifies a process of its parent's end
	defer ticker.Stop()
	for !gone() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// lockParent makes this process the only parent with a data directory, until the returned
// file is closed: a second parent's worker would fail, and roll back an upgrade on
// probation. If the directory cannot be locked, the file is nil, and the worker will report
// the problem.
func lockParent(ctx context.Context, dir string) (*os.File, error) {
	if err := os.MkdirAll(crashDir(dir), 0o700); err != nil {
		return nil, nil
	}
	ticker := time.NewTicker(lockTimeout / lockTries)
	defer ticker.Stop()
	for try := 1; ; try++ {
		f, held, err := lock(parentLock(dir))
		switch {
		case !held && err != nil:
			return nil, nil
		case !held:
			return f, nil
		case try == lockTries:
			return nil, fmt.Errorf(
				"another eds server uses the data directory %s: stop it first, or choose another directory with --data-dir",
				dir,
			)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lockParent tries a few times, because Running holds the lock for a moment.
const (
	lockTimeout = time.Second
	lockTries   = 10
)

func parentLock(dir string) string { return filepath.Join(crashDir(dir), ".parent") }

// Running reports whether a Run uses a data directory, even while it has no ready worker.
func Running(dir string) bool {
	if _, err := os.Stat(parentLock(dir)); err != nil {
		return false
	}
	f, held, err := lock(parentLock(dir))
	if err == nil {
		_ = f.Close() // nothing was written
	}
	return held
}

// supervisor is the state of Run.
type supervisor struct {
	Config
	start  func(path string, s Start) (*child, error)
	policy policy
	// probation is the upgrade on probation, or nil.
	probation *upgrade
	note      Note // for the next worker, until one was ready
	// unreported is set while note has an upgrade that was rolled back, which stays on disk
	// until a worker was ready.
	unreported bool
	wait       time.Duration
}

func newSupervisor(c Config) *supervisor {
	c.Limits = c.Limits.withDefaults()
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &supervisor{Config: c, start: c.start, policy: policy{
		limits: c.Limits, noRestart: c.NoRestart, crash: crashDir(c.Dir),
		backoff: retry.Backoff{Min: c.Limits.BackoffMin, Max: c.Limits.BackoffMax},
	}}
}

// loop is Run.
func (s *supervisor) loop(ctx context.Context) (int, error) {
	for s.pause(ctx, s.wait) {
		s.resume()
		v := s.decide(s.run(ctx))
		if v.final {
			return v.code, v.err
		}
		s.wait = v.wait
	}
	return CodeOK, nil
}

// pause waits before the next start. It returns false if there must be none.
func (s *supervisor) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-s.Kill:
	case <-ctx.Done():
	}
	return false
}

// run starts one worker and watches it to its end.
func (s *supervisor) run(ctx context.Context) ending {
	path, err := s.Executable()
	if err != nil {
		return ending{failure: err}
	}
	worker, err := s.start(path, Start{Args: s.WorkerArgs, Terminal: s.Terminal, Note: s.note})
	if err != nil {
		return ending{failure: err}
	}
	s.Logger.Info("the worker has started", "pid", worker.pid, "version", s.Version)
	w := monitor{supervisor: s, child: worker, end: ending{pid: worker.pid, started: time.Now()}}
	w.follow(ctx)
	if kind := w.end.kind(); kind != "" && !w.end.killed {
		s.writeTombstone(w.end, kind)
	}
	return w.end
}

// decide returns the consequence of a worker's end.
func (s *supervisor) decide(e ending) decision {
	if s.probation != nil && e.failsProbation() && s.rollBack(e) {
		return s.policy.rolledBack(e)
	}
	v := s.policy.decide(e)
	if v.final {
		return v
	}
	if e.kind() != "" {
		s.Logger.Error("the worker crashed; restarting it", "reason", e.describe(s.Limits),
			"ran", e.ran.Round(time.Millisecond), "unexpected", s.policy.crashes, "wait", v.wait.Round(time.Millisecond))
	}
	if e.upgrade != nil {
		s.beginUpgrade(e)
	}
	return v
}
