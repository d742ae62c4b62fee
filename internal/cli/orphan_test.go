package cli_test

import (
	"encoding/json"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// orphanLimitVariable is the environment variable with the limit of workers that tests start.
const orphanLimitVariable = "EDS_TEST_ORPHAN_LIMIT"

// TestWorker_EndsWithoutItsParent has the parent die while peers hang that the worker
// needs for an orderly end.
func TestWorker_EndsWithoutItsParent(t *testing.T) {
	t.Parallel()
	const limit = 4 * time.Second
	for name, hang := range map[string][]string{
		"nothing hangs": nil, "the destination hangs": {"destination"}, "hq hangs": {"hq"}, "nats hangs": {"nats"},
		"the destination is down": {"down"}, "everything hangs": {"destination", "hq", "nats"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrphan(t, limit)
			for _, peer := range hang {
				if peer == "down" {
					o.peers["destination"].Break(0, sinktest.Lost)
				} else {
					o.peers[peer].Stall()
				}
			}
			if !slices.Contains(hang, "nats") {
				o.receivesChanges()
			}
			began := time.Now()
			o.leave()
			select {
			case <-o.done:
			case <-time.After(limit + time.Minute):
				t.Fatalf("the worker does not end\n%s", o.log.String())
			}
			took := time.Since(began)
			t.Logf("the worker ended after %v", took)
			if took > limit+5*time.Second {
				t.Errorf("the worker ended after %v\n%s", took, o.log.String())
			}
			dir, err := state.Open(o.data)
			if err != nil {
				t.Fatalf("%v\n%s", err, o.log.String())
			}
			if err := dir.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWorker_ExitsZeroAfterAnOrderlyEnd has peers hang that it talks to at its end.
func TestWorker_ExitsZeroAfterAnOrderlyEnd(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string][]string{"hq hangs": {"hq"}, "nats hangs": {"nats"}, "both hang": {"hq", "nats"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrphan(t, time.Minute)
			for _, peer := range hang {
				o.peers[peer].Stall()
			}
			began := time.Now()
			o.ask()
			select {
			case <-o.done:
			case <-time.After(2 * time.Minute):
				t.Fatalf("the worker does not end\n%s", o.log.String())
			}
			t.Logf("the worker ended after %v", time.Since(began))
			if o.code != 0 {
				t.Errorf("exit code %d\n%s", o.code, o.log.String())
			}
		})
	}
}

// orphan is a worker whose parent the test plays.
type orphan struct {
	t     *testing.T
	hq    *devhq.HQ
	peers map[string]*sinktest.Proxy // in front of everything that the worker talks to
	data  string
	log   terminal
	ask   func() // has the parent ask for an orderly end
	leave func() // ends the parent without a word
	done  chan struct{}
	code  int // the exit code, once it is done
}

func newOrphan(t *testing.T, limit time.Duration) *orphan {
	t.Helper()
	h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Customers: 20, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close hq: %v", err)
		}
	})
	o := &orphan{t: t, hq: h, peers: make(map[string]*sinktest.Proxy), data: t.TempDir(), done: make(chan struct{})}
	behind := func(peer, address string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		o.peers[peer] = sinktest.NewProxy(t, u.Host)
		u.Host = o.peers[peer].Addr()
		return u.String()
	}
	args := []string{
		"--data-dir", o.data, "--api-key", h.APIKey(devhq.KeyOptions{ServerID: "s"}),
		"--api-url", behind("hq", h.APIURL()), "--url", behind("destination", peers.Postgres(t)),
	}
	if out, errs, code := eds(t, nil, append([]string{"import", "--no-confirm"}, args...)...); code != 0 {
		t.Fatalf("import: %d\n%s%s", code, out, errs)
	}
	o.start(limit, append(args, "--server", behind("nats", h.NATSURL()), "--host", "127.0.0.1", "--port", "0", "--log-format", "json"))
	return o
}

// start starts the worker and waits until it follows the stream.
func (o *orphan) start(limit time.Duration, args []string) {
	o.t.Helper()
	cmd := exec.Command(os.Args[0], "worker")
	cmd.Env = append(os.Environ(), orphanLimitVariable+"="+limit.String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	var ends []*os.File // of the parent
	for _, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			o.t.Fatal(err)
		}
		defer w.Close()
		*to = w
		ends = append(ends, r)
		go io.Copy(&o.log, r) // ends with r
	}
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // the exit code tells
		o.code = cmd.ProcessState.ExitCode()
		close(o.done)
	}()
	o.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-o.done
	})
	o.ask = func() { stdin.Close() }
	o.leave = func() {
		for _, end := range ends {
			end.Close()
		}
		stdin.Close()
	}
	o.t.Cleanup(o.leave)
	if err := json.NewEncoder(stdin).Encode(map[string]any{"type": "start", "args": append([]string{"server"}, args...)}); err != nil {
		o.t.Fatal(err)
	}
	o.eventually("the worker is ready", func() bool { return strings.Contains(o.log.String(), `{"type":"ready"}`) })
}

// receivesChanges waits until the worker has been sent some more changes.
func (o *orphan) receivesChanges() {
	o.t.Helper()
	now := uint64(0)
	delivered := func() uint64 {
		all, err := o.hq.Consumers(o.t.Context())
		if err != nil {
			o.t.Fatal(err)
		}
		for name, c := range all {
			if name == "eds-s" {
				return c.Delivered.Stream
			}
		}
		return 0
	}
	now = delivered()
	o.eventually("more changes are delivered", func() bool { return delivered() > now+20 })
}

func (o *orphan) eventually(what string, condition func() bool) {
	o.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			o.t.Fatalf("not within a minute: %s\n%s", what, o.log.String())
		}
	}
}
