// Package supervisor implements both processes of eds server: a small parent, and the
// worker that does all the work.
//
// The parent calls Run, which starts the worker, watches it, restarts it with growing waits
// after a crash, and swaps the binary on an upgrade. The parent knows nothing about the
// worker's tasks. This keeps the parent small, and makes its crashes rare.
//
// The worker calls Attach. It is the same executable, started with a hidden subcommand. It
// receives the flags of eds server over its standard input, never on its command line, because
// the flags may contain secrets. The end of that input means that the parent has ended or
// requests a shutdown: the worker then finishes its work, calls Exiting, and ends. On its
// standard output the worker reports its state to the parent. Messages are JSON, one per line,
// in both directions. After an upgrade, parent and worker may have different versions.
// Therefore members and message types are never removed, and both processes ignore unknown
// ones.
//
// The worker has its own process group, so that an interrupt at the terminal reaches only the
// parent. A service manager may also signal the worker directly. Such a signal means the same
// as the end of the input, and the two together count once.
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
	CodeError   = 1 // the worker cannot continue, and has logged why
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
	Version    string   // the program's version, for tombstones

	// Stderr receives the worker's standard error.
	Stderr io.Writer
	// Redact removes secrets from the texts of a tombstone. If it is nil, nothing is removed.
	Redact func(string) string

	// When Kill is closed or receives a value, Run ends the worker at once.
	Kill <-chan struct{}
	// NoRestart makes Run return after the first unexpected end of a worker.
	NoRestart bool
	Upgrader  Upgrader // nil if the binary cannot be replaced
	Logger    *slog.Logger
	Limits    RunLimits
}

// RunLimits are the limits of Run, which are times and numbers. A field that is zero means the
// default at the end of the field's comment.
type RunLimits struct {
	Hang       time.Duration // a worker is hung after this long without a sign of life; 2 min
	Quit       time.Duration // time for a hung worker to write its goroutines; 10 s
	BackoffMin time.Duration // wait before the first restart; 1 s
	BackoffMax time.Duration // longest wait before a restart; 1 min
	Crashes    int           // number of successive crashes after which Run still restarts the worker; 5
	Healthy    time.Duration // a worker that was ready for this long resets the count of crashes; 10 min
	Ready      time.Duration // time for an upgraded worker to become ready; 1 min
	Stable     time.Duration // time for which a ready upgraded worker must then run; 5 min
}

func (l RunLimits) withDefaults() RunLimits {
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

// Upgrader replaces the program's binary. Run calls one method at a time, and starts or ends no
// worker during a call. After each call, and after a power cut at any moment, the installed binary
// can be started.
type Upgrader interface {
	// Swap replaces the program with the staged binary at the given path, and keeps the old
	// binary. The new binary is then on probation. After an error the old binary is still
	// installed, and is not on probation.
	Swap(staged string) error
	// Rollback restores the old binary and records the reason. If the operator has already
	// ended the probation, Rollback does nothing and returns ErrSettled.
	Rollback(reason string) error
	// Commit marks the last upgrade as settled. It is called when the new binary has passed its
	// probation, or when the rollback was reported.
	Commit() error
	// Status returns the state of the last upgrade, which may have begun before this process
	// started. It returns nil if the upgrade is settled. If the upgrade was rolled back and
	// Commit was not called since, Failed is set. Otherwise the upgrade is on probation. Run
	// calls Status before each start of a worker.
	Status() *Upgraded
}

// ErrSettled reports that no upgrade is on probation.
var ErrSettled = errors.New("the upgrade is no longer on probation")

// Run starts the worker, and restarts it when necessary. When no further restart follows, it
// returns the exit code for the program. The error is nil if the worker itself has logged the
// reason for its end. Run fails if another Run uses the same data directory.
//
// When ctx is done, Run asks the worker to shut down cleanly, which may take arbitrarily long.
// Config.Kill makes Run end the worker at once. No worker is running when Run returns.
//
// If a worker announces its end and exits with the announced code, Run returns. The exception is
// CodeRestart, after which Run restarts the worker at once. After any other end, Run writes a
// tombstone, and restarts the worker after a jittered, growing wait. Run gives up after more than
// Limits.Crashes crashes. A worker that was ready for Limits.Healthy resets the count of crashes.
// If a worker gives no sign of life, Run makes the worker write its goroutines to standard error,
// and then ends the worker.
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

// AwaitParent waits until the parent process has ended, and returns true. If ctx is done first,
// it returns false.
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

// lockParent makes this process the only parent that uses a data directory, until the returned
// file is closed. A second parent's worker would fail, and would cause the rollback of an
// upgrade on probation. If the directory cannot be locked, both results are nil, and the worker
// will report the problem.
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

// lockParent retries for up to lockTimeout, because a call of Running holds the lock for a
// moment.
const (
	lockTimeout = time.Second
	lockTries   = 10
)

func parentLock(dir string) string { return filepath.Join(crashDir(dir), ".parent") }

// Running reports whether a process runs Run with the data directory dir, even if its worker is
// not ready.
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
	start  func(path string, s StartRequest) (*child, error)
	policy restartPolicy
	// probation is the upgrade on probation, or nil.
	probation *upgrade
	note      Note // for the next worker; cleared once a worker that got it is ready
	// unreported is set while the field note describes a rolled-back upgrade. The record of that
	// upgrade stays on disk until a worker that has received the note is ready.
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
	return &supervisor{Config: c, start: c.start, policy: restartPolicy{
		limits: c.Limits, noRestart: c.NoRestart, crash: crashDir(c.Dir),
		backoff: retry.Backoff{Min: c.Limits.BackoffMin, Max: c.Limits.BackoffMax},
	}}
}

// loop implements Run after the data directory has been locked.
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

// pause waits before the next start of a worker. It returns false if no worker may be started,
// because ctx is done or Kill was used.
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

// run starts one worker and watches it until it ends.
func (s *supervisor) run(ctx context.Context) ending {
	path, err := s.Executable()
	if err != nil {
		return ending{failure: err}
	}
	worker, err := s.start(path, StartRequest{Args: s.WorkerArgs, Terminal: s.Terminal, Note: s.note})
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

// decide returns what to do after a worker has ended. The parameter e describes the worker's end.
// The method also rolls back a failed upgrade, and begins a requested one.
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
