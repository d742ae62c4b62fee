// Package supervisor is both ends of the line between the two processes of eds
// server: a small parent, and the worker that does everything.
//
// The parent, Run, starts the worker, watches it, starts it again with growing
// waits when it crashes, and exchanges its binary on an upgrade. It knows
// nothing of what the worker does, so that it is small and has little to crash of.
//
// The worker, which calls Attach, is the same executable with a hidden
// subcommand. What eds server was told reaches it over its standard input, never
// on its command line, because secrets may be in it. The end of that input means
// that the parent is gone or asks for an orderly end: the worker finishes what
// it holds, says so with Exiting, and ends. On its standard output it tells the
// parent how it is. Both directions are JSON, a message a line. After an upgrade
// the two may be of different versions, so members and types are only ever
// added, and what is not known is passed over.
//
// The worker is in a process group of its own: an interrupt of the terminal
// reaches the parent alone. A signal that reaches the worker nevertheless, from
// a service manager that signals every process, asks for the same as the end of
// its input, and not a second time.
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

// Exit codes by which the worker tells the parent what shall follow.
const (
	CodeOK      = 0 // an orderly end
	CodeError   = 1 // it can't go on, and has said why
	CodeUsage   = 3 // wrong usage, or a destination that fails its test
	CodeRestart = 4 // start me again
)

// Config is what Run works with.
type Config struct {
	// Executable returns the path of the program. It is asked before each start.
	Executable func() (string, error)
	Args       []string // the worker's command line, which anybody may read
	WorkerArgs []string // the program's own, of eds server, which nobody may
	Terminal   bool     // Stderr is one
	Env        []string // the worker's environment; nil is the parent's
	Dir        string   // the data directory; tombstones are in its directory crash
	Version    string   // the program's, for tombstones

	// Stderr gets what the worker writes to its standard error, as it comes.
	Stderr io.Writer
	// Redact takes secrets out of what a tombstone keeps; nil keeps all.
	Redact func(string) string

	// Kill ends the worker at once when it is closed or sends.
	Kill <-chan struct{}
	// NoRestart returns after the first unexpected end of the worker.
	NoRestart bool
	Upgrader  Upgrader // nil where the binary can't be exchanged
	Logger    *slog.Logger
	Limits    Limits
}

// Limits are the times and counts that Run goes by. Those that are zero have
// the values that are named here.
type Limits struct {
	Hang       time.Duration // a worker that has said nothing for this long hangs: 2 min
	Quit       time.Duration // what such a worker is given to say where it hangs: 10 s
	BackoffMin time.Duration // the wait before the first restart: 1 s
	BackoffMax time.Duration // the longest wait: 1 min
	Crashes    int           // unexpected ends that are followed by a restart: 5
	Healthy    time.Duration // a worker that was ready for this long clears them: 10 min
	Ready      time.Duration // what an upgraded worker is given to be ready: 1 min
	Stable     time.Duration // what it then has to last: 5 min
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

// Upgrader exchanges the program's binary. Calls are serial, and no worker is
// starting or ending meanwhile. Each method leaves a binary in its place that
// can be started, whenever the power goes.
type Upgrader interface {
	// Swap puts the binary at staged in the program's place and keeps the old
	// one. From then on the new one is on probation. After an error the old one
	// is in its place, not on probation.
	Swap(staged string) error
	// Rollback puts the old binary back and notes why. Where somebody else has
	// ended the probation it does nothing and returns ErrSettled.
	Rollback(reason string) error
	// Commit ends the probation: the new binary has proved itself, or those who are
	// to know have been told why the old one is back.
	Commit() error
	// Standing says how the last upgrade stands, as it may since before this process
	// began: nil is settled, one that has failed was taken back without a Commit, any
	// other is on probation. It is asked before each start of a worker.
	Standing() *Upgraded
}

// ErrSettled says that no upgrade is on probation.
var ErrSettled = errors.New("the upgrade is no more on probation")

// Run starts the worker, and again whenever that is called for, until it has
// ended for good; its exit code is to be that of the program. The error is what
// remains to be said: nil after an end of which the worker has said itself why.
// There is one Run at a time for a data directory; another is an error.
//
// The end of ctx asks the worker for an orderly end, which takes as long as it
// takes; Kill ends it at once. No worker is left when Run returns.
//
// A worker that said that it ends, and did with the code that it said, is not
// started again, but after CodeRestart at once. Every other end leaves a
// tombstone and is followed by a new start after a jittered, growing wait, until
// there were too many without ten healthy minutes between. A worker that is silent
// for too long is made to say where it hangs, and ended.
func Run(ctx context.Context, c Config) (int, error) {
	alone, err := only(ctx, c.Dir)
	if err != nil {
		return CodeError, err
	}
	if alone != nil {
		defer alone.Close()
	}
	return newSupervisor(c).loop(ctx)
}

// AwaitParent waits until the process that started this one is gone, and reports whether
// it is: false if ctx ends first.
func AwaitParent(ctx context.Context) bool {
	gone := parentGone()
	ticker := time.NewTicker(probeEvery) // no system tells a process of its parent's end
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

// only makes this the only parent that works with a data directory, until the
// file that it returns is closed: a second one's worker would fail, and that is
// no fault of an upgrade on probation. Where there can be no lock, it is nil, and
// the worker says what is wrong with the directory.
func only(ctx context.Context, dir string) (*os.File, error) {
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
			return nil, fmt.Errorf("another eds server works with the data directory %s: stop it first, or choose another by --data-dir", dir)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// The lock of the parent is tried a few times, because Running holds it for a moment.
const (
	lockTimeout = time.Second
	lockTries   = 10
)

func parentLock(dir string) string { return filepath.Join(crashDir(dir), ".parent") }

// Running reports whether a Run works with a data directory, also while its worker is not
// there or not ready.
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
	trial  *trial // the upgrade that has not proved itself yet, or nil
	note   Note   // for the next worker, until one was ready
	untold bool   // the note is of an upgrade that was taken back, which is on disk until then
	wait   time.Duration
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
		v := s.judge(s.run(ctx))
		if v.final {
			return v.code, v.err
		}
		s.wait = v.wait
	}
	return CodeOK, nil
}

// pause waits before the next start. It reports whether there shall be one.
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
	w := watch{supervisor: s, child: worker, end: ending{pid: worker.pid, started: time.Now()}}
	w.follow(ctx)
	if kind := w.end.kind(); kind != "" && !w.end.killed {
		s.bury(w.end, kind)
	}
	return w.end
}

// judge decides what follows the end of a worker.
func (s *supervisor) judge(e ending) verdict {
	if s.trial != nil && e.failsTrial() && s.rollBack(e) {
		return s.policy.rolledBack(e)
	}
	v := s.policy.judge(e)
	if v.final {
		return v
	}
	if e.kind() != "" {
		s.Logger.Error("the worker ended unexpectedly and is started again", "reason", e.what(s.Limits),
			"ran", e.ran.Round(time.Millisecond), "unexpected", s.policy.crashes, "wait", v.wait.Round(time.Millisecond))
	}
	if e.upgrade != nil {
		s.upgrade(e)
	}
	return v
}
