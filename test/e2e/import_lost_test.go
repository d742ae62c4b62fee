package e2e_test

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// TestImport_ResumedIntoAnEmptiedDatabaseLacksNothing kills an import. Before the next run the
// database loses the loaded tables.
func TestImport_ResumedIntoAnEmptiedDatabaseLacksNothing(t *testing.T) {
	t.Parallel()
	files := requests(http.MethodGet, "/storage/exports/")
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		empty := d.copy()
		w := newWorld(t, d.url, devhq.Options{})
		w.killedImport(files, 12)
		d.restore(empty)
		w.imports()
		p := w.serve()
		w.continues(p, 20)
		p.stop()
		w.equal()
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, sqlite(t), devhq.Options{})
		w.killedImport(files, 12)
		for _, suffix := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(strings.TrimPrefix(w.url, "sqlite://") + suffix)
		}
		w.imports()
		p := w.serve()
		w.continues(p, 20)
		p.stop()
		w.equal()
	})
}

// TestImport_LosesTheDatabaseMeanwhile empties the database while an import runs.
func TestImport_LosesTheDatabaseMeanwhile(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	empty := d.copy()
	w := newWorld(t, d.url, devhq.Options{})
	held, release := w.hold(requests(http.MethodGet, "/storage/exports/"), 12)
	i := w.importing()
	<-held
	d.restore(empty)
	release()
	if code := i.wait(); code != 1 || !strings.Contains(i.output(), "run eds import again") {
		t.Errorf("the import ended with %d\n%s", code, i.output())
	}
	w.imports()
	p := w.serve()
	w.continues(p, 20)
	p.stop()
	w.equal()
}

// hold makes an import wait at the nth request that at chooses, and returns a function that lets it
// continue.
func (w *world) hold(at func(*http.Request) bool, n int) (reached <-chan struct{}, release func()) {
	var mu sync.Mutex
	held, released := make(chan struct{}), make(chan struct{})
	w.hq.Disturb(func(r *http.Request) devhq.Fault {
		mu.Lock()
		defer mu.Unlock()
		if !at(r) {
			return nil
		}
		if n--; n > 0 {
			return nil
		}
		if n == 0 {
			close(held)
		}
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				<-released
				next.ServeHTTP(rw, r)
			})
		}
	})
	return held, func() { w.hq.Disturb(nil); close(released) }
}

// TestImport_BesideAServerThatStartsMeanwhile holds an import until a server has passed its export.
func TestImport_BesideAServerThatStartsMeanwhile(t *testing.T) {
	t.Parallel()
	for name, destination := range destinations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, destination(t), devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			p.stop()
			other := w.from(t.TempDir())
			held, release := w.hold(requests(http.MethodGet, "/storage/exports/"), 5)
			i := other.importing()
			<-held
			p = w.serve()
			w.follows(p)
			w.work(300)
			w.drain(p)
			release()
			if code := i.wait(); code != 0 {
				t.Errorf("the import ended with %d\n%s", code, i.output())
			}
			w.work(20)
			w.drain(p)
			w.quiet(p)
			p.stop()
			w.equal()
		})
	}
}
