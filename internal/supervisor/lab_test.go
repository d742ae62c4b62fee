package supervisor_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/supervisor"
)

// lab runs a parent in this process, and workers that follow a script in real processes.
type lab struct {
	t        *testing.T
	listener *net.TCPListener
	stderr   *buffer // what the parent handed on
	log      *buffer
	stop     context.CancelFunc
	config   supervisor.Config
	result   chan result
}

type result struct {
	Code int
	Err  string
}

// newLab prepares a lab; change adjusts the configuration. Run begins it.
func newLab(t *testing.T, change func(*supervisor.Config)) *lab {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	l := &lab{t: t, listener: listener, stderr: new(buffer), log: new(buffer), result: make(chan result, 1)}
	l.config = supervisor.Config{
		Executable: os.Executable, Args: []string{"worker"}, Env: as("worker", listener.Addr().String()),
		Dir: t.TempDir(), Version: "1.0.0", Stderr: l.stderr, Logger: slog.New(slog.NewTextHandler(l.log, nil)),
		Limits: supervisor.RunLimits{Hang: eventually, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond},
	}
	if change != nil {
		change(&l.config)
	}
	return l
}

func start(t *testing.T, change func(*supervisor.Config)) *lab {
	t.Helper()
	l := newLab(t, change)
	l.run()
	return l
}

// run runs the parent; the test's end ends it, and with it the workers.
func (l *lab) run() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	var running sync.WaitGroup
	running.Go(func() {
		code, err := supervisor.Run(ctx, l.config)
		r := result{Code: code}
		if err != nil {
			r.Err = err.Error()
		}
		l.result <- r
	})
	l.t.Cleanup(func() {
		l.listener.Close()
		stop()
		running.Wait()
		if l.t.Failed() {
			l.t.Logf("the parent's log:\n%s\nwhat the workers wrote:\n%.2000s", l.log, l.stderr)
		}
	})
}

// ended waits for the end of the parent, and compares how it ended.
func (l *lab) ended(want result) {
	l.t.Helper()
	select {
	case got := <-l.result:
		if diff := cmp.Diff(want, got); diff != "" {
			l.t.Errorf("the parent ended otherwise (-want +got):\n%s", diff)
		}
	case <-time.After(eventually):
		l.t.Fatal("the parent does not end")
	}
}

// tombstones returns what the workers left.
func (l *lab) tombstones() []supervisor.Tombstone {
	l.t.Helper()
	stones, err := supervisor.Tombstones(l.config.Dir)
	if err != nil {
		l.t.Fatal(err)
	}
	return stones
}

// left compares the tombstones, but for what differs each time.
func (l *lab) left(want ...supervisor.Tombstone) {
	l.t.Helper()
	diff := cmp.Diff(want, l.tombstones(), cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(supervisor.Tombstone{}),
		cmpopts.IgnoreFields(supervisor.Tombstone{}, "Time", "PID", "Ran", "Stderr"))
	if diff != "" {
		l.t.Errorf("tombstones (-want +got):\n%s", diff)
	}
}

// servant is the test's end of an obedient worker.
type servant struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
	hello
}

// worker waits for the next worker.
func (l *lab) worker() *servant {
	l.t.Helper()
	s, err := l.accept()
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// accept waits for the next worker. The error is that it ended without a word.
func (l *lab) accept() (*servant, error) {
	l.t.Helper()
	_ = l.listener.SetDeadline(time.Now().Add(eventually))
	conn, err := l.listener.Accept()
	if err != nil {
		l.t.Fatal("no worker came: ", err)
	}
	l.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(eventually))
	s := &servant{t: l.t, conn: conn, lines: bufio.NewScanner(conn)}
	s.lines.Buffer(nil, 4<<20)
	return s, json.Unmarshal([]byte(s.hear()), &s.hello)
}

// hear returns the worker's next line, or "" once its process has ended.
func (s *servant) hear() string {
	if s.lines.Scan() {
		return s.lines.Text()
	}
	if err, ok := s.lines.Err().(net.Error); ok && err.Timeout() {
		s.t.Fatal("the worker says nothing")
	}
	return ""
}

// order gives an order that the worker does not survive, or not surely.
func (s *servant) order(format string, args ...any) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.conn, format+"\n", args...); err != nil {
		s.t.Fatal(err)
	}
}

// do gives an order and waits until it is carried out.
func (s *servant) do(order string) {
	s.t.Helper()
	s.order("%s", order)
	for heard := s.hear(); len(heard) == 0 || order[:min(len(order), len(heard))] != heard; heard = s.hear() {
		if heard == "" {
			s.t.Fatalf("the worker ended over %q", order)
		}
	}
}

// waitFor waits until the worker says want, of its own accord.
func (s *servant) waitFor(want string) {
	s.t.Helper()
	for heard := s.hear(); heard != want; heard = s.hear() {
		if heard == "" {
			s.t.Fatalf("the worker ended before it said %q", want)
		}
	}
}

// waitForEnd waits until the worker's process has ended.
func (s *servant) waitForEnd() {
	for s.hear() != "" {
	}
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
