package e2e_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// givesWay waits until a server reports that another one writes to its destination.
func (p *process) givesWay() {
	p.t.Helper()
	host, err := os.Hostname()
	if err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "the server names the one that writes", func() bool {
		code, report := p.health()
		for _, reason := range report.Reasons {
			names := strings.Contains(reason.Message, "another server writes") && strings.Contains(reason.Message, "host "+host) &&
				strings.Contains(reason.Message, "since ")
			if names && code == http.StatusServiceUnavailable {
				return true
			}
		}
		return false
	}, p.output)
	eventually(p.t, "the log says why the server waits", func() bool { return strings.Contains(p.warnings(), "another server writes") },
		p.output)
}

// undisturbed makes a server apply changes, and expects it to keep its worker and session.
func (w *world) undisturbed(p *process) {
	w.t.Helper()
	worker, began := p.worker(), strings.Count(p.output(), "the session began")
	w.changes(150)
	w.acknowledged(p, w.last())
	if now := p.worker(); now != worker {
		w.t.Errorf("worker %d has taken the place of worker %d\n%s", now, worker, p.output())
	}
	if now := strings.Count(p.output(), "the session began"); now != began {
		w.t.Errorf("%d sessions began meanwhile\n%s", now-began, p.output())
	}
	w.quiet(p)
}

// takesOver expects a server that has given way to continue with the same worker.
func (w *world) takesOver(p *process, worker int) {
	w.t.Helper()
	w.follows(p)
	w.changes(50)
	w.drain(p)
	w.quiet(p)
	if now := p.worker(); now != worker {
		w.t.Errorf("worker %d has taken the place of worker %d\n%s", now, worker, p.output())
	}
	p.stop()
	w.equal()
}

// TestWriter_GivesWayToTheServerWithTheSession starts a second server of one id while the first one
// is cut off from NATS. HQ considers the first one lost.
func TestWriter_GivesWayToTheServerWithTheSession(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process){"stopped": (*process).stop, "killed": (*process).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{Rate: 100})
			w.imports()
			other := w.from(t.TempDir())
			nats := newProxy(t, "127.0.0.1:0", strings.TrimPrefix(w.hq.NATSURL(), "nats://"))
			w.nats = "nats://" + nats.address()
			first := w.serve()
			w.applied(first, 50)
			worker := first.worker()
			nats.cut()
			second := other.serve()
			eventually(t, "the second server has a session",
				func() bool { return strings.Contains(second.output(), "the session began") }, second.output)
			other.follows(second)
			nats.restore()
			first.givesWay()
			other.undisturbed(second)
			end(second)
			w.takesOver(first, worker)
		})
	}
}

// TestWriter_GivesWayToAServerOfAnotherID makes two servers, which read the same companies, write
// to one database.
func TestWriter_GivesWayToAServerOfAnotherID(t *testing.T) {
	t.Parallel()
	for name, suffix := range map[string][]string{"other id": nil, "other id and suffix": {"--consumer-suffix", "b"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{Rate: 100})
			w.imports()
			first := w.serve()
			w.applied(first, 50)
			other := w.from(t.TempDir())
			other.id = "other"
			other.key = w.hq.APIKey(devhq.KeyOptions{ServerID: other.id})
			if suffix != nil {
				other.id += "-b" // of the consumer
			}
			second := other.serve(suffix...)
			second.givesWay()
			worker := second.worker()
			w.undisturbed(first)
			first.stop()
			other.takesOver(second, worker)
		})
	}
}

// TestWriter_SuffixesTakeTurns follows the stream under a suffix and without it, one after
// the other, into one database.
func TestWriter_SuffixesTakeTurns(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	suffixed := w.from(w.data)
	suffixed.id += "-b" // of the consumer
	for range 2 {
		p := w.serve()
		w.continues(p, 100)
		w.unreserved(p)
		p.stop()
		w.equal()
		p = suffixed.serve("--consumer-suffix", "b")
		suffixed.continues(p, 100)
		suffixed.unreserved(p)
		p.stop()
		w.equal()
	}
}

// TestWriter_IsSucceededByAnotherHost kills a server. A server with another data directory
// continues at once, and so does the first one after it.
func TestWriter_IsSucceededByAnotherHost(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	p.kill()
	w.work(50)
	other := w.from(t.TempDir())
	for _, host := range []*world{other, w, other} {
		p = host.serve()
		host.continues(p, 50)
		host.unreserved(p)
		p.kill()
	}
	w.equal()
}
