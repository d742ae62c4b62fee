package e2e_test

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// session waits for an open session other than the given one.
func (w *world) session(p *process, other string) string {
	w.t.Helper()
	id := ""
	eventually(w.t, "a session begins", func() bool {
		all, err := w.hq.Sessions()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, s := range all {
			if s.Ended.IsZero() && s.ID != other && len(w.hq.Received(s.ID, "heartbeat")) > 0 {
				id = s.ID
			}
		}
		return id != ""
	}, p.output)
	return id
}

// received waits for the nth message of one kind from a session.
func (w *world) received(p *process, session, kind string, n int) map[string]any {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	m, err := w.hq.AwaitReceived(ctx, session, kind, n-1)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, p.output())
	}
	return m.Data
}

func (w *world) notify(session, action string, data any) {
	w.t.Helper()
	if err := w.hq.Notify(w.t.Context(), session, action, data); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(p *process, session, action string, data any) map[string]any {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	answer := make(map[string]any)
	if err := w.hq.Request(ctx, session, action, data, &answer); err != nil {
		w.t.Fatalf("%v\n%s", err, p.output())
	}
	return answer
}

// want expects a value in a reply.
func want(t *testing.T, answer map[string]any, key string, value any) {
	t.Helper()
	if answer[key] != value {
		t.Errorf("%s is %v, want %v in %v", key, answer[key], value, answer)
	}
}

// TestHQ_SetsUpAServer starts a server without configuration. HQ does everything else: describe,
// validate, configure, import, pause, and shut down.
func TestHQ_SetsUpAServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", devhq.Options{Rate: 200})
	p := w.serve()
	session := w.session(p, "")

	beat := w.received(p, session, "heartbeat", 1)
	want(t, beat, "sessionId", session)
	for _, key := range []string{"offset", "uptime", "stats"} {
		if _, ok := beat[key]; !ok {
			t.Errorf("a heartbeat lacks %s: %v", key, beat)
		}
	}
	stats, _ := beat["stats"].(map[string]any)
	memory, _ := stats["memory"].(map[string]any)
	metrics, _ := stats["metrics"].(map[string]any)
	if memory["total"] == nil || metrics["totalEvents"] == nil || stats["load"] == nil {
		t.Errorf("the statistics of a heartbeat are %v", stats)
	}

	drivers, _ := w.ask(p, session, "driverconfig", nil)["drivers"].(map[string]any)
	if postgres, _ := drivers["postgres"].(map[string]any); postgres["fields"] == nil {
		t.Errorf("the drivers are %v", drivers)
	}
	refused := w.ask(p, session, "validate", map[string]any{"driver": "postgres", "config": map[string]any{"Hostname": "", "Port": "x"}})
	want(t, refused, "success", false)
	if errs, _ := refused["field_errors"].([]any); len(errs) == 0 || refused["messsage"] == nil {
		t.Errorf("wrong values of fields are answered by %v", refused)
	}
	folder := filepath.Join(t.TempDir(), "out")
	valid := w.ask(p, session, "validate", map[string]any{"driver": "file", "config": map[string]any{"Directory": folder}})
	want(t, valid, "success", true)
	if url, _ := valid["url"].(string); !strings.HasPrefix(url, "file://") {
		t.Errorf("the url of the fields is %v", valid)
	}

	w.url = sqlite(t)
	bad := w.ask(p, session, "configure", map[string]any{"url": "sqlite:///dev/null/shop.db", "backfill": true})
	want(t, bad, "success", false)
	good := w.ask(p, session, "configure", map[string]any{"url": w.url, "backfill": true, "updateStrategy": "standard"})
	want(t, good, "success", true)
	want(t, good, "backfill", true)
	want(t, good, "maskedURL", w.url)
	if text, err := os.ReadFile(filepath.Join(w.data, "config.toml")); err != nil || !strings.Contains(string(text), w.url) {
		t.Errorf("the configuration is %q, %v", text, err)
	}

	w.notify(session, "import", map[string]any{"backfill": true})
	want(t, w.received(p, session, "import-status", 1), "success", true)
	want(t, w.received(p, session, "import-response", 1), "success", true)
	w.applied(p, 100)

	w.notify(session, "pause", nil)
	want(t, w.received(p, session, "pause-response", 1), "success", true)
	want(t, w.received(p, session, "pause-response", 1), "action", "pause")
	eventually(t, "the stream stands still", func() bool {
		return strings.Contains(p.output(), "HQ has paused this server")
	}, p.output)
	w.notify(session, "unpause", nil)
	want(t, w.received(p, session, "unpause-response", 1), "success", true)

	w.notify(session, "dance", nil)
	w.notify(session, "upgrade", map[string]any{"version": "not a version"})
	want(t, w.received(p, session, "upgrade-response", 1), "success", false)
	w.notify(session, "ping", map[string]any{"subject": "eds.client." + session + ".pong"})
	w.received(p, session, "pong", 1)

	w.notify(session, "sendlogs", nil)
	sent := w.received(p, session, "sendlogs-response", 1)
	logged(t, w, sent["path"])

	w.notify(session, "restart", nil)
	want(t, w.received(p, session, "restart-status", 1), "success", true)
	want(t, w.received(p, session, "restart-response", 1), "success", true)
	session = w.session(p, session)

	w.drain(p)
	w.notify(session, "shutdown", map[string]any{"message": "enough", "deleted": true})
	if code := p.wait(); code != 0 {
		t.Errorf("a shutdown ends with %d\n%s", code, p.output())
	}
	w.equal()
	for _, s := range sessions(t, w) {
		if s.Errored || s.Lost || s.Ended.IsZero() {
			t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
		}
	}
}

// logged expects an uploaded log at a storage path, of JSON lines.
func logged(t *testing.T, w *world, path any) {
	t.Helper()
	logs, err := w.hq.Logs()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range logs {
		if l.Path != path {
			continue
		}
		f, err := os.Open(l.File)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zipped, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(zipped)
		if err != nil || !strings.Contains(string(text), `"msg":"the session began"`) {
			t.Errorf("the log is %.500s, %v", text, err)
		}
		return
	}
	t.Errorf("no log is at %v: %+v", path, logs)
}

// TestSession_IsRenewedWhileTheStreamContinues renews sessions often.
func TestSession_IsRenewedWhileTheStreamContinues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serve("--renew-interval", "1s")
	session := w.session(p, "")
	for range 3 {
		session = w.session(p, session)
	}
	w.applied(p, 200)
	w.drain(p)
	p.stop()
	w.equal()
	for _, s := range sessions(t, w) {
		if s.Errored || s.Lost || s.Ended.IsZero() {
			t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
		}
	}
	if strings.Contains(p.output(), `"level":"WARN"`) {
		t.Errorf("a renewal is no reason for a warning:\n%s", p.output())
	}
	if beats := w.hq.Received("", "heartbeat"); len(beats) < 4 || beats[len(beats)-1].At.Sub(beats[0].At) < 2*time.Second {
		t.Errorf("HQ received %d heartbeats", len(beats))
	}
}
