package e2e_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// down starts a server into a PostgreSQL that can be cut off, cuts it off while changes
// are made, and waits for the next session.
func (w *world) down(d *database) (p *process, between *proxy, session string) {
	w.t.Helper()
	target, err := url.Parse(d.url)
	if err != nil {
		w.t.Fatal(err)
	}
	between = newProxy(w.t, "127.0.0.1:0", target.Host)
	target.Host = between.address()
	w.url = target.String()
	w.imports()
	p = w.serve("--renew-interval", "10s")
	session = w.session(p, "")
	w.applied(p, 50)
	between.cut()
	return p, between, w.session(p, session)
}

// TestControl_WorksWhileTheDestinationIsDown renews the session while the previous one still waits
// for the destination.
func TestControl_WorksWhileTheDestinationIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", devhq.Options{Rate: 100})
	p, _, session := w.down(newDatabase(t))
	w.notify(session, "pause", nil)
	want(t, w.received(p, session, "pause-response", 1), "success", true)
	w.notify(session, "unpause", nil)
	want(t, w.received(p, session, "unpause-response", 1), "success", true)
	w.url = sqlite(t)
	want(t, w.ask(p, session, "configure", map[string]any{"url": w.url, "backfill": true}), "success", true)
	w.notify(session, "import", map[string]any{"backfill": true})
	eventually(t, "the import is answered", func() bool { return len(w.hq.Received("", "import-response")) > 0 }, p.output)
	want(t, w.hq.Received("", "import-response")[0].Data, "success", true)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestControl_RestartsAndEndsWhileTheDestinationIsDown loses nothing.
func TestControl_RestartsAndEndsWhileTheDestinationIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", devhq.Options{Rate: 100})
	p, between, session := w.down(newDatabase(t))
	w.notify(session, "restart", nil)
	want(t, w.received(p, session, "restart-response", 1), "success", true)
	session = w.session(p, session)
	w.notify(session, "pause", nil)
	want(t, w.received(p, session, "pause-response", 1), "success", true)
	between.restore()
	w.notify(session, "unpause", nil)
	want(t, w.received(p, session, "unpause-response", 1), "success", true)
	w.drain(p)
	session = w.session(p, "")
	between.cut()
	w.notify(session, "shutdown", nil)
	if code := p.wait(); code != 0 {
		t.Errorf("a shutdown ends with %d\n%s", code, p.output())
	}
	between.restore()
	w.equal()
}

// TestPause_SurvivesACrash kills the worker of a paused server.
func TestPause_SurvivesACrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 100})
	w.imports()
	p := w.serve()
	session := w.session(p, "")
	w.applied(p, 50)
	w.notify(session, "pause", nil)
	want(t, w.received(p, session, "pause-response", 1), "success", true)
	p.crash()
	session = w.session(p, session)
	beat := w.received(p, session, "heartbeat", 1)
	server, _ := beat["server"].(map[string]any)
	want(t, server, "state", "paused")
	want(t, server, "reason", "HQ has paused this server")
	if beat["paused"] == nil {
		t.Errorf("the heartbeat is %v", beat)
	}
	if stdout, stderr, _ := w.eds("status", "--data-dir", w.data); !strings.Contains(stdout, "HQ has paused this server") {
		t.Errorf("the status is %s%s", stdout, stderr)
	}
	w.notify(session, "unpause", nil)
	want(t, w.received(p, session, "unpause-response", 1), "success", true)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestConfigure_WaitsForTheImportAcrossRestarts restarts the session, and kills the worker.
func TestConfigure_WaitsForTheImportAcrossRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", devhq.Options{Rate: 100})
	p := w.serve()
	session := w.session(p, "")
	w.url = sqlite(t)
	want(t, w.ask(p, session, "configure", map[string]any{"url": w.url, "backfill": true}), "success", true)
	const waits = "the destination is newly configured and waits for an import"
	for range 2 {
		w.notify(session, "restart", nil)
		want(t, w.received(p, session, "restart-response", 1), "success", true)
		session = w.session(p, session)
		p.crash()
		session = w.session(p, session)
		server, _ := w.received(p, session, "heartbeat", 1)["server"].(map[string]any)
		want(t, server, "reason", waits)
	}
	w.notify(session, "import", map[string]any{"backfill": true})
	want(t, w.received(p, session, "import-response", 1), "success", true)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestImport_RequestedByHQSurvivesRenewalsAndCrashes answers once.
func TestImport_RequestedByHQSurvivesRenewalsAndCrashes(t *testing.T) {
	t.Parallel()
	for name, crashes := range map[string]bool{"renewals": false, "a crash": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{Rate: 50})
			var held atomic.Bool
			held.Store(true)
			release, reached := make(chan struct{}), make(chan struct{}, 100)
			asked := requests(http.MethodGet, "/v3/export/bulk/")
			w.hq.Disturb(func(r *http.Request) devhq.Fault {
				if !asked(r) || !held.Load() {
					return nil
				}
				return func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						reached <- struct{}{}
						select {
						case <-release:
							next.ServeHTTP(rw, r)
						case <-r.Context().Done():
						}
					})
				}
			})
			interval := "2s"
			if crashes {
				interval = "1h"
			}
			p := w.serve("--renew-interval", interval)
			session := w.session(p, "")
			w.notify(session, "import", map[string]any{"backfill": true})
			<-reached
			if crashes {
				p.crash()
				w.session(p, session)
			} else {
				w.session(p, w.session(p, session))
			}
			held.Store(false)
			close(release)
			eventually(t, "the import is answered", func() bool { return len(w.hq.Received("", "import-response")) > 0 }, p.output)
			w.drain(p)
			p.stop()
			answers := w.hq.Received("", "import-response")
			if len(answers) != 1 {
				t.Errorf("the answers are %v", answers)
			}
			want(t, answers[0].Data, "success", true)
			want(t, answers[0].Data, "sessionId", answers[0].SessionID)
			if started := strings.Count(p.output(), `"an export`); started > 1 {
				t.Errorf("%d exports were begun\n%s", started, p.output())
			}
			w.equal()
		})
	}
}

// crash kills the worker. The server starts another.
func (p *process) crash() {
	p.t.Helper()
	if err := syscall.Kill(p.worker(), syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
}
