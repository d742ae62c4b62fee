package supervisor

import (
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// Kind says how a worker ended that should not have.
type Kind string

// The kinds of unexpected ends.
const (
	KindPanic  Kind = "panic"  // a panic, or an error that the runtime calls fatal
	KindSignal Kind = "signal" // a signal but SIGKILL
	KindKilled Kind = "killed" // SIGKILL: out of memory, or by hand
	KindHang   Kind = "hang"   // it said nothing for too long, and was ended
	KindExit   Kind = "exit"   // any other exit that it had not announced
	KindStart  Kind = "start"  // it could not be started, which leaves no tombstone
)

// codePanic is the exit code of Go's runtime after a panic, and after a signal
// that it has explained on standard error.
const codePanic = 2

// ending is how one worker ended, and what it said before.
type ending struct {
	pid     int
	started time.Time
	ran     time.Duration
	failure error // it never started

	code    int    // the exit code, or -1
	signal  string // the name of the signal that ended it, or ""
	starved bool   // memory ran out while it ran
	message string // the runtime's first line about it, or ""
	stderr  string // the last of its standard error

	ready   bool
	healthy time.Duration // how long it was ready
	said    *report       // what it said of its end
	session string        // the session that it left open
	upgrade *report       // the upgrade that it asked for

	stopped bool // it was asked for an orderly end
	killed  bool // it was ended at once, as asked for
	hung    bool // it was ended because it said nothing
	late    bool // it was ended because it was not ready in time
}

// announced reports whether the worker ended as it said that it would.
func (e ending) announced() bool {
	if e.said == nil || e.signal != "" || e.said.Code != e.code {
		return false
	}
	switch e.code {
	case CodeOK, CodeError, CodeUsage, CodeRestart:
		return true
	}
	return false
}

// kind tells the unexpected ends apart; it is "" for an end that is expected.
func (e ending) kind() Kind {
	switch {
	case e.failure != nil:
		return KindStart
	case e.hung || e.late:
		return KindHang
	case e.announced() || e.stopped && e.code == CodeOK && e.signal == "":
		return ""
	case e.signal == "SIGKILL":
		return KindKilled
	case e.signal != "":
		return KindSignal
	case e.code == codePanic:
		return KindPanic
	default:
		return KindExit
	}
}

// what says in words how the worker ended.
func (e ending) what(l Limits) string {
	switch {
	case e.failure != nil:
		return "it can't be started: " + e.failure.Error()
	case e.late:
		return fmt.Sprintf("it was not ready within %s", l.Ready)
	}
	switch e.kind() {
	case KindHang:
		return fmt.Sprintf("it gave no sign of life for %s", l.Hang)
	case KindKilled:
		if e.starved {
			return "it was killed (SIGKILL) while memory ran out: give it more, or look for what else uses it"
		}
		return "it was killed (SIGKILL), which the system does when memory runs out: its own log says so"
	case KindSignal:
		return "it was ended by " + e.signal
	case KindPanic:
		return "it panicked (exit code 2)"
	case "":
		return e.announcement()
	default:
		return fmt.Sprintf("it ended with exit code %d, which it had not announced", e.code)
	}
}

func (e ending) announcement() string {
	text := fmt.Sprintf("it ended with exit code %d", e.code)
	if e.said != nil && e.said.Reason != "" {
		text += ": " + e.said.Reason
	}
	return text
}

// verdict is what follows the end of a worker: the end of Run, or a new start
// after a wait.
type verdict struct {
	final bool
	code  int
	err   error
	wait  time.Duration
}

func end(code int, err error) verdict { return verdict{final: true, code: code, err: err} }

// policy decides what follows the ends of workers, in their order.
type policy struct {
	limits    Limits
	noRestart bool
	crash     string // where tombstones are
	backoff   retry.Backoff
	started   bool // a worker could be started
	crashes   int  // unexpected ends without healthy minutes between
}

func (p *policy) judge(e ending) verdict {
	first := !p.started
	p.started = p.started || e.failure == nil
	if e.healthy >= p.limits.Healthy {
		p.crashes = 0
		p.backoff.Reset()
	}
	switch {
	case e.killed && e.kind() != "":
		return end(CodeError, errors.New("the worker was ended at once; what it had not finished is done again at the next start"))
	case e.kind() == "":
		return p.expected(e)
	case e.failure != nil && first:
		return end(CodeError, fmt.Errorf("start the worker: %w", e.failure))
	case e.stopped:
		return end(CodeError, fmt.Errorf("the worker did not end in order: %s; see %s", e.what(p.limits), p.crash))
	case p.noRestart:
		return end(CodeError, fmt.Errorf("the worker ended unexpectedly, and is not to be started again: %s; see %s", e.what(p.limits), p.crash))
	}
	p.crashes++
	if p.crashes > p.limits.Crashes {
		return end(CodeError, fmt.Errorf("the worker ended unexpectedly %d times without %s of health between, the last time because %s; "+
			"look at the newest file in %s and at the log before this line, mend the cause, and start eds again",
			p.crashes, p.limits.Healthy, e.what(p.limits), p.crash))
	}
	return verdict{wait: p.backoff.Next(nil)}
}

// expected judges an end that the worker had announced, or was asked for.
func (p *policy) expected(e ending) verdict {
	switch {
	case e.code != CodeRestart:
		return end(e.code, nil)
	case e.stopped:
		return end(CodeOK, nil)
	case !e.ready:
		// A worker that asks for restarts only must not use up a processor.
		return verdict{wait: p.backoff.Next(nil)}
	default:
		return verdict{}
	}
}

// rolledBack judges the end of a worker whose binary has been taken back. It
// does not count: the old binary had no part in it.
func (p *policy) rolledBack(e ending) verdict {
	p.started = true
	if p.noRestart {
		return end(CodeError, fmt.Errorf("the upgraded worker failed, the old binary is back, and is not to be started again: %s; see %s", e.what(p.limits), p.crash))
	}
	return verdict{}
}
