package e2e_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// destinations are the destinations on which every promise about rows is tested.
var destinations = map[string]func(*testing.T) string{
	"postgres": func(t *testing.T) string { return peers.Postgres(t) },
	"sqlite":   sqlite,
}

func TestServer_AppliesSnapshotAndChangesWhileSchemaEvolves(t *testing.T) {
	t.Parallel()
	for name, destination := range destinations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, destination(t), devhq.Options{Rate: 400})
			w.imports()
			p := w.serve("--backfill-new-tables=false")
			w.applied(p, 200)
			for evolved := uint64(1); evolved <= 4; evolved++ {
				what, err := w.hq.Evolve(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				t.Log(what)
				w.applied(p, 200+evolved*200)
			}
			w.drain(p)
			w.complete(p)
			p.stop()
			w.equal()
			for _, s := range sessions(t, w) {
				if s.Errored || s.Lost || s.Ended.IsZero() {
					t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
				}
			}
		})
	}
}

func sessions(t *testing.T, w *world) []devhq.Session {
	t.Helper()
	all, err := w.hq.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Error("there was no session")
	}
	return all
}

func TestServer_LosesNothingInTwentyKills(t *testing.T) {
	t.Parallel()
	for name, destination := range destinations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, destination(t), devhq.Options{Rate: 600})
			w.imports()
			random := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				p := w.serve()
				before := uint64(0)
				if c := w.consumer(); c != nil {
					before = c.AckFloor.Stream
				}
				w.acknowledged(p, before+1+random.Uint64N(300))
				p.kill()
			}
			p := w.serve()
			w.drain(p)
			p.stop()
			w.equal()
		})
	}
}

func TestServer_WaitsForDestination(t *testing.T) {
	t.Parallel()
	pg := peers.StartPostgres(t)
	w := newWorld(t, pg.Database(t), devhq.Options{Rate: 400})
	w.imports()
	p := w.serve()
	w.applied(p, 300)
	pg.Kill(t)
	eventually(t, "the server says that it waits", func() bool {
		return strings.Contains(p.output(), "waiting for the destination")
	}, p.output)
	pg.Start(t)
	w.applied(p, 900)
	pg.Stop(t)
	pg.Start(t)
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_WaitsForNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 400})
	w.imports()
	p := w.serve()
	for n := uint64(1); n <= 3; n++ {
		w.applied(p, n*200)
		w.hq.StopNATS()
		if err := w.hq.StartNATS(); err != nil {
			t.Fatal(err)
		}
	}
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_StartsWhileDestinationIsDown(t *testing.T) {
	t.Parallel()
	pg := peers.StartPostgres(t)
	w := newWorld(t, pg.Database(t), devhq.Options{Rate: 200})
	w.imports()
	pg.Stop(t)
	p := w.serve()
	eventually(t, "the server says that it waits", func() bool {
		return strings.Contains(p.output(), "waiting for the destination")
	}, p.output)
	pg.Start(t)
	w.applied(p, 1)
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_EndsAtOnceOnSecondSignal(t *testing.T) {
	t.Parallel()
	pg := peers.StartPostgres(t)
	w := newWorld(t, pg.Database(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serve()
	w.applied(p, 50)
	pg.Kill(t) // so that buffered changes cannot be applied
	eventually(t, "the server says that it waits", func() bool {
		return strings.Contains(p.output(), "waiting for the destination")
	}, p.output)
	p.signal(syscall.SIGTERM)
	eventually(t, "the server reports that it shuts down", func() bool {
		code, _ := p.get("")
		return code == 503
	}, p.output)
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 1 {
		t.Errorf("exit code %d, want 1\n%s", code, p.output())
	}
	pg.Start(t)
	p = w.serve()
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_WaitsForServerOfSameID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 100})
	w.imports()
	p := w.serve()
	w.applied(p, 10)
	other := *w
	other.data = t.TempDir()
	second := other.serve()
	eventually(t, "the second server says that it waits", func() bool {
		return strings.Contains(second.output(), "another server runs with this id")
	}, second.output)
	p.stop()
	eventually(t, "the second server takes over", func() bool {
		return strings.Contains(second.output(), "the session began")
	}, second.output)
	w.drain(second)
	second.stop()
	w.equal()
}

func TestServer_DeadLettersPoisonEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serve()
	w.applied(p, 50)
	w.publish("customer", "INSERT", map[string]any{
		"operation": "INSERT", "table": "customer", "id": "poison-1",
		"modelVersion": w.tables()["customer"].Version, "mvccTimestamp": clock(),
	}) // without a row
	w.publish("customer", "DELETE", map[string]any{"operation": "EXPLODE", "table": "customer", "id": "poison-2"})
	w.drain(p)
	p.stop()
	w.equal()
	list, stderr, code := w.eds("dlq", "list", "--data-dir", w.data)
	if code != 0 || strings.Count(list, "  unknown  ") != 2 {
		t.Errorf("dlq list: exit code %d\n%s%s", code, list, stderr)
	}
	if t.Failed() {
		return
	}
	for _, want := range []string{"poison-1", "EXPLODE"} {
		id := strings.Fields(strings.Split(list, "\n")[1])[0]
		if want == "EXPLODE" {
			id = strings.Fields(strings.Split(list, "\n")[2])[0]
		}
		if shown, _, _ := w.eds("dlq", "show", id, "--data-dir", w.data); !strings.Contains(shown, want) {
			t.Errorf("dlq show %s lacks %q:\n%s", id, want, shown)
		}
	}
	if dropped, _, _ := w.eds("dlq", "drop", "--all", "--data-dir", w.data); dropped != "2 dropped\n" {
		t.Errorf("dlq drop: %q", dropped)
	}
}

