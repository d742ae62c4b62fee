package e2e_test

import (
	"fmt"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// replacements replace a database by an older copy.
var replacements = map[string]func(*database, *database){
	"restored":    (*database).restore,
	"failed over": (*database).failOver,
}

// TestRestore_IsFollowedWhileTheShopWorks replaces the database under a running server
// by a copy that lags.
func TestRestore_IsFollowedWhileTheShopWorks(t *testing.T) {
	t.Parallel()
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{Rate: 300})
			w.imports()
			p := w.serve()
			w.applied(p, 100)
			older := d.copy()
			w.acknowledged(p, w.changes(1500)) // of five seconds
			worker := p.worker()
			replace(d, older)
			w.acknowledged(p, w.changes(100))
			w.drain(p)
			w.quiet(p)
			if now := p.worker(); now != worker {
				t.Errorf("worker %d has taken the place of worker %d\n%s", now, worker, p.output())
			}
			p.stop()
			w.equal()
		})
	}
}

// TestRestore_IsFollowedAtTheNextChange replaces the database of a server that has
// nothing to do.
func TestRestore_IsFollowedAtTheNextChange(t *testing.T) {
	t.Parallel()
	for name, replace := range replacements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			older := d.copy()
			w.continues(p, 300)
			worker := p.worker()
			replace(d, older)
			w.work(1)
			w.drain(p)
			w.quiet(p)
			if now := p.worker(); now != worker {
				t.Errorf("worker %d has taken the place of worker %d\n%s", now, worker, p.output())
			}
			p.stop()
			w.equal()
		})
	}
}

// TestRestore_OfARunningServerIsAGapIfTheStreamWasTrimmed trims the changes that the copy lacks.
func TestRestore_OfARunningServerIsAGapIfTheStreamWasTrimmed(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	older := d.copy()
	w.continues(p, 300)
	w.trim()
	d.restore(older)
	w.work(1)
	w.gap(p, "eds import")
	w.imports()
	p = w.serve()
	w.continues(p, 50)
	p.stop()
	w.equal()
}

// restoreCase is a database and a data directory of different times.
type restoreCase struct{ database, data string }

// TestRestore_IsFollowedFromTheDatabase starts the server on databases and data directories that
// were restored to different times, or lost.
func TestRestore_IsFollowedFromTheDatabase(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	databases, data := make(map[string]*database), map[string]string{"lost": ""}
	save := func(name string) { databases[name], data[name] = d.copy(), w.saved() }
	w.imports()
	for _, name := range []string{"old", "middle", "new"} {
		p := w.serve()
		w.continues(p, 100)
		p.stop()
		save(name)
	}
	// try calls f with the database and the data directory of c.
	try := func(c restoreCase, f func(w *world)) {
		t.Run(fmt.Sprintf("database %s, data %s", c.database, c.data), func(t *testing.T) {
			w := w.in(t)
			d.restore(databases[c.database])
			w.putBack(data[c.data])
			f(w)
		})
	}
	for _, c := range []restoreCase{
		{"new", "old"},    // the record is behind the checkpoint
		{"new", "lost"},   // there is no record
		{"old", "new"},    // the record is ahead of the checkpoint
		{"old", "old"},    // both were restored to one time
		{"middle", "old"}, // the record is behind a checkpoint that is behind
		{"old", "lost"},   // the checkpoint is behind, and there is no record
	} {
		try(c, func(w *world) {
			p := w.serve()
			w.continues(p, 20)
			p.stop()
			w.equal()
		})
	}
	if t.Failed() {
		return
	}
	save("new")
	w.trim()
	for _, c := range []restoreCase{{"new", "old"}, {"new", "lost"}} {
		try(c, func(w *world) {
			p := w.serve()
			w.follows(p)
			w.quiet(p)
			p.stop()
			w.equal()
		})
	}
	for _, c := range []restoreCase{{"old", "new"}, {"old", "old"}, {"middle", "old"}, {"old", "lost"}} {
		try(c, func(w *world) {
			w.gap(w.serve(), "eds import")
		})
	}
}
