// Package nats211_test runs eds against nats-server 2.11.9, the version that HQ runs.
// It is a module of its own because the other tests use a newer server. The tests of
// internal/source/jetstream run from here too: see the Makefile.
package nats211_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	_ "github.com/shopmonkeyus/eds/internal/source/jetstream" // so that go.sum has what its tests need
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// patience bounds each wait for a condition.
const patience = time.Minute

const serverID = "e2e"

// TestServer_RequestsAConsumerResetOnce starts, pauses and restarts the program.
func TestServer_RequestsAConsumerResetOnce(t *testing.T) {
	if natsserver.VERSION != "2.11.9" {
		t.Fatalf("this is nats-server %s", natsserver.VERSION)
	}
	w := newWorld(t)
	resets, err := w.hq.Conn().SubscribeSync("$JS.API.CONSUMER.RESET.>")
	if err != nil {
		t.Fatal(err)
	}
	w.imports()
	began := time.Now()
	p := w.serve()
	w.settles(p)
	first := time.Since(began)
	session := w.session(p)
	for _, action := range []string{"pause", "unpause", "restart"} {
		if err := w.hq.Notify(t.Context(), session, action, nil); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := w.hq.AwaitReceived(ctx, session, action+"-response", 0); err != nil {
			t.Fatalf("%v\n%s", err, p.output())
		}
		cancel()
		if action == "pause" {
			p.eventually("the stream stands still", func() bool { return strings.Contains(p.output(), "the stream is not followed") })
		}
	}
	w.settles(p)
	w.hq.StopNATS()
	if err := w.hq.StartNATS(); err != nil {
		t.Fatal(err)
	}
	w.settles(p)
	p.stop()
	began = time.Now()
	p = w.serve()
	w.settles(p)
	t.Logf("the first start took %v, the second one %v", first, time.Since(began))
	p.stop()
	w.equal()
	if n, _, err := resets.Pending(); err != nil || n != 1 {
		t.Errorf("the server was asked for %d resets, %v, want 1", n, err)
	}
}

// world is a local HQ, a SQLite database and a data directory.
type world struct {
	t                       *testing.T
	hq                      *devhq.HQ
	key, program, data, url string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Customers: 20, Seed: 7, SessionGrace: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close hq: %v", err)
		}
	})
	dir := t.TempDir()
	w := &world{
		t: t, hq: h, key: h.APIKey(devhq.KeyOptions{ServerID: serverID}), program: filepath.Join(dir, "eds"),
		data: t.TempDir(), url: "sqlite://" + filepath.Join(dir, "shop.db"),
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "use_custom_driver,use_sqlite", "-o", w.program, ".")
	build.Dir = "../.."
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return w
}

// process is a run of the program.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed at its end

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (w *world) start(args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, cmd: exec.Command(w.program, append(args, "--data-dir", w.data, "--url", w.url)...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "SM_APIKEY="+w.key)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is read later
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // its worker ends with it
		<-p.done
	})
	return p
}

func (w *world) imports() { w.start("import", "--no-confirm").succeeds() }

func (w *world) serve() *process {
	return w.start("server", "--server", w.hq.NATSURL(), "--host", "127.0.0.1", "--port", "0")
}

func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.succeeds()
}

// succeeds waits for the end of the process.
func (p *process) succeeds() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("it does not end\n%s", p.output())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("exit code %d\n%s", code, p.output())
	}
}

func (p *process) eventually(what string, condition func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("not within %v: %s\n%s", patience, what, p.output())
		}
	}
}

// session returns the session that the server holds.
func (w *world) session(p *process) (id string) {
	w.t.Helper()
	p.eventually("a session begins", func() bool {
		all, err := w.hq.Sessions()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range all {
			if s.Ended.IsZero() && len(w.hq.Received(s.ID, "heartbeat")) > 0 {
				id = s.ID
			}
		}
		return id != ""
	})
	return id
}

// settles makes the shop work until the server has acknowledged some more changes, and then all of
// them.
func (w *world) settles(p *process) {
	w.t.Helper()
	state, err := w.hq.StreamState(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.hq.Resume()
	w.hq.SetRate(200)
	p.eventually("more is acknowledged", func() bool {
		all, err := w.hq.Consumers(w.t.Context())
		c := all["eds-"+serverID]
		return err == nil && c != nil && c.AckFloor.Stream > state.LastSeq+20
	})
	if err := w.hq.Pause(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if state, err = w.hq.StreamState(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	p.eventually("everything is acknowledged", func() bool {
		all, err := w.hq.Consumers(w.t.Context())
		c := all["eds-"+serverID]
		return err == nil && c != nil && c.AckFloor.Stream >= state.LastSeq
	})
}

// equal expects the destination to have exactly the shop's rows.
func (w *world) equal() {
	w.t.Helper()
	ctx := w.t.Context()
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
	tables, err := schema.NewCatalogue(client, dir).Latest(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	_, destination, err := drivers.Open(ctx, w.url, os.LookupEnv, sink.Env{
		Logger:   slog.New(slog.DiscardHandler),
		Adjusted: func(string, string, string) {},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer destination.Close(ctx)
	snap := w.hq.Shop().Snapshot()
	for _, name := range w.hq.Shop().Tables() {
		r, err := verify.Compare(ctx, tables[name], nil, verify.Rows(tables[name], snap.Rows(name, nil, nil)),
			destination.Reader.Read(ctx, tables[name]))
		if err != nil {
			w.t.Fatal(err)
		}
		if !r.Equal() {
			w.t.Error(strings.TrimSpace(r.String()))
		}
	}
}
