package supervisor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/supervisor"
)

// The environment of the processes that the tests start: what they are, and
// where the test listens to them.
const (
	roleVariable    = "EDS_TEST_SUPERVISOR_ROLE"
	addressVariable = "EDS_TEST_SUPERVISOR_ADDRESS"
	dirVariable     = "EDS_TEST_SUPERVISOR_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "worker":
		os.Exit(scripted())
	case "parent":
		os.Exit(parent())
	case "heir":
		os.Exit(linger())
	}
	goleak.VerifyTestMain(m)
}

// hello is what an obedient worker says to the test first.
type hello struct {
	PID   int
	Argv  []string
	Start supervisor.StartRequest
}

// scripted is a worker that follows the test's commands.
func scripted() int {
	supervisor.IgnoreBrokenPipes()
	w, start, err := supervisor.Attach(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	test, err := net.Dial("tcp", os.Getenv(addressVariable))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(test).Encode(hello{os.Getpid(), os.Args, start})
	go func() {
		<-w.Done()
		fmt.Fprintln(test, "done")
	}()
	for orders := bufio.NewScanner(test); orders.Scan(); {
		order := strings.SplitN(orders.Text(), " ", 3)
		order = append(order, "", "")
		do(w, order[0], order[1], order[2])
		fmt.Fprintln(test, order[0])
	}
	return 1
}

// do carries out an order.
func do(w *supervisor.Worker, order, first, second string) {
	number, _ := strconv.Atoi(first)
	self, _ := os.FindProcess(os.Getpid())
	switch order {
	case "ready":
		w.Ready()
	case "session":
		w.Session(first)
	case "upgrade":
		if err := w.Upgrade(first, second); err != nil {
			panic(err)
		}
	case "say": // without doing it
		w.Exiting(number, second)
	case "end":
		w.Exiting(number, second)
		w.Close()
		os.Exit(number)
	case "exit":
		os.Exit(number)
	case "panic":
		panic(first)
	case "kill":
		_ = self.Kill()
		select {}
	case "terminate":
		_ = self.Signal(syscall.SIGTERM)
		select {}
	case "abort": // which Go's runtime explains
		_ = self.Signal(syscall.SIGABRT)
		select {}
	case "leave":
		leave()
	case "deaf":
		signal.Ignore(syscall.SIGQUIT)
	case "stderr":
		fmt.Fprint(os.Stderr, strings.Repeat("x", number), second)
	case "stdout":
		fmt.Fprint(os.Stdout, first, second)
	}
}

// leave starts a process that keeps the worker's output open.
func leave() {
	heir := exec.Command(os.Args[0])
	heir.Env = as("heir", os.Getenv(addressVariable))
	heir.Stdout, heir.Stderr = os.Stdout, os.Stderr
	if err := heir.Start(); err != nil {
		panic(err)
	}
}

// linger is a process that stays for as long as the test wants.
func linger() int {
	test, err := net.Dial("tcp", os.Getenv(addressVariable))
	if err != nil {
		return 1
	}
	_ = json.NewEncoder(test).Encode(hello{PID: os.Getpid()})
	_, _ = io.Copy(io.Discard, test)
	return 0
}

// parent is a parent in a process of its own.
func parent() int {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	code, err := supervisor.Run(ctx, supervisor.Config{
		Executable: os.Executable, Args: []string{"worker"}, Env: as("worker", os.Getenv(addressVariable)),
		Dir: os.Getenv(dirVariable), Stderr: os.Stderr, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// as returns the environment of a process that plays role.
func as(role, address string) []string {
	return append(os.Environ(), roleVariable+"="+role, addressVariable+"="+address)
}

// eventually is how long a test waits for an event that must come.
const eventually = 2 * time.Minute
