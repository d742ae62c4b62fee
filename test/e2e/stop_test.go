package e2e_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// TestServer_ExitsZeroIfItIsStoppedWhileASessionEnds stops a server that ends a session
// for another reason, and cannot end it before its destination answers.
func TestServer_ExitsZeroIfItIsStoppedWhileASessionEnds(t *testing.T) {
	t.Parallel()
	for reason, test := range map[string]struct {
		interval string
		pending  string // in the log once the session ends
	}{
		"renewal":       {"2s", "renewing the session"},
		"restart order": {"24h", `"action":"restart"`},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 200})
			w.imports()
			p := w.serve("--renew-interval", test.interval)
			session := w.session(p, "")
			w.applied(p, 50)
			conn, err := pgx.Connect(t.Context(), w.url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			lock, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := len(p.output()) // the session may be renewed while it waits for the lock
			if _, err := lock.Exec(t.Context(), `LOCK TABLE _eds_checkpoint IN ACCESS EXCLUSIVE MODE`); err != nil {
				t.Fatal(err)
			}
			if reason == "restart order" {
				w.notify(session, "restart", nil)
			}
			eventually(t, "the session is about to end", func() bool { return strings.Contains(p.output()[before:], test.pending) },
				p.output)
			if reason == "renewal" {
				eventually(t, "the next session begins",
					func() bool { return strings.Contains(p.output()[before:], "the session began") }, p.output)
			}
			p.signal(syscall.SIGTERM)
			eventually(t, "the server shuts down",
				func() bool { return strings.Contains(p.output(), "the server shuts down once it has applied") }, p.output)
			if err := lock.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d\n%s", code, p.output())
			}
			for _, s := range sessions(t, w) {
				if s.Errored || s.Lost || s.Ended.IsZero() {
					t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
				}
			}
		})
	}
}

func TestServer_ExitsZeroIfItIsStoppedWhileItWaitsForItsDataDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{})
	held, err := state.Open(w.data)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	p := w.serve()
	eventually(t, "it waits", func() bool { return strings.Contains(p.output(), "another eds uses the data directory") }, p.output)
	p.stop()
}
