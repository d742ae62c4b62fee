package e2e_test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// follows waits until the server follows the stream, and expects no alarm.
func (w *world) follows(p *process) {
	w.t.Helper()
	eventually(w.t, "the server follows the stream", func() bool {
		code, body := p.get("")
		if strings.Contains(body, "run eds import") {
			w.t.Fatalf("a false alarm: %s\n%s", body, p.output())
		}
		c := w.consumer()
		return code == 200 && c != nil && c.NumWaiting > 0
	}, p.output)
}

// TestServer_RestartsQuietlyUnderAnotherFilter makes no change between the start with another
// filter and the next start.
func TestServer_RestartsQuietlyUnderAnotherFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.applied(p, 100)
	w.drain(p)
	p.stop()
	company := w.hq.Shop().Companies()[0]
	for range 2 {
		p = w.serve("--companyIds", company)
		w.follows(p)
		p.stop()
	}
	p = w.serve()
	w.follows(p)
	p.stop()
	w.equal()
}

// TestServer_ReadsAgainForAFormerDestination follows the stream into one directory,
// into another, and into the first again. An event is a file of the same name in both.
func TestServer_ReadsAgainForAFormerDestination(t *testing.T) {
	t.Parallel()
	one, other := t.TempDir(), t.TempDir()
	w := newWorld(t, "file://"+one, devhq.Options{Rate: 300})
	w.imports()
	p := w.serve()
	w.acknowledged(p, w.changes(100))
	p.stop()
	w.url = "file://" + other
	p = w.serve()
	w.acknowledged(p, w.changes(100))
	p.stop()
	elsewhere := files(t, other)
	if len(elsewhere) < 100 {
		t.Fatalf("%d events went elsewhere", len(elsewhere))
	}
	w.url = "file://" + one
	p = w.serve()
	w.follows(p)
	w.drain(p)
	p.stop()
	all := files(t, one)
	for name := range elsewhere {
		if !all[name] {
			t.Fatalf("event %s is missing", name)
		}
	}
}

// files returns the names of the files in dir, relative to it.
func files(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names[strings.TrimPrefix(path, dir)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
