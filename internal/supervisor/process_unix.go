//go:build unix

package supervisor

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// ownGroup puts a worker into a process group of its own, which an interrupt of
// the terminal does not reach.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// quit makes Go's runtime write all goroutines to standard error, and end.
func quit(p *os.Process) error { return p.Signal(syscall.SIGQUIT) }

// signalOf returns the name of the signal that ended a process, or "".
func signalOf(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return ""
	}
	switch s := status.Signal(); s {
	case syscall.SIGKILL:
		return "SIGKILL"
	case syscall.SIGSEGV:
		return "SIGSEGV"
	case syscall.SIGBUS:
		return "SIGBUS"
	case syscall.SIGILL:
		return "SIGILL"
	case syscall.SIGFPE:
		return "SIGFPE"
	case syscall.SIGABRT:
		return "SIGABRT"
	case syscall.SIGTRAP:
		return "SIGTRAP"
	case syscall.SIGSYS:
		return "SIGSYS"
	case syscall.SIGQUIT:
		return "SIGQUIT"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGPIPE:
		return "SIGPIPE"
	case syscall.SIGXCPU:
		return "SIGXCPU"
	default:
		return fmt.Sprintf("signal %d", int(s))
	}
}

// IgnoreBrokenPipes makes a write to a standard output or error that nobody
// reads any more fail, instead of ending the process. The worker needs it to
// finish in order after its parent has died; the parent, to outlive whoever reads
// its log.
func IgnoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }

// parentGone returns what tells whether the process that started this one is gone.
// Unix gives its children another parent then.
func parentGone() func() bool {
	parent := os.Getppid()
	return func() bool { return os.Getppid() != parent }
}
