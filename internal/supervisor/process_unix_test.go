//go:build unix

package supervisor_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// family is a parent in a process and a process group of its own, with one worker.
type family struct {
	parent *exec.Cmd
	worker *servant
	ended  func() error // waits for the parent's end
}

func newFamily(t *testing.T) *family {
	t.Helper()
	l := newLab(t, nil)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &family{parent: exec.Command(program)}
	f.parent.Env = append(as("parent", l.listener.Addr().String()), dirVariable+"="+l.config.Dir)
	f.parent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := f.parent.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.parent.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(bufio.NewReader(stderr))
		said <- string(text)
	}()
	ended := make(chan error, 1)
	go func() {
		text := <-said
		err := f.parent.Wait()
		if t.Failed() {
			t.Log(text)
		}
		ended <- err
		close(ended)
	}()
	f.ended = func() error { return <-ended }
	t.Cleanup(func() {
		_ = f.parent.Process.Kill()
		_ = f.ended()
	})
	f.worker = l.worker()
	return f
}

func TestWorker_OutlivesItsParentOnlyToFinish(t *testing.T) {
	t.Parallel()
	f := newFamily(t)
	f.worker.do("ready")
	if err := f.parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.ended(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the parent ended with %v", err)
	}
	f.worker.waitFor("done")
	f.worker.do("stderr 100000") // which has no reader any more
	f.worker.do("stdout lost")
	f.worker.do("session none")
	f.worker.order("end 0 drained")
	f.worker.waitForEnd()
}

func TestWorker_GetsNoInterruptOfTheTerminal(t *testing.T) {
	t.Parallel()
	f := newFamily(t)
	f.worker.do("ready")
	if err := syscall.Kill(-f.parent.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	f.worker.waitFor("done")
	f.worker.do("ready") // it lives
	f.worker.order("end 0 drained")
	f.worker.waitForEnd()
	if err := f.ended(); err != nil {
		t.Errorf("the parent ended with %v", err)
	}
}
