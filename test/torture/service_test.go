package torture

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// script starts a service whose program is a shell script. In the script, $n is the number of the
// start.
func script(t *testing.T, text string) *service {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "eds")
	text = "#!/bin/sh\necho >>starts\nn=$(wc -l <starts)\n" + text + "\n"
	if err := os.WriteFile(program, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &service{program: program, dir: dir, env: os.Environ(), logPath: filepath.Join(dir, "log"), record: t.Logf}
	t.Cleanup(s.close)
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) starts(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "starts"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	late, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if wait(late, 5*time.Millisecond, func() (bool, error) { return holds(), nil }) != nil {
		t.Fatalf("never: %s", what)
	}
}

func TestService_RestartsAFailedServer(t *testing.T) {
	t.Parallel()
	s := script(t, `[ "$n" -lt 3 ] && { echo '{"level":"ERROR","msg":"eds stops","error":"a reason"}'; exit 1; }; exec sleep 60`)
	eventually(t, "the third start", func() bool { return s.starts(t) == 3 && s.up() })
	if ended := s.endedByItself(); !strings.Contains(ended, "exit status 1") || !strings.Contains(ended, "a reason") {
		t.Errorf("it exited by itself: %q", ended)
	}
	if ended := s.endedByItself(); ended != "" {
		t.Errorf("it exited by itself again: %q", ended)
	}
}

func TestService_DoesNotRestartAfterExitCode3(t *testing.T) {
	t.Parallel()
	s := script(t, "exit 3")
	<-s.keeping
	if code, err := s.down(t.Context(), false); s.starts(t) != 1 || code != 3 || err != nil || s.up() {
		t.Errorf("%d starts, exit code %d, %v, up: %v", s.starts(t), code, err, s.up())
	}
	if s.endedByItself() == "" {
		t.Error("it did not exit by itself")
	}
}

func TestService_IgnoresExitsOfKilledServers(t *testing.T) {
	t.Parallel()
	s := script(t, "exec sleep 60")
	for n := 1; n <= 3; n++ {
		eventually(t, "the server runs", func() bool { return s.starts(t) == n && s.up() })
		if !s.killBoth() {
			t.Fatal("there was nothing to kill")
		}
	}
	eventually(t, "the server runs", func() bool { return s.starts(t) == 4 && s.up() })
	if ended := s.endedByItself(); ended != "" {
		t.Errorf("it exited by itself: %s", ended)
	}
	if _, err := s.down(t.Context(), true); err != nil || s.up() {
		t.Errorf("down: %v, up: %v", err, s.up())
	}
	if s.starts(t) != 4 || s.endedByItself() != "" {
		t.Errorf("after its end there were %d starts", s.starts(t))
	}
}

func TestService_ReportsAServerThatIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	s := script(t, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
	eventually(t, "the server runs", func() bool { return strings.Contains(s.output(), "ready") })
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.down(soon, false)
	if f := new(Failure); !errors.As(err, &f) || f.Symptom != Stuck {
		t.Errorf("down: %v", err)
	}
}

func TestMonitor_ReportsAlarms(t *testing.T) {
	t.Parallel()
	const healthy, unhealthy = `{"status":"ok","reasons":[]}`, `{"status":"unhealthy","reasons":[{"condition":"stream",` +
		`"message":"it is gone"}]}`
	for name, test := range map[string]struct {
		body, log string
		want      bool
	}{
		"a healthy one":    {healthy, `{"level":"INFO","msg":"all is well"}`, false},
		"an unhealthy one": {unhealthy, "", true},
		"a warning":        {healthy, `{"level":"WARN","msg":"going on over a gap"}`, true},
		"an error":         {healthy, `{"level":"ERROR","msg":"eds stops"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, test.body)
				asked <- struct{}{}
			}))
			defer server.Close()
			s := &service{logPath: filepath.Join(t.TempDir(), "log")}
			if err := os.WriteFile(s.logPath, []byte(server.URL+"/\n"+test.log+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			m := watch(t.Context(), s)
			<-asked
			if !test.want || test.log != "" {
				<-asked // it goes on
			}
			eventually(t, "the answer was read", func() bool { return test.log != "" || !test.want || closed(m.done) })
			err := m.stop()
			if f := new(Failure); errors.As(err, &f) != test.want || test.want && f.Symptom != FalseAlarm {
				t.Errorf("the monitor says %v", err)
			}
			if err := m.stop(); err != nil {
				t.Errorf("the monitor says it twice: %v", err)
			}
		})
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestPump_StopsAtItsLimit(t *testing.T) {
	t.Parallel()
	made := make(map[uint64]bool)
	for range 2 {
		h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Seed: 4, Customers: 5})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		p := newPump(h)
		go func() {
			defer close(done)
			p.run(ctx)
		}()
		same := func(after string) {
			t.Helper()
			state, err := h.StreamState(t.Context())
			if err != nil || state.LastSeq != p.sequence() {
				t.Errorf("after %s the stream ends at %d, the pump says at %d; %v", after, state.LastSeq, p.sequence(), err)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(p.until(t.Context(), 20, 50))
		must(p.until(t.Context(), 50, 50))
		same("50 changes")
		must(p.burst(t.Context(), 30))
		same("a burst")
		if _, err := p.evolve(t.Context()); err != nil {
			t.Fatal(err)
		}
		same("a change of the schema")
		before := p.sequence()
		if last, err := p.recreate(t.Context()); err != nil || last != before {
			t.Errorf("recreate returned %d, %v, want %d", last, err, before)
		}
		must(p.until(t.Context(), 70, 70))
		same("recreating the stream")
		if p.sequence() >= before || p.count() < 70 || p.count() > 90 {
			t.Errorf("it has made %d changes, and the stream has %d", p.count(), p.sequence())
		}
		made[p.count()] = true
		cancel()
		<-done
		must(h.Close())
	}
	if len(made) != 1 {
		t.Errorf("with one seed and the same limits it made %v changes", made)
	}
}
