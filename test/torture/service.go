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

// restartAfter is how long the service manager waits before it restarts the server.
const restartAfter = 300 * time.Millisecond

// service runs "eds server" in the same way as systemd does with Restart=on-failure and
// RestartPreventExitStatus=3.
type service struct {
	program string
	args    []string
	env     []string
	dir     string // working directory
	logPath string // path of the file with the server's output
	record  func(format string, args ...any)

	mu      sync.Mutex
	cmd     *exec.Cmd // the parent process, or nil if none is running
	began   int64     // where the output of this process starts in the log
	wanted  bool
	code    int           // exit code of the last process
	killed  bool          // the process was killed, or gives up because its workers were
	kills   int           // number of times that a worker of this process was killed
	ended   string        // how a process exited by itself, or "" if none did
	stop    chan struct{} // closed when the server is no longer wanted
	keeping chan struct{} // closed when the process has exited and will not be restarted
	orphans []int         // workers whose parents were killed
}

// start starts the server. Like systemd, it restarts a server that exits, until the method down is
// called.
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

// launch starts the server process. The caller holds the lock.
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

// keep waits for the process, and restarts it after a failure while the server is wanted.
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

// pids returns the process ids of the parent and the worker. The id of a process that does not
// exist is 0.
func (s *service) pids() (parent, worker int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0, 0
	}
	parent = s.cmd.Process.Pid
	return parent, childOf(parent)
}

// childOf returns the process id of a child of parent, or 0 if there is none.
func childOf(parent int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // an error means that a thread has ended
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return pid
			}
		}
	}
	return 0
}

// mostKills is the number of worker crashes that a parent tolerates.
const mostKills = 5

// killWorker kills only the worker, and reports whether there was one.
func (s *service) killWorker() bool {
	_, worker := s.pids()
	s.mu.Lock()
	s.kills++
	s.killed = s.killed || s.kills > mostKills
	s.mu.Unlock()
	return worker != 0 && syscall.Kill(worker, syscall.SIGKILL) == nil
}

// killParent kills only the parent, and reports whether there was one. The worker is expected to
// notice this and exit.
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

// killBoth kills both processes as a power cut would: neither process can react to the exit of the
// other. It reports whether there was a parent.
func (s *service) killBoth() bool {
	parent, _ := s.pids()
	if parent == 0 {
		return false
	}
	s.mu.Lock()
	s.killed = true
	s.mu.Unlock()
	_ = syscall.Kill(parent, syscall.SIGSTOP) // so that the parent does not start another worker
	if worker := childOf(parent); worker != 0 {
		_ = syscall.Kill(worker, syscall.SIGKILL)
	}
	return syscall.Kill(parent, syscall.SIGKILL) == nil
}

// frozen calls f while the processes are suspended, so that f sees their files as a crash would
// leave them.
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

// down stops the server without a restart, and returns the exit code. If kill is true, it kills
// both processes; otherwise, it sends SIGTERM.
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
		_ = cmd.Process.Signal(syscall.SIGTERM) // an error means that the process has exited
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

// close kills every process that is still running.
func (s *service) close() {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_, _ = s.down(done, true) // the context is done, so down kills the processes at once
	for _, pid := range s.orphans {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && exe == s.program {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// endedByItself describes the last exit of the server that was caused neither by a stop nor by a
// kill. It returns "" if there was no such exit since the previous call.
func (s *service) endedByItself() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.ended
	s.ended = ""
	return ended
}

// up reports whether the server is wanted and its process is running.
func (s *service) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && s.wanted
}

// output returns the output of the current process, or of the last one.
func (s *service) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, _ := os.ReadFile(s.logPath) // an error means that there is no output yet
	return string(text[min(int64(len(text)), s.began):])
}

var healthURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)

// errNoPort means that the server has not printed the address of its health endpoint yet.
var errNoPort = errors.New("the server has not printed its port")

// health returns the body of the server's health endpoint.
func (s *service) health(ctx context.Context) ([]byte, error) {
	// Each worker listens on a new port, so use the last address in the output.
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

// run runs an eds command and returns its output. An exit code other than 0 is not an error.
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
