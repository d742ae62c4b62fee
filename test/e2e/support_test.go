package e2e_test

import (
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// in returns the world for a part of the test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.t, part.servers = t, nil
	t.Cleanup(func() { part.keepSecrets(part.servers) })
	return &part
}

// from returns the world with another data directory.
func (w *world) from(data string) *world {
	other := *w
	other.data = data
	return &other
}

// work makes the shop make at least n changes, and returns the stream's last sequence.
func (w *world) work(n int) uint64 {
	w.t.Helper()
	if _, err := w.hq.Work(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	return w.last()
}

// last returns the stream's last sequence.
func (w *world) last() uint64 {
	w.t.Helper()
	state, err := w.hq.StreamState(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return state.LastSeq
}

// continues expects a server to follow the stream without an alarm, and makes it apply n more
// changes.
func (w *world) continues(p *process, n int) {
	w.t.Helper()
	w.follows(p)
	w.work(n)
	w.drain(p)
	w.quiet(p)
}

// complete waits until every table is ok.
func (w *world) complete(p *process) {
	w.t.Helper()
	eventually(w.t, "every table is ok", func() bool {
		_, report := p.health()
		return len(report.Tables) == 0
	}, p.output)
}

// health returns what the server reports.
func (p *process) health() (int, telemetry.Report) {
	p.t.Helper()
	code, body := p.get("")
	var report telemetry.Report
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		p.t.Fatalf("%s: %v", body, err)
	}
	return code, report
}

// quiet expects the server to be healthy, and to request no import.
func (w *world) quiet(p *process) {
	w.t.Helper()
	if code, report := p.health(); code != http.StatusOK || len(report.Reasons) > 0 {
		w.t.Errorf("health is %d: %v\n%s", code, report.Reasons, p.output())
	}
	if strings.Contains(p.output(), "eds import") {
		w.t.Errorf("the server asks for an import:\n%s", p.output())
	}
}

// warnings returns the log lines of a server that are warnings or errors.
func (p *process) warnings() string {
	var b strings.Builder
	for line := range strings.Lines(p.output()) {
		if strings.Contains(line, "another server runs with this id; waiting") { // HQ ends the session of a killed one later
			continue
		}
		if strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// unreserved expects the server to have logged no warning, and to report none.
func (w *world) unreserved(p *process) {
	w.t.Helper()
	if _, report := p.health(); len(report.Warnings) > 0 {
		w.t.Errorf("health warns: %v", report.Warnings)
	}
	if lines := p.warnings(); lines != "" {
		w.t.Errorf("the log warns:\n%s", lines)
	}
}

// gap expects the server to report a gap with a remedy, and ends it.
func (w *world) gap(p *process, remedy string) {
	w.t.Helper()
	eventually(w.t, "the server reports the gap", func() bool {
		code, report := p.health()
		for _, reason := range report.Reasons {
			if code == http.StatusServiceUnavailable && strings.HasSuffix(reason.Message, "run "+remedy) {
				return true
			}
		}
		return false
	}, p.output)
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code > 1 { // 1 if nothing can be applied before an import
		w.t.Errorf("exit code %d\n%s", code, p.output())
	}
}

// trim removes every message from the stream.
func (w *world) trim() {
	w.t.Helper()
	if err := w.hq.PurgeStream(w.t.Context(), math.MaxUint64); err != nil {
		w.t.Fatal(err)
	}
}

// importing starts "eds import".
func (w *world) importing(args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, done: make(chan struct{})}
	p.cmd = exec.Command(program, append([]string{"import", "--data-dir", w.data, "--url", w.url, "--no-confirm"}, args...)...)
	p.cmd.Env = w.env()
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is read later
		close(p.done)
	}()
	w.t.Cleanup(p.kill)
	return p
}

// killedImport runs "eds import", and kills it at the nth HTTP request that at
// chooses, which is never answered.
func (w *world) killedImport(at func(*http.Request) bool, n int) {
	w.t.Helper()
	var mu sync.Mutex
	reached := make(chan struct{})
	w.hq.Disturb(func(r *http.Request) devhq.Fault {
		mu.Lock()
		defer mu.Unlock()
		if !at(r) {
			return nil
		}
		if n--; n > 0 {
			return nil
		}
		if n == 0 {
			close(reached)
		}
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection goes unnoticed
				<-r.Context().Done()
				panic(http.ErrAbortHandler)
			})
		}
	})
	defer w.hq.Disturb(nil)
	p := w.importing()
	select {
	case <-reached:
	case <-p.done:
		w.t.Fatalf("the import ended before the request\n%s", p.output())
	}
	p.kill()
}

// requests choose HTTP requests by method and path.
func requests(method, prefix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method && strings.HasPrefix(r.URL.Path, prefix) }
}

// saved is a copy of a data directory.
func (w *world) saved() string {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := os.CopyFS(dir+"/data", os.DirFS(w.data)); err != nil {
		w.t.Fatal(err)
	}
	return dir + "/data"
}

// putBack replaces the data directory by a copy; "" is an empty one.
func (w *world) putBack(saved string) {
	w.t.Helper()
	if err := os.RemoveAll(w.data); err != nil {
		w.t.Fatal(err)
	}
	if saved == "" {
		return
	}
	if err := os.CopyFS(w.data, os.DirFS(saved)); err != nil {
		w.t.Fatal(err)
	}
}

// proxy forwards TCP connections.
type proxy struct {
	listener net.Listener
	target   string
	work     sync.WaitGroup

	mu    sync.Mutex
	off   bool
	conns []net.Conn
}

// newProxy listens on an address and forwards to the target, until the test ends.
func newProxy(t *testing.T, address, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		p.work.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// cut closes every connection, and every new one.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

// restore forwards new connections again.
func (p *proxy) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.forward(near)
	}
}

func (p *proxy) forward(near net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	far, err := net.Dial("tcp", p.target)
	if err != nil || p.off {
		_ = near.Close()
		if err == nil {
			_ = far.Close()
		}
		return
	}
	p.conns = append(p.conns, near, far)
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // it ends with either connection
		_ = to.Close()
		_ = from.Close()
	}
	p.work.Go(func() { pipe(near, far) })
	p.work.Go(func() { pipe(far, near) })
}
