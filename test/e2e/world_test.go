package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// patience bounds each wait for a condition.
const patience = 3 * time.Minute

// world is a local HQ with its shop, one destination, and one data directory.
type world struct {
	t    *testing.T
	hq   *devhq.HQ
	key  string
	id   string // of the server
	data string
	url  string
	// nats is the address of NATS for the server.
	nats string
	// program is the eds that serve runs.
	program string
	hqDir   string
	servers []*process
	// extraEnv is added to the environment of eds.
	extraEnv []string
	// companies are the companies whose rows the destination must have; none means all.
	companies []string
	// dropped is a table that the schema no longer has, if any. Its rows do not count.
	dropped string
}

func newWorld(t *testing.T, url string, o devhq.Options) *world {
	t.Helper()
	o.DataDir, o.SessionGrace = t.TempDir(), 100*time.Millisecond
	if o.Customers == 0 {
		o.Customers = 60
	}
	if o.Seed == 0 {
		o.Seed = 7
	}
	h, err := devhq.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil && !errors.Is(err, context.Canceled) { // the shop had no time to finish
			t.Errorf("close hq: %v", err)
		}
	})
	w := &world{t: t, hq: h, id: "e2e", data: t.TempDir(), url: url, nats: h.NATSURL(), program: program}
	w.hqDir, w.key = o.DataDir, h.APIKey(devhq.KeyOptions{ServerID: w.id})
	t.Cleanup(func() { w.keepSecrets(w.servers) })
	return w
}

// env is the environment of eds. It has the key, which is a secret, because the command line is
// visible to others.
func (w *world) env() []string {
	return append(append(os.Environ(), "SM_APIKEY="+w.key, "NO_COLOR=1", "EDS_UPGRADE_IN_CONTAINER=true"), w.extraEnv...)
}

// eds runs a command to its end.
func (w *world) eds(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), program, args...)
	cmd.Env = w.env()
	var outBuf, errBuf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &outBuf, &errBuf
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !asExit(err, &exit) {
		w.t.Fatal(err)
	}
	w.holdsNoSecret("the output of eds "+args[0], append(outBuf.Bytes(), errBuf.Bytes()...))
	return outBuf.String(), errBuf.String(), cmd.ProcessState.ExitCode()
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*exit = e
	return ok
}

// imports runs "eds import" and expects it to succeed.
func (w *world) imports(args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.eds(append([]string{"import", "--data-dir", w.data, "--url", w.url, "--no-confirm"}, args...)...)
	if code != 0 {
		w.t.Fatalf("import ended with %d\n%s\n%s", code, stdout, stderr)
	}
	return stdout
}

// process is a running server.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu  sync.Mutex
	log bytes.Buffer
}

// serve starts "eds server".
func (w *world) serve(args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, done: make(chan struct{})}
	all := []string{"server", "--data-dir", w.data, "--server", w.nats, "--host", "127.0.0.1", "--port", "0"}
	if w.url != "" {
		all = append(all, "--url", w.url)
	}
	p.cmd = exec.Command(w.program, append(all, args...)...)
	p.cmd.Env = w.env()
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is read later
		close(p.done)
	}()
	w.servers = append(w.servers, p)
	w.t.Cleanup(p.kill)
	return p
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// output returns what the process has printed so far.
func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v\n%s", s, err, p.output())
	}
}

// worker returns the worker process.
func (p *process) worker() int {
	p.t.Helper()
	children := p.children()
	if len(children) != 1 {
		p.t.Fatalf("the server has the workers %v\n%s", children, p.output())
	}
	return children[0]
}

// children returns the processes that the server has started.
func (p *process) children() []int { return childrenOf(p.cmd.Process.Pid) }

// childrenOf returns the processes that a process has started.
func childrenOf(parent int) []int {
	var all []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				all = append(all, pid)
			}
		}
	}
	return all
}

// kill kills both processes of the server at once, like a power cut.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP) // so that it starts no other worker; it may have ended
	for _, pid := range p.children() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// wait waits for the process to end and returns its exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the process does not end\n%s", p.output())
		return -1
	}
}

// stop stops the process and expects the exit code 0.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.t.Fatalf("the server ended with %d\n%s", code, p.output())
	}
}

var healthURL = regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)

