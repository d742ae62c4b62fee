package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// programVariable names the environment variable with the program that a test process starts, in
// the role of the reference server's parent process.
const programVariable = "EDS_TEST_WRAPPED_PROGRAM"

// starts is how often that process restarts the program after a failure.
const starts = 5

// wrap is the reference server's parent process. It ends if the program exits with 0 or 1, and
// restarts it after any other code or GET /restart. It logs to its standard output.
func wrap(program string) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	port := listener.Addr().(*net.TCPAddr).Port
	fmt.Printf("wrapper port %d\n", port)
	restart := make(chan struct{}, 1)
	go http.Serve(listener, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/restart" {
			restart <- struct{}{}
		}
	}))
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	for failures := 0; ; {
		cmd := exec.Command(program, append(os.Args[1:], "--wrapper", fmt.Sprintf("--parent=%d", port), "--log-file-sink")...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 9
		}
		fmt.Printf("wrapper started %d\n", cmd.Process.Pid)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		restarts := false
		select {
		case err = <-ended:
		case <-restart:
			restarts = true
			_ = cmd.Process.Signal(os.Interrupt)
			err = <-ended
		case <-ctx.Done():
			_ = cmd.Process.Signal(os.Interrupt)
			err = <-ended
		}
		if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, err)
			return 9
		}
		code := cmd.ProcessState.ExitCode()
		fmt.Printf("wrapper saw %d\n", code)
		switch {
		case ctx.Err() != nil:
			return code
		case restarts:
			continue
		case code == 0 || code == 1:
			return code
		}
		if failures++; failures > starts {
			return 8
		}
	}
}

// serveWrapped starts the server under the reference server's parent process.
func (w *world) serveWrapped(args ...string) *process {
	w.t.Helper()
	program := w.program
	w.program = os.Args[0]
	defer func() { w.program = program }()
	w.extraEnv = []string{programVariable + "=" + program}
	defer func() { w.extraEnv = nil }()
	p := w.serve(args...)
	w.t.Cleanup(func() {
		for _, pid := range p.wrapped() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return p
}

var startedLine = regexp.MustCompile(`(?m)^wrapper started (\d+)$`)

// wrapped returns the processes that the parent process has started, newest last.
func (p *process) wrapped() (pids []int) {
	for _, match := range startedLine.FindAllStringSubmatch(p.output(), -1) {
		pid, _ := strconv.Atoi(match[1])
		pids = append(pids, pid)
	}
	return pids
}

// family returns the program under the parent process, and its worker.
func (p *process) family() []int {
	p.t.Helper()
	all := p.wrapped()
	outer := all[len(all)-1]
	workers := childrenOf(outer)
	if len(workers) != 1 {
		p.t.Fatalf("%d has the children %v\n%s", outer, workers, p.output())
	}
	return []int{outer, workers[0]}
}

// gone waits until the processes have ended.
func (p *process) gone(pids ...int) {
	p.t.Helper()
	for _, pid := range pids {
		eventually(p.t, fmt.Sprintf("process %d ends", pid), func() bool { return syscall.Kill(pid, 0) != nil }, p.output)
	}
}

// ends expects the parent process to end with a code after a number of starts.
func (p *process) ends(code, starts int) {
	p.t.Helper()
	if got := p.wait(); got != code {
		p.t.Errorf("the parent process ended with %d, want %d\n%s", got, code, p.output())
	}
	if got := len(p.wrapped()); got != starts {
		p.t.Errorf("the parent process started %d programs, want %d\n%s", got, starts, p.output())
	}
}

// orderly expects every session to have ended, none of them by a failure.
func (w *world) orderly() {
	w.t.Helper()
	for _, s := range sessions(w.t, w) {
		if s.Errored || s.Lost || s.Ended.IsZero() {
			w.t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
		}
	}
}

func TestWrapped_FollowsTheStreamUntilItIsStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	session := w.session(p, "")
	w.applied(p, 50)
	w.notify(session, "restart", nil)
	w.received(p, session, "restart-response", 1)
	w.session(p, session)
	w.drain(p)
	family := p.family()
	p.signal(syscall.SIGTERM)
	p.ends(0, 1)
	p.gone(family...)
	w.equal()
	w.orderly()
}

// TestWrapped_EndsInOrderIfItIsSignalledTwice signals every process, as a service manager does, and
// the parent process passes the signal on.
func TestWrapped_EndsInOrderIfItIsSignalledTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	w.session(p, "")
	w.applied(p, 50)
	family := p.family()
	if err := syscall.Kill(family[0], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.ends(0, 1)
	p.gone(family...)
	w.orderly()
}

func TestWrapped_EndsOnAShutdownCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	session := w.session(p, "")
	family := p.family()
	w.notify(session, "shutdown", map[string]any{"message": "enough"})
	p.ends(0, 1)
	p.gone(family...)
	w.orderly()
}

func TestWrapped_IsStartedAgainAfterAnUpgradeOfTheParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	session := w.session(p, "")
	port := regexp.MustCompile(`wrapper port (\d+)`).FindStringSubmatch(p.output())[1]
	answer, err := http.Get("http://127.0.0.1:" + port + "/restart")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	w.session(p, session)
	w.drain(p)
	p.signal(syscall.SIGTERM)
	p.ends(0, 2)
	w.equal()
	w.orderly()
}

func TestWrapped_RecoversFromCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	session := w.session(p, "")
	w.applied(p, 50)
	if err := syscall.Kill(p.family()[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	session = w.session(p, session)
	if err := syscall.Kill(p.family()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.session(p, session)
	w.drain(p)
	p.signal(syscall.SIGTERM)
	p.ends(0, 2)
	w.equal()
}

// TestWrapped_ExitsOneIfTheOperatorIsNeeded starts with a problem that would recur at each start.
func TestWrapped_ExitsOneIfTheOperatorIsNeeded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, flag, says string }{
		"a destination that fails its test": {url: "sqlite:///dev/null/shop.db", says: "open the destination"},
		"a URL that is none":                {url: "postgers://host/database", says: "postgers"},
		"a flag that is none":               {flag: "--bogus", says: "bogus"},
		"a flag's value":                    {flag: "--maxAckPending=0", says: "--maxAckPending"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{})
			if test.url != "" {
				w.url = test.url
			}
			var args []string
			if test.flag != "" {
				args = append(args, test.flag)
			}
			p := w.serveWrapped(args...)
			p.ends(1, 1)
			if !strings.Contains(p.output(), test.says) {
				t.Errorf("it does not say %q:\n%s", test.says, p.output())
			}
		})
	}
}

func TestWrapped_EndsInOrderWithItsParent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	w.session(p, "")
	w.applied(p, 50)
	family := p.family()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.gone(family...)
	w.orderly()
	p = w.serve()
	w.drain(p)
	p.stop()
	w.equal()
}

func TestWrapped_EndsWithinAMinuteOfItsParent(t *testing.T) {
	t.Parallel()
	pg := peers.StartPostgres(t)
	w := newWorld(t, pg.Database(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serveWrapped()
	w.session(p, "")
	w.applied(p, 50)
	pg.Kill(t)
	eventually(t, "it waits for the destination", func() bool { return strings.Contains(p.output(), "waiting for the destination") },
		p.output)
	family := p.family()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.gone(family...)
	pg.Start(t)
	p = w.serve()
	w.drain(p)
	p.stop()
	w.equal()
}
