package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartAfter is how long the service manager waits before a restart.
const restartAfter = 300 * time.Millisecond

// service runs "eds server" like systemd with Restart=on-failure and
// RestartPreventExitStatus=3.
type service struct {
	program string
	args    []string
	env     []string
	dir     string // working directory
	logPath string // of the server's output
	record  func(format string, args ...any)

	mu      sync.Mutex
	cmd     *exec.Cmd // the parent process, or nil
	began   int64     // offset of its output in the log
	wanted  bool
	code    int           // exit code of the last process
	killed  bool          // the process was killed, or gives up because its workers were
	kills   int           // of workers of the process
	ended   string        // how a process exited by itself; "" if none did
	stop    chan struct{} // closed when the server is no longer wanted
	keeping chan struct{} // closed when the process has exited for good
	orphans []int         // workers whose parent was killed
}

// start starts the server and keeps it running.
func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted {
		return errors.New("the server runs already")
	}
	s.wanted, s.stop, s.keeping = true, make(chan struct{}), make(chan struct{})
	cmd, err := s.launch()
	if err != nil {
		s.wanted = false
		return err
	}
	go s.keep(cmd)
	return nil
}

// launch starts the process. The lock is held.
func (s *service) launch() (*exec.Cmd, error) {
	log, err := os.OpenFile(s.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if s.began, err = log.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.program, s.args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s.cmd, s.killed, s.kills = cmd, false, 0
	return cmd, nil
}

// keep restarts the process whenever it exits and is still wanted.
func (s *service) keep(cmd *exec.Cmd) {
	defer close(s.keeping)
	for {
		err := cmd.Wait()
		said := ReadLog(s.output())
		s.mu.Lock()
		s.cmd, s.code = nil, cmd.ProcessState.ExitCode()
		unasked, stop := s.wanted, s.stop
		again := unasked && s.code != 0 && s.code != 3
		if unasked && !s.killed {
			s.ended = fmt.Sprintf("%v: %v", cmd.ProcessState, said)
		}
		s.mu.Unlock()
		if unasked {
			s.record("the server has exited: %v", cmd.ProcessState)
		}
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			s.record("wait for the server: %v", err)
		}
		if !again {
			return
		}
		select {
		case <-time.After(restartAfter):
		case <-stop:
			return
		}
		s.mu.Lock()
		cmd = nil
		if s.wanted {
			cmd, err = s.launch()
		}
		s.mu.Unlock()
		if cmd == nil {
			s.record("the server is not restarted: %v", err)
			return
		}
	}
}

// pids returns the parent and the worker; 0 for one that does not exist.
func (s *service) pids() (parent, worker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0, 0
	}
	parent = s.cmd.Process.Pid
	return parent, childOf(parent)
}

// childOf returns a child of the process, or 0.
func childOf(parent int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return pid
			}
		}
	}
	return 0
}

// mostKills is how many crashes of its worker a parent tolerates.
const mostKills = 5

// killWorker kills the worker alone, and reports whether there was one.
func (s *service) killWorker() bool {
	_, worker := s.pids()
	s.mu.Lock()
	s.kills++
	s.killed = s.killed || s.kills > mostKills
	s.mu.Unlock()
	return worker != 0 && syscall.Kill(worker, syscall.SIGKILL) == nil
}

// killParent kills the parent alone. The worker has to notice and exit.
func (s *service) killParent() bool {
	parent, worker := s.pids()
	if parent == 0 {
		return false
	}
	s.mu.Lock()
	s.killed = true
	if worker != 0 {
		s.orphans = append(s.orphans, worker)
	}
	s.mu.Unlock()
	return syscall.Kill(parent, syscall.SIGKILL) == nil
}

// killBoth kills both processes like a power cut: neither sees the other's exit.
func (s *service) killBoth() bool {
	parent, _ := s.pids()
	if parent == 0 {
		return false
	}
	s.mu.Lock()
	s.killed = true
	s.mu.Unlock()
	_ = syscall.Kill(parent, syscall.SIGSTOP) // it must not start another worker
	if worker := childOf(parent); worker != 0 {
		_ = syscall.Kill(worker, syscall.SIGKILL)
	}
	return syscall.Kill(parent, syscall.SIGKILL) == nil
}

// frozen calls f while the processes are suspended: their files are as a crash
// would leave them.
func (s *service) frozen(f func() error) error {
	parent, worker := s.pids()
	for _, pid := range []int{parent, worker} {
		if pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
			defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
		}
	}
	return f()
}

// down stops the server for good, by SIGTERM or by SIGKILL to both processes, and
// returns the exit code.
func (s *service) down(ctx context.Context, kill bool) (int, error) {
	s.mu.Lock()
	if !s.wanted {
		s.mu.Unlock()
		return s.code, nil
	}
	s.wanted = false
	close(s.stop)
	cmd := s.cmd
	s.mu.Unlock()
	switch {
	case kill:
		s.killBoth()
	case cmd != nil:
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have exited
	}
	select {
	case <-s.keeping:
		return s.code, nil
	case <-ctx.Done():
		s.killBoth()
		<-s.keeping
		return s.code, &Failure{Stuck, "the server does not exit after SIGTERM"}
	}
}

// close ends every process that is left.
func (s *service) close() {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_, _ = s.down(done, true) // it is killed at once
	for _, pid := range s.orphans {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == s.program {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// endedByItself returns how a process has exited since the last call although it was
// neither stopped nor killed; "" if none has.
func (s *service) endedByItself() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.ended
	s.ended = ""
	return ended
}

// up reports whether the server runs, and is to run.
func (s *service) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && s.wanted
}

// output returns the output of the latest process.
func (s *service) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, _ := os.ReadFile(s.logPath) // without a file there is no output yet
	return string(text[min(int64(len(text)), s.began):])
}

var healthURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)

// errNoPort says that the server has not printed its address yet.
var errNoPort = errors.New("the server has not printed its port")

// health asks the health port.
func (s *service) health(ctx context.Context) ([]byte, error) {
	// Each worker has a port of its own.
	all := healthURL.FindAllString(s.output(), -1)
	if len(all) == 0 {
		return nil, errNoPort
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, all[len(all)-1], nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// run runs a command of eds. The exit code is no error.
func (s *service) run(ctx context.Context, args ...string) (stdout, stderr string, code int, err error) {
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	var outBuf, errBuf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &outBuf, &errBuf
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = nil
	}
	return outBuf.String(), errBuf.String(), cmd.ProcessState.ExitCode(), err
}
