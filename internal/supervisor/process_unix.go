//go:build unix

package supervisor

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// ownGroup puts a worker into a separate process group, so that an interrupt at the terminal
// does not reach the worker.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// quit makes Go's runtime write all goroutines to standard error, and end.
func quit(p *os.Process) error { return p.Signal(syscall.SIGQUIT) }

// signalOf returns the name of the signal that ended a process, or "" if no signal ended it.
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

// IgnoreBrokenPipes makes a write to a closed standard output or standard error fail, instead
// of ending the process. The worker needs this to shut down cleanly after its parent has ended.
// The parent needs this to keep running after the reader of its log has ended.
func IgnoreBrokenPipes() { signal.Ignore(syscall.SIGPIPE) }

// parentGone returns a function that reports whether the parent process has ended. When a
// parent ends, Unix assigns its children another parent.
func parentGone() func() bool {
	parent := os.Getppid()
	return func() bool { return os.Getppid() != parent }
}