// clock returns a clock that is newer than every snapshot.
func clock() string { return time.Now().Add(time.Hour).Format("20060102150405") + "00000" }

func TestServer_ResumesExpiredSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 300)
	p.stop()
	if err := w.hq.DeleteConsumer(t.Context(), "eds-"+w.id); err != nil {
		t.Fatal(err)
	}
	p = w.serve()
	w.applied(p, 300)
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_ReportsChangesLostByTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	p.stop()
	if err := w.hq.DeleteConsumer(t.Context(), "eds-"+w.id); err != nil {
		t.Fatal(err)
	}
	was, err := w.hq.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shop goes on", func() bool {
		now, err := w.hq.StreamState(t.Context())
		return err == nil && now.LastSeq > was.LastSeq+100
	}, func() string { return "" })
	if err := w.hq.PurgeStream(t.Context(), was.LastSeq+50); err != nil {
		t.Fatal(err)
	}
	w.reportsGap(w.serve(), "the stream no longer has messages")
}

// reportsGap expects that health reports a gap, and that its remedy works.
func (w *world) reportsGap(p *process, event string) {
	t := w.t
	t.Helper()
	eventually(t, "the server reports the gap", func() bool {
		code, body := p.get("")
		return code == 503 && strings.Contains(body, event) && strings.Contains(body, "run eds import")
	}, p.output)
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code > 1 { // 1 if nothing can be applied before an import
		t.Errorf("exit code %d\n%s", code, p.output())
	}
	w.imports()
	p = w.serve()
	w.applied(p, 100)
	w.drain(p)
	p.stop()
	w.equal()
}

func TestServer_ReportsAStreamThatWasCreatedAgainAndGrew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	p.stop()
	was, err := w.hq.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.hq.RecreateStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new stream has grown past the old one", func() bool {
		now, err := w.hq.StreamState(t.Context())
		return err == nil && now.LastSeq > was.LastSeq+100
	}, func() string { return "" })
	w.reportsGap(w.serve(), "it was created again or restored")
}

func TestServer_ReportsADestinationThatWasEmptied(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(*world) *world{
		"by its data directory":       func(w *world) *world { return w },
		"by its consumer alone":       func(w *world) *world { return w.from(w.t.TempDir()) },
		"by a new data directory":     (*world).followedAfresh,
		"imported by another program": func(w *world) *world { w.from(w.t.TempDir()).imports(); return w.followed() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
			w.imports()
			w.followed()
			w = between(w)
			path := strings.TrimPrefix(w.url, "sqlite://")
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			w.reportsGap(w.serve(), "the destination has no checkpoint")
		})
	}
}

// followed makes a server apply some changes.
func (w *world) followed() *world {
	w.t.Helper()
	last := w.last()
	p := w.serve()
	w.acknowledged(p, last+100)
	p.stop()
	return w
}

// followedAfresh makes a server with a new data directory apply some changes.
func (w *world) followedAfresh() *world {
	w.t.Helper()
	return w.from(w.t.TempDir()).followed()
}

func TestImport_RewindsNoNewerRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	for n := range uint64(3) {
		w.imports()
		p := w.serve()
		w.applied(p, 100*(n+1))
		eventually(t, "the server has begun", func() bool { return strings.Contains(p.output(), "the session began") }, p.output)
		p.stop()
	}
	p := w.serve()
	w.drain(p)
	p.stop()
	w.equal()
}
