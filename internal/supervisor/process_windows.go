package supervisor

import (
	"os"
	"syscall"
)

// ownGroup puts a worker into a process group of its own, which an interrupt of
// the console does not reach.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// quit ends a process. Windows has no way to make it say where it stands.
func quit(p *os.Process) error { return p.Kill() }

// signalOf returns "": Windows has no signals that end processes.
func signalOf(*os.ProcessState) string { return "" }

// IgnoreBrokenPipes makes a write to a standard output or error that nobody
// reads any more fail, instead of ending the process; on Windows it does anyway.
func IgnoreBrokenPipes() {}

// parentGone returns what tells whether the process that started this one is gone.
func parentGone() func() bool {
	parent, err := syscall.OpenProcess(syscall.SYNCHRONIZE, false, uint32(os.Getppid()))
	if err != nil { // it is not to be seen: nothing is known of it
		return func() bool { return false }
	}
	return func() bool {
		event, err := syscall.WaitForSingleObject(parent, 0)
		return err == nil && event == syscall.WAIT_OBJECT_0
	}
}
