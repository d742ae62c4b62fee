package supervisor

import (
	"os"
	"syscall"
)

// ownGroup puts a worker into a separate process group, so that an interrupt at the console
// does not reach the worker.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// quit ends the process. Windows cannot make a process write its goroutines.
func quit(p *os.Process) error { return p.Kill() }

// signalOf returns "": Windows has no signals that end processes.
func signalOf(*os.ProcessState) string { return "" }

// IgnoreBrokenPipes does nothing: on Windows, a write to a closed standard output or error
// never ends the process.
func IgnoreBrokenPipes() {}

// parentGone returns a function that reports whether the parent process has ended.
func parentGone() func() bool {
	parent, err := syscall.OpenProcess(syscall.SYNCHRONIZE, false, uint32(os.Getppid()))
	if err != nil { // the parent is not visible to this process
		return func() bool { return false }
	}
	return func() bool {
		event, err := syscall.WaitForSingleObject(parent, 0)
		return err == nil && event == syscall.WAIT_OBJECT_0
	}
}
