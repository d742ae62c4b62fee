// Package peers starts the servers that tests connect to. Each server is private to the tests,
// listens on a free loopback port, and has a temporary directory. No server or directory outlives
// the test process, even if that process is killed. If a server cannot start, the test fails with a
// text that says what to install. It is never skipped.
//
// Only tests import this package.
package peers

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that runs servers which refuse to run as root.
type account struct{ uid, gid uint32 }

// unprivileged returns the account that runs a server. If the current user is not root, it returns
// nil, which means the current user. If the current user is root, it returns the first account in
// names that exists, or the account `nobody` if none of them exists.
func unprivileged(names ...string) (*account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range append(names, "nobody") {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &account{uint32(uid), uint32(gid)}, nil
	}
	return nil, errors.New("no account to run a server as but root's")
}

// janitor is a shell script that waits for the end of its standard input. Then it kills the server
// in a home, and removes the home. The input ends when the test process closes the other end of the
// pipe, or ends for any reason. A zombie counts as ended.
const janitor = `
trap '' INT TERM HUP
running() { kill -0 "$1" 2>/dev/null && ! grep -qs ') Z' "/proc/$1/stat"; }
cat >/dev/null
if [ -s "$1/pid" ]; then
	pid=$(cat "$1/pid")
	kill -QUIT "$pid" 2>/dev/null
	n=0
	while running "$pid"; do
		n=$((n + 1))
		[ $n -lt 100 ] || kill -KILL "$pid" 2>/dev/null
		sleep 0.05
	done
fi
rm -rf "$1"
`

// home is the directory of a server, together with the janitor process that removes it.
type home struct {
	dir string
	// This account owns the directory and runs the server.
	as     *account
	alive  *os.File // closing it makes the janitor remove the home
	keeper *exec.Cmd
}

// newHome creates an empty home that belongs to the account.
func newHome(name string, as *account) (*home, error) {
	dir, err := os.MkdirTemp(tempRoot(as), "eds-"+name+"-")
	if err != nil {
		return nil, err
	}
	h := &home{dir: dir, as: as}
	if err := h.keep(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return h, nil
}

// keep makes the account the owner of the home, and starts the janitor.
func (h *home) keep() error {
	if h.as != nil {
		if err := os.Chown(h.dir, int(h.as.uid), int(h.as.gid)); err != nil {
			return err
		}
	}
	stdin, alive, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	h.keeper = h.command("/bin/sh", "-c", janitor, "janitor", h.dir)
	h.keeper.Stdin = stdin
	if err := h.keeper.Start(); err != nil {
		alive.Close()
		return fmt.Errorf("start the janitor of %s: %w", h.dir, err)
	}
	h.alive = alive
	return nil
}

// tempRoot returns the directory in which homes are created: os.TempDir, or /tmp if the account
// cannot enter os.TempDir.
func tempRoot(as *account) string {
	root := os.TempDir()
	if as == nil {
		return root
	}
	for dir := root; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
		if dir == filepath.Dir(dir) {
			return root
		}
	}
}

// command returns a command that runs as the home's account. The command has its own process group,
// so that Ctrl-C in the terminal reaches only the tests.
func (h *home) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: h.as.uid, Gid: h.as.gid}
	}
	return cmd
}

// run runs a command and waits for it. If the command fails, the error contains its output.
func (h *home) run(name string, args ...string) error {
	out, err := h.command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// start starts a server whose output is appended to the home's log.
func (h *home) start(name string, args ...string) (*exec.Cmd, error) {
	// The process writes its id before it executes the server, so that the janitor knows the id of
	// every server.
	script := `echo $$ >"$1/pid"; shift; exec "$@"`
	cmd := h.command("/bin/sh", append([]string{"-c", script, "start", h.dir, name}, args...)...)
	log, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

// log returns the output of the server so far.
func (h *home) log() string {
	// If the server has never been started, there is no file and no output.
	text, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(text)
}

// killChildren first stops a parent process, so that the parent creates no more children. Then it
// kills the children, and waits until they have ended. On a system without /proc it kills no
// children. They then have to notice by themselves that their parent has ended.
func killChildren(parent *os.Process) error {
	if err := parent.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	for _, stat := range stats {
		if _, of := processState(stat); of != strconv.Itoa(parent.Pid) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for state, _ := processState(stat); state != "" && state != "Z" && state != "X"; state, _ = processState(stat) {
			runtime.Gosched()
		}
	}
	return nil
}

// processState returns the state and the parent's id of a process, read from the process's stat
// file in /proc. Both are "" if the process has ended.
func processState(stat string) (state, parent string) {
	text, err := os.ReadFile(stat)
	if err != nil {
		return "", ""
	}
	// The fields follow the process's name, which is in parentheses and may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}

// remove makes the janitor end the server and remove the home, and waits until that is done.
func (h *home) remove() error {
	h.alive.Close()
	return h.keeper.Wait()
}

// freePort returns an unused loopback port.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
