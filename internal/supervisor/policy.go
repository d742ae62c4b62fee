package supervisor

import (
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// CrashKind is the kind of a crash.
type CrashKind string

// Kinds of crashes.
const (
	KindPanic  CrashKind = "panic"  // a panic, or an error that the runtime calls fatal
	KindSignal CrashKind = "signal" // a signal other than SIGKILL
	KindKilled CrashKind = "killed" // SIGKILL: memory ran out, or the operator killed the worker
	KindHang   CrashKind = "hang"   // no sign of life for too long
	KindExit   CrashKind = "exit"   // any other exit that was not announced
	KindStart  CrashKind = "start"  // the worker could not be started; writes no tombstone
)

// codePanic is the exit code with which Go's runtime ends the process after a panic or a fatal
// signal.
const codePanic = 2

// ending describes the end of one worker.
type ending struct {
	pid     int
	started time.Time
	ran     time.Duration
	failure error // why the worker could not be started, or nil

	code    int    // the exit code, or -1
	signal  string // the name of the signal that ended it, or ""
	starved bool   // memory ran out while it ran
	message string // the first line of the runtime's report, or ""
	stderr  string // the end of its standard error

	ready   bool
	healthy time.Duration  // how long it was ready
	exiting *workerMessage // the worker's announcement of its end, or nil
	session string         // the session that the worker left open, or ""
	upgrade *workerMessage // the upgrade that the worker requested, or nil

	stopped bool // the worker was asked to shut down
	killed  bool // the worker was killed on request
	hung    bool // the worker was ended because it gave no sign of life
	late    bool // the worker was ended because it was not ready in time
}

// announced reports whether the worker announced its end, and then exited with the announced
// code.
func (e ending) announced() bool {
	if e.exiting == nil || e.signal != "" || e.exiting.Code != e.code {
		return false
	}
	switch e.code {
	case CodeOK, CodeError, CodeUsage, CodeRestart:
		return true
	}
	return false
}

// kind returns the kind of the crash, or "" if the worker ended as expected.
func (e ending) kind() CrashKind {
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

// describe returns a sentence that says how the worker ended. The sentence refers to the worker
// as "it".
func (e ending) describe(l RunLimits) string {
	switch {
	case e.failure != nil:
		return "it cannot be started: " + e.failure.Error()
	case e.late:
		return fmt.Sprintf("it was not ready within %s", l.Ready)
	}
	switch e.kind() {
	case KindHang:
		return fmt.Sprintf("it gave no sign of life for %s", l.Hang)
	case KindKilled:
		if e.starved {
			return "it was killed (SIGKILL) while memory ran out: give it more memory, or find the process that uses it"
		}
		return "it was killed (SIGKILL), as the system does when memory runs out: see the system's log"
	case KindSignal:
		return "it was ended by " + e.signal
	case KindPanic:
		return "it panicked (exit code 2)"
	case "":
		return e.announcement()
	default:
		return fmt.Sprintf("it ended with exit code %d unexpectedly", e.code)
	}
}

func (e ending) announcement() string {
	text := fmt.Sprintf("it ended with exit code %d", e.code)
	if e.exiting != nil && e.exiting.Reason != "" {
		text += ": " + e.exiting.Reason
	}
	return text
}

// decision is the reaction to a worker's end. If the field final is true, Run returns the fields
// code and err. Otherwise Run starts another worker after the time in the field wait.
type decision struct {
	final bool
	code  int
	err   error
	wait  time.Duration
}

func end(code int, err error) decision { return decision{final: true, code: code, err: err} }

// restartPolicy decides whether the program ends or starts another worker after the end of a
// worker. The method decide must be called for the workers in the order in which they ended.
type restartPolicy struct {
	limits    RunLimits
	noRestart bool
	crash     string // the directory of the tombstones
	backoff   retry.Backoff
	started   bool // at least one worker could be started
	crashes   int  // number of crashes since the last worker that was healthy for long enough
}

// decide returns what to do after a worker has ended. The parameter e describes the worker's end.
func (p *restartPolicy) decide(e ending) decision {
	first := !p.started
	p.started = p.started || e.failure == nil
	if e.healthy >= p.limits.Healthy {
		p.crashes = 0
		p.backoff.Reset()
	}
	switch {
	case e.killed && e.kind() != "":
		return end(CodeError, errors.New("the worker was ended at once; unfinished work is repeated at the next start"))
	case e.kind() == "":
		return p.expected(e)
	case e.failure != nil && first:
		return end(CodeError, fmt.Errorf("start the worker: %w", e.failure))
	case e.stopped:
		return end(CodeError, fmt.Errorf("the worker did not shut down in order: %s; see %s", e.describe(p.limits), p.crash))
	case p.noRestart:
		return end(CodeError, fmt.Errorf("the worker crashed, and --no-restart is set: %s; see %s", e.describe(p.limits), p.crash))
	}
	p.crashes++
	if p.crashes > p.limits.Crashes {
		return end(CodeError, fmt.Errorf("the worker crashed %d times without %s of health in between, the last time because %s; "+
			"see the newest file in %s and the log above, fix the cause, and start eds again",
			p.crashes, p.limits.Healthy, e.describe(p.limits), p.crash))
	}
	return decision{wait: p.backoff.Next(nil)}
}

// expected returns what to do after an end that was announced or requested.
func (p *restartPolicy) expected(e ending) decision {
	switch {
	case e.code != CodeRestart:
		return end(e.code, nil)
	case e.stopped:
		return end(CodeOK, nil)
	case !e.ready:
		// A worker that keeps requesting restarts must not use up a processor.
		return decision{wait: p.backoff.Next(nil)}
	default:
		return decision{}
	}
}

// rolledBack returns what to do after a crash that has led to the rollback of an upgrade. The crash
// does not count against the old binary.
func (p *restartPolicy) rolledBack(e ending) decision {
	p.started = true
	if p.noRestart {
		return end(CodeError, fmt.Errorf("the upgraded worker failed, the old binary is restored, and --no-restart is set: %s; see %s",
			e.describe(p.limits), p.crash))
	}
	return decision{}
}
