// Package peers starts the servers that tests talk to: private ones, on free
// loopback ports, in temporary directories. Nothing of them outlives the test
// process, not even when it is killed. If a peer cannot start, the test fails and says what to
// install; it is never skipped.
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

// account is the user of servers that refuse to run as root.
type account struct{ uid, gid uint32 }

// unprivileged returns the account for a server: nil for the current user, or, if that is root, the
// first of names that exists.
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

// janitor kills the server in a home and removes the home, once the other end of its standard input
// is closed: by the test process, or by its death of any cause. A zombie counts as ended.
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

// home is the directory of one server, with the process that cleans up after it.
type home struct {
	dir    string
	as     *account
	alive  *os.File // closing it ends the janitor, and the home
	keeper *exec.Cmd
}

// newHome makes an empty home that belongs to the account.
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

// keep makes the account own the home, and starts the janitor.
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

// tempRoot returns the directory for homes: the usual one, unless the account cannot enter it.
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

// command prepares a command for the home's account. It has a process group of its own, so that
// Ctrl-C in the terminal reaches only the tests.
func (h *home) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.as != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: h.as.uid, Gid: h.as.gid}
	}
	return cmd
}

// run runs a command to its end; its output is part of the error.
func (h *home) run(name string, args ...string) error {
	out, err := h.command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// start starts a server whose output goes to the log of the home.
func (h *home) start(name string, args ...string) (*exec.Cmd, error) {
	// The process writes its id before it becomes the server, so that the
	// janitor never misses one.
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

// log returns what the server printed.
func (h *home) log() string {
	// A server that has not been started has printed nothing.
	text, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(text)
}

// killChildren stops a process, so that it makes no new children, kills its children, and waits
// until they have ended. Without /proc it leaves them to notice the end of their parent.
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

// processState reads the state and the parent of a process from its file in /proc. They are empty
// if it has ended.
func processState(stat string) (state, parent string) {
	text, err := os.ReadFile(stat)
	if err != nil {
		return "", ""
	}
	// Both follow the name, which is in parentheses and may contain anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}

// remove ends the server, removes the home and waits for both.
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
