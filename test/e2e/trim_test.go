package e2e_test

import (
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// byAge drops all messages except for the newest ones, and so does bySize.
func byAge(w *world) {
	w.t.Helper()
	if err := w.hq.PurgeStream(w.t.Context(), w.newest()-10); err != nil {
		w.t.Fatal(err)
	}
}

func bySize(w *world) {
	w.t.Helper()
	w.limitStream(20_000)
	w.limitStream(-1)
}

// newest returns the sequence of the newest message in the stream.
func (w *world) newest() uint64 {
	w.t.Helper()
	state, err := w.hq.StreamState(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return state.LastSeq
}

// limitStream sets how many bytes the stream keeps.
func (w *world) limitStream(size int64) {
	w.t.Helper()
	js, err := jetstream.New(w.hq.Conn())
	if err != nil {
		w.t.Fatal(err)
	}
	stream, err := js.Stream(w.t.Context(), "dbchange")
	if err != nil {
		w.t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxBytes = size
	if _, err := js.UpdateStream(w.t.Context(), config); err != nil {
		w.t.Fatal(err)
	}
}

// lock blocks writers of the SQLite database until the returned function is called.
func (w *world) lock() (unlock func()) {
	w.t.Helper()
	db, err := sql.Open("sqlite", strings.TrimPrefix(w.url, "sqlite://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the database is locked", func() bool {
		_, err := conn.ExecContext(w.t.Context(), `BEGIN IMMEDIATE`)
		return err == nil
	}, func() string { return "" })
	return func() {
		if _, err := conn.ExecContext(w.t.Context(), `ROLLBACK`); err != nil {
			w.t.Fatal(err)
		}
	}
}

// waits waits until the stream has n changes that the server has not received.
func (w *world) waits(p *process, n uint64) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d changes wait", n), func() bool {
		c := w.consumer()
		return c != nil && c.NumPending >= n
	}, p.output)
}

func TestServer_ReportsChangesThatTheStreamDropsWhileItIs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		trim  func(*world)
		while func(w *world, p *process, trim func(*world)) *process
	}{
		"slow":    {bySize, whileSlow},
		"stalled": {byAge, whileStalled},
		"paused":  {bySize, whilePaused},
		"down":    {byAge, whileDown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{Rate: 400})
			w.imports()
			p := w.serve("--maxAckPending", "50")
			w.applied(p, 100)
			if p = c.while(w, p, c.trim); p != nil {
				w.reportsGap(p, "the stream no longer has messages")
			}
		})
	}
}

func whileSlow(w *world, p *process, trim func(*world)) *process {
	unlock := w.lock()
	w.waits(p, 200)
	trim(w)
	unlock()
	return p
}

// whileStalled returns nil if the server did not read the stream between the first waiting change
// and the trim. Then it can only warn.
func whileStalled(w *world, p *process, trim func(*world)) *process {
	unlock := w.lock()
	defer unlock()
	w.waits(p, 200)
	trim(w)
	warned := false
	eventually(w.t, "the server notices", func() bool {
		_, report := p.health()
		warned = slices.ContainsFunc(report.Warnings, func(r telemetry.Reason) bool { return r.Condition == "continuity" })
		return warned || strings.Contains(p.output(), "waiting for the stream")
	}, p.output)
	if warned {
		return nil
	}
	return p
}

func whilePaused(w *world, p *process, trim func(*world)) *process {
	session := w.session(p, "")
	w.notify(session, "pause", nil)
	w.received(p, session, "pause-response", 1)
	w.waits(p, 200)
	trim(w)
	w.notify(session, "unpause", nil)
	return p
}

func whileDown(w *world, p *process, trim func(*world)) *process {
	p.stop()
	w.waits(p, 200)
	trim(w)
	return w.serve()
}

func TestServer_ReportsAStreamThatWasCreatedAgainBesideIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	worker := p.worker()
	for _, pid := range []int{p.cmd.Process.Pid, worker} { // it sees nothing before the new one has grown
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	was := w.newest()
	if err := w.hq.RecreateStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new stream has grown past the old one", func() bool {
		return w.newest() > was+100
	}, func() string { return "" })
	for _, pid := range []int{worker, p.cmd.Process.Pid} {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	w.reportsGap(p, "it was created again or restored")
}

// TestServer_ReportsLossesThatComeTogether loses the data directory, restores an old copy of the
// destination, and makes the stream drop the changes after it.
func TestServer_ReportsLossesThatComeTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	w.drain(p)
	p.stop()
	path := strings.TrimPrefix(w.url, "sqlite://")
	copied := path + ".copy"
	copyFile(t, path, copied)
	p = w.serve()
	w.hq.Resume()
	w.acknowledged(p, w.changes(200))
	p.stop()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.RemoveAll(path + suffix); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, copied, path)
	w.data = t.TempDir()
	if err := w.hq.PurgeStream(t.Context(), w.newest()-50); err != nil {
		t.Fatal(err)
	}
	w.reportsGap(w.serve(), "the stream no longer has messages")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Clean(to))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// foreign publishes changes of another tenant, which no credential covers.
func (w *world) foreign(n int) {
	w.t.Helper()
	js, err := jetstream.New(w.hq.Conn())
	if err != nil {
		w.t.Fatal(err)
	}
	for range n {
		if _, err := js.PublishAsync("dbchange.order.UPDATE.another.NONE.PUBLIC.x", []byte(`{"a":1}`),
			jetstream.WithStallWait(patience)); err != nil {
			w.t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		w.t.Fatal("publishing takes too long")
	}
}

// TestServer_IsQuietAmongOtherTenants makes the stream drop thousands of messages of others, but
// none that the server has not read.
func TestServer_IsQuietAmongOtherTenants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	drop := func() {
		t.Helper()
		w.foreign(3000)
		if err := w.hq.PurgeStream(t.Context(), w.newest()-100); err != nil {
			t.Fatal(err)
		}
	}
	goOn := func() {
		t.Helper()
		w.hq.Resume()
		w.acknowledged(p, w.changes(50))
		w.drain(p)
		w.follows(p)
	}
	goOn()
	drop() // while it reads
	goOn()
	session := w.session(p, "")
	w.notify(session, "pause", nil)
	w.received(p, session, "pause-response", 1)
	w.foreign(3000)
	w.notify(session, "unpause", nil)
	goOn()
	p.stop()
	w.foreign(3000)
	p = w.serve()
	goOn()
	w.foreign(3000)
	w.hq.StopNATS()
	if err := w.hq.StartNATS(); err != nil {
		t.Fatal(err)
	}
	goOn()
	p.stop()
	w.equal()
}

// TestServer_FollowsASourceWhoseClockDiffers shifts the clock of the source's database, which
// orders imports and changes, against the clock of NATS.
func TestServer_FollowsASourceWhoseClockDiffers(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{5 * time.Minute, 20 * time.Minute, -5 * time.Minute, -20 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{Rate: 300, ClockOffset: ahead})
			w.changes(50) // before the import, too
			w.imports()
			w.changes(50)
			p := w.serve()
			w.applied(p, 100)
			p.stop()
			w.changes(50)
			w.imports()
			w.changes(50)
			p = w.serve()
			w.acknowledged(p, w.changes(50))
			w.drain(p)
			w.follows(p)
			p.stop()
			w.equal()
		})
	}
}
