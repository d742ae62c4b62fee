package e2e_test

import (
	"os"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// TestImport_IsRefusedWhileAnotherDataDirectoryWrites changes nothing.
func TestImport_IsRefusedWhileAnotherDataDirectoryWrites(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{Rate: 100})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	before := d.tables()
	other := w.from(t.TempDir())
	stdout, stderr, code := other.eds("import", "--data-dir", other.data, "--url", d.url, "--no-confirm")
	if code == 0 {
		t.Errorf("the import was not refused\n%s\n%s", stdout, stderr)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"another server writes", host, "stop the server", "eds import"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the refusal lacks %q: %s", want, stderr)
		}
	}
	if after := d.tables(); after != before {
		t.Errorf("the tables were %s, and are %s", before, after)
	}
	if stages := d.stages(); stages != "" {
		t.Errorf("%s are left", stages)
	}
	w.changes(50)
	w.drain(p)
	w.quiet(p)
	p.stop()
	w.equal()
}

// TestImport_FollowsAServerThatHasEnded imports while no server runs. The server continues with its
// own data directory.
func TestImport_FollowsAServerThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process){"stopped": (*process).stop, "killed": (*process).kill} {
		for directory, data := range map[string]string{"same": "", "new": "other"} {
			t.Run(name+", "+directory+" data directory", func(t *testing.T) {
				t.Parallel()
				d := newDatabase(t)
				w := newWorld(t, d.url, devhq.Options{})
				w.imports()
				p := w.serve()
				w.continues(p, 100)
				end(p)
				w.work(200)
				importer := w
				if data != "" {
					importer = w.from(t.TempDir())
				}
				importer.imports()
				w.work(50)
				p = w.serve()
				w.continues(p, 20)
				w.unreserved(p)
				p.stop()
				w.equal()
			})
		}
	}
}

// TestImport_FromANewDataDirectoryClosesAGap imports after the stream was trimmed.
func TestImport_FromANewDataDirectoryClosesAGap(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	p.stop()
	w.work(200)
	w.trim()
	w.gap(w.serve(), "eds import")
	w.from(t.TempDir()).imports()
	for range 2 {
		p = w.serve()
		w.continues(p, 20)
		p.stop()
	}
	w.equal()
}

// backlogs are the ways to set up a followed destination again while changes wait for it.
func backlogs(t *testing.T, f func(t *testing.T, w *world, target string)) {
	for name, o := range map[string]struct{ fresh, option bool }{
		"same data directory":               {},
		"new data directory":                {fresh: true},
		"same data directory, other option": {option: true},
		"new data directory, other option":  {fresh: true, option: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			p.stop()
			w.work(200)
			if o.fresh {
				w.data = t.TempDir()
			}
			target := d.url
			if o.option {
				target += "&connect_timeout=7"
			}
			f(t, w, target)
			w.equal()
		})
	}
}

func TestImport_OfTheSchemaDiscardsNoBacklog(t *testing.T) {
	t.Parallel()
	backlogs(t, func(_ *testing.T, w *world, target string) {
		w.url = target
		w.imports("--schema-only")
		w.work(50)
		p := w.serve()
		w.continues(p, 20)
		p.stop()
	})
}

func TestImport_OfTheSchemaByHQDiscardsNoBacklog(t *testing.T) {
	t.Parallel()
	backlogs(t, func(_ *testing.T, w *world, target string) {
		w.url = ""
		p := w.serve()
		session := w.session(p, "")
		w.configure(p, session, target, 1, false)
		w.continues(p, 20)
		p.stop()
		w.url = target
	})
}