// get sends a request to the server's HTTP port.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	base := ""
	eventually(p.t, "the server tells its port", func() bool {
		base = healthURL.FindString(p.output())
		return base != ""
	}, p.output)
	response, err := http.Get(base + path)
	if err != nil {
		p.t.Fatalf("%v\n%s", err, p.output())
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, condition func() bool, detail func() string) {
	t.Helper()
	deadline := time.After(patience)
	for pause := 20 * time.Millisecond; !condition(); pause = min(pause*3/2, 200*time.Millisecond) {
		select {
		case <-time.After(pause):
		case <-deadline:
			t.Fatalf("not within %v: %s\n%s", patience, what, detail())
		}
	}
}

// consumer returns the state of the server's consumer, or nil.
func (w *world) consumer() *jetstream.ConsumerInfo {
	w.t.Helper()
	all, err := w.hq.Consumers(w.t.Context())
	if errors.Is(err, context.DeadlineExceeded) { // the machine is busy; the caller tries again
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return all["eds-"+w.id]
}

// applied waits until the running server has acknowledged at least n changes.
func (w *world) applied(p *process, n uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d changes are acknowledged", n), func() bool {
		c := w.consumer()
		return c != nil && c.AckFloor.Consumer >= n
	}, p.output)
}

// acknowledged waits until the server has acknowledged everything up to a sequence of the stream.
// Counts of the consumer restart with each server.
func (w *world) acknowledged(p *process, sequence uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("everything up to message %d is acknowledged", sequence), func() bool {
		c := w.consumer()
		return c != nil && c.AckFloor.Stream >= sequence
	}, p.output)
}

// drain stops the shop and waits until the server has acknowledged everything.
func (w *world) drain(p *process) {
	w.t.Helper()
	if err := w.hq.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	// A new consumer may not have counted its pending messages yet.
	const sure = 3
	seen := 0
	eventually(w.t, "everything is acknowledged", func() bool {
		seen++
		if c := w.consumer(); c == nil || c.NumPending > 0 || c.NumAckPending > 0 {
			seen = 0
		}
		return seen >= sure
	}, func() string { return fmt.Sprintf("%+v\n%s", w.consumer(), p.output()) })
}

// equal expects the destination to have exactly the shop's rows.
func (w *world) equal() {
	w.t.Helper()
	destination := w.open()
	reader := destination.Reader
	if reader == nil {
		w.t.Fatalf("%T cannot be read", destination)
	}
	tables := w.tables()
	snap := w.hq.Shop().Snapshot()
	rows := int64(0)
	for _, name := range w.hq.Shop().Tables() {
		if name == w.dropped {
			continue
		}
		r, err := verify.Compare(w.t.Context(), tables[name], nil, verify.Rows(tables[name], snap.Rows(name, w.companies, nil)),
			reader.Read(w.t.Context(), tables[name]))
		if err != nil {
			w.t.Fatal(err)
		}
		if !r.Equal() {
			w.t.Errorf("%v", r)
		}
		rows += r.Want
	}
	if rows == 0 {
		w.t.Error("the shop has no rows: nothing was compared")
	}
}

// open opens the destination.
func (w *world) open() *sink.Opened {
	w.t.Helper()
	_, s, err := drivers.Open(w.t.Context(), w.url, os.LookupEnv, sink.Env{
		Logger:   slog.New(slog.DiscardHandler),
		Adjusted: func(string, string, string) {},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// tables returns the newest schema of every table.
func (w *world) tables() map[string]*schema.Table {
	w.t.Helper()
	key, err := hq.ParseKey(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	client := hq.New(hq.Options{BaseURL: w.hq.APIURL(), Key: key})
	defer client.Close()
	dir, err := state.Open(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	tables, err := schema.NewCatalogue(client, dir).Latest(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return tables
}

// publish adds a change to the stream.
func (w *world) publish(table, operation string, change map[string]any) {
	w.t.Helper()
	text, err := json.Marshal(change)
	if err != nil {
		w.t.Fatal(err)
	}
	company := w.hq.Shop().Companies()[0]
	if err := w.hq.Publish(w.t.Context(), strings.Join([]string{"dbchange", table, operation, company, "NONE", "PUBLIC.test"}, "."),
		nil, text); err != nil {
		w.t.Fatal(err)
	}
}

// sqlite returns the URL of a new SQLite database.
func sqlite(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") }
