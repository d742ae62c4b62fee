package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// hooked is a dialect that passes each opened session to a function.
type hooked struct {
	*dialect
	opened func(s *fileSession)
}

func (h *hooked) Connect(ctx context.Context) (sqlsink.Conn, error) {
	c, err := h.dialect.Connect(ctx)
	if err == nil {
		h.opened(c.(*fileSession))
	}
	return c, err
}

// openHooked opens a second sink on w's file.
func (w *fixture) openHooked(query string, opened func(s *fileSession)) (*sqlsink.Sink, *dialect) {
	w.Helper()
	env := sink.Env{Stream: "s", Consumer: "c", Filter: "f"}
	d, _, err := parse(&url.URL{Scheme: "sqlite", Path: w.path, RawQuery: query}, env)
	if err != nil {
		w.Fatal(err)
	}
	s, err := sqlsink.Open(w.Context(), &hooked{d, opened}, sqlsink.Options{}, env)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(w.Context())); err != nil {
			w.Error(err)
		}
	})
	return s, d
}

func thing(t testing.TB) *schema.Table {
	return table(t, "thing", 1, "id", schema.String, "n", schema.Integer, "s", schema.String)
}

// images returns n rows with successive ids, starting with first.
func images(first, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"id":"%06d","n":%d,"s":%q}`, first+i, first+i, strings.Repeat("x", 500))
	}
	return all
}

// messages sends each logged message to a channel.
type messages struct {
	slog.Handler
	seen chan string
}

func (m messages) Enabled(context.Context, slog.Level) bool { return true }

func (m messages) Handle(_ context.Context, r slog.Record) error {
	m.seen <- r.Message
	return nil
}

func TestApply_WaitsForALock(t *testing.T) {
	w := newFixture(t, "")
	w.apply(thing(t), images(0, 1)...)
	mustExec(t, w.user, "BEGIN IMMEDIATE; CREATE TABLE other (x)")
	logged := messages{slog.DiscardHandler, make(chan string, 100)}
	env := sink.Env{Stream: "s", Consumer: "c", Filter: "f", Logger: slog.New(logged)}
	s, err := open(t.Context(), &url.URL{Scheme: "sqlite", Path: w.path, RawQuery: "busy_timeout=1m"}, env)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Apply(t.Context(), w.batch(thing(t), images(1, 1)...)) }()
	for message := range logged.seen {
		if message == "waiting for a lock on the database file" {
			break
		}
	}
	mustExec(t, w.user, "COMMIT")
	if err := errors.Join(<-done, s.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT count(*) FROM thing", "2")
}

func TestApply_IsTransientAfterTheBusyTimeout(t *testing.T) {
	w := newFixture(t, "", "busy_timeout=10ms")
	w.apply(thing(t), images(0, 1)...)
	mustExec(t, w.user, "BEGIN IMMEDIATE")
	b := w.batch(thing(t), images(1, 1)...)
	err := w.sink.Apply(t.Context(), b)
	if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "database is locked") {
		t.Errorf("got %v", err)
	}
	if err := w.sink.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "another program holds its lock") {
		t.Errorf("got %v", err)
	}
	mustExec(t, w.user, "COMMIT")
	if err := w.sink.Apply(t.Context(), b); err != nil {
		t.Error(err)
	}
	w.want("SELECT count(*) FROM thing", "2")
}

func TestApply_StopsWaitingForALockWithItsContext(t *testing.T) {
	w := newFixture(t, "", "busy_timeout=1h")
	w.apply(thing(t), images(0, 1)...)
	mustExec(t, w.user, "BEGIN IMMEDIATE")
	b := w.batch(thing(t), images(1, 1)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.sink.Apply(ctx, b) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	mustExec(t, w.user, "COMMIT")
	if err := w.sink.Apply(t.Context(), b); err != nil {
		t.Error(err)
	}
}

func TestExec_EndsWithItsContext(t *testing.T) {
	s := newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	const endless = "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
	go func() { done <- s.Exec(ctx, []string{"CREATE TABLE t (x)", endless}) }()
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := s.Exec(t.Context(), []string{"CREATE TABLE t (x)"}); err != nil {
		t.Errorf("the session is unusable: %v", err)
	}
}

func TestApply_IsTransientOnAFullDisk(t *testing.T) {
	w := newFixture(t, "PRAGMA page_size=4096; CREATE TABLE thing (id TEXT PRIMARY KEY, n INT, s TEXT)")
	var sessions []*fileSession
	s, _ := w.openHooked("", func(s *fileSession) {
		sessions = append(sessions, s)
		mustExec(t, s.db, "PRAGMA max_page_count=20")
	})
	if err := s.Apply(t.Context(), w.batch(thing(t), images(0, 2)...)); err != nil {
		t.Fatal(err)
	}
	b := w.batch(thing(t), images(2, 500)...)
	for range 3 {
		err := s.Apply(t.Context(), b)
		if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "database or disk is full") {
			t.Fatalf("got %v", err)
		}
		w.want("SELECT count(*) FROM thing", "2")
	}
	mustExec(t, sessions[len(sessions)-1].db, "PRAGMA max_page_count=100000")
	if err := s.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w.want("SELECT count(*) FROM thing", "502")
	w.sound()
}

func TestApply_IsTransientWithoutItsFile(t *testing.T) {
	w := newFixture(t, "")
	w.apply(thing(t), images(0, 2)...)
	mustExec(t, w.user, "VACUUM INTO '"+w.path+".backup'")
	w.apply(thing(t), images(2, 2)...)
	remove := func() {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(w.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	remove()
	b := w.batch(thing(t), images(4, 1)...)
	for range 2 {
		err := w.sink.Apply(t.Context(), b)
		if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), w.path) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := os.Stat(w.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty database has replaced the missing one: %v", err)
	}
	if err := os.Rename(w.path+".backup", w.path); err != nil {
		t.Fatal(err)
	}
	// The backup has the first two changes.
	if p, err := w.sink.Checkpoint(t.Context()); p.Sequence != 2 || err != nil {
		t.Errorf("the checkpoint is %v, %v", p, err)
	}
	if err := w.sink.Apply(t.Context(), b); err != nil {
		t.Error(err)
	}
	w.reopen()
	w.want("SELECT n FROM thing ORDER BY n", "0", "1", "4")
	w.sound()
}

// Every batch writes one row to each of two tables, which therefore always have equally many rows.
func TestApply_ShowsReadersWholeBatches(t *testing.T) {
	w := newFixture(t, "")
	things, twins := thing(t), table(t, "twin", 1, "id", schema.String, "n", schema.Integer)
	w.apply(things, images(0, 1)...)
	w.apply(twins, `{"id":"000000","n":0}`)
	var group errgroup.Group
	stop := make(chan struct{})
	for range 2 {
		db := openAt(t, w.path)
		group.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				st, err := db.Prepare("SELECT (SELECT count(*) FROM thing) - (SELECT count(*) FROM twin)")
				if err != nil {
					return err
				}
				if _, err := st.Step(); err != nil {
					return err
				}
				if n := st.Int(0); n != 0 {
					return fmt.Errorf("%d rows without their twin", n)
				}
				st.Finalize()
			}
		})
	}
	for i := 1; i < 100; i++ {
		b, twin := w.batch(things, images(i, 1)...), w.batch(twins, fmt.Sprintf(`{"id":"%06d","n":%d}`, i, i))
		b.Sets, b.Last = append(b.Sets, twin.Sets...), twin.Last
		if err := w.sink.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// At any time one of two readers uses the log, so SQLite alone would never truncate it.
func TestWAL_StaysBoundedWithOverlappingReaders(t *testing.T) {
	w := newFixture(t, "PRAGMA journal_mode=WAL")
	s, d := w.openHooked("", func(*fileSession) {})
	d.maxLog = 1 << 20
	if err := s.Apply(t.Context(), w.batch(thing(t), images(0, 1)...)); err != nil {
		t.Fatal(err)
	}
	readers := []*capi.DB{openAt(t, w.path), openAt(t, w.path)}
	var group errgroup.Group
	stop := make(chan struct{})
	group.Go(func() error {
		mustExec(t, readers[1], "BEGIN; SELECT id FROM thing LIMIT 1")
		for i := 0; ; i++ {
			if err := readers[i%2].Exec("BEGIN; SELECT id FROM thing LIMIT 1"); err != nil {
				return err
			}
			if err := readers[(i+1)%2].Exec("COMMIT"); err != nil {
				return err
			}
			select {
			case <-stop:
				return nil
			default:
			}
		}
	})
	largest := int64(0)
	for i := range 200 {
		if err := s.Apply(t.Context(), w.batch(thing(t), images(i*100, 100)...)); err != nil {
			t.Error(err)
			break
		}
		largest = max(largest, d.walSize())
	}
	close(stop)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if largest > 2<<20 {
		t.Errorf("the log grew to %d bytes", largest)
	}
}

func TestLoad_SharesTheWriterWithBatches(t *testing.T) {
	w := newFixture(t, "", "busy_timeout=0s") // without turns, every wait for a lock would fail
	const tables, files, rows = 6, 4, 200
	var group errgroup.Group
	for i := range tables {
		target := table(t, fmt.Sprintf("loaded%d", i), 1, "id", schema.String, "n", schema.Integer, "s", schema.String)
		group.Go(func() error {
			l, err := w.sink.BeginLoad(t.Context(), "job", target, sink.Replace, sink.Scope{})
			if err != nil {
				return err
			}
			defer l.Close(t.Context())
			for f := range files {
				splitter := change.NewSplitter(target)
				if _, err := l.LoadFile(t.Context(), fmt.Sprint(f), func(yield func(*change.Row, error) bool) {
					for _, image := range images(f*rows, rows) {
						spans, err := splitter.Split([]byte(image))
						if !yield(&change.Row{Image: []byte(image), Spans: spans}, err) {
							return
						}
					}
				}); err != nil {
					return err
				}
			}
			_, err = l.Finish(t.Context())
			return err
		})
	}
	group.Go(func() error {
		for i := range 20 {
			if err := w.sink.Apply(t.Context(), w.batch(thing(t), images(i, 10)...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range tables {
		const n = files * rows
		w.want(fmt.Sprintf("SELECT count(*), sum(n) FROM loaded%d", i), fmt.Sprintf("%d|%d", n, n*(n-1)/2))
	}
	w.want("SELECT count(*) FROM thing", "29")
	w.sound()
}

// A load has the turn while its rows arrive slowly.
func TestApply_StopsWaitingForItsTurnWithItsContext(t *testing.T) {
	w := newFixture(t, "")
	target, other := thing(t), table(t, "other", 1, "id", schema.String)
	w.apply(other, `{"id":"a"}`)
	l, err := w.sink.BeginLoad(t.Context(), "job", target, sink.Replace, sink.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	const rows = (chunksAhead + 1) * 10
	image := fmt.Appendf(nil, `{"s":%q,"id":"`, strings.Repeat("x", chunkSize/10))
	_, err = l.LoadFile(t.Context(), "file", func(yield func(*change.Row, error) bool) {
		splitter := change.NewSplitter(target)
		for i := range rows + 1 {
			if i == rows {
				// The chunks cannot hold this many rows, so the first chunk has been written.
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				if err := w.sink.Apply(ctx, w.batch(other, `{"id":"b"}`)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			}
			image := fmt.Appendf(slices.Clone(image), `%d"}`, i)
			spans, err := splitter.Split(image)
			if !yield(&change.Row{Image: image, Spans: spans}, err) {
				return
			}
		}
	})
	_, finished := l.Finish(t.Context())
	if err := errors.Join(err, finished, l.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.apply(other, `{"id":"b"}`)
	w.want("SELECT count(*) FROM thing", fmt.Sprint(rows+1))
	w.want("SELECT id FROM other", "a", "b")
}
