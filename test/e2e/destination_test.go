package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// target is a destination that a test can read. events returns its events as JSON; nil if it keeps
// rows.
type target struct {
	url    string
	events func() [][]byte
}

// streamed counts the destination's changes from the stream, by id.
func (p target) streamed(t *testing.T) map[string]int {
	t.Helper()
	all := make(map[string]int)
	for _, text := range p.events() {
		var change struct {
			ID       string
			Imported bool
		}
		if err := json.Unmarshal(text, &change); err != nil || change.ID == "" {
			t.Fatalf("%v: %s", err, text)
		}
		if !change.Imported {
			all[change.ID]++
		}
	}
	return all
}

func fileTarget(t *testing.T, dir, query string) target {
	return target{"file://" + dir + query, func() [][]byte {
		var all [][]byte
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				if entry != nil && entry.Name() == ".eds" {
					return fs.SkipDir
				}
				return err
			}
			text, err := os.ReadFile(path)
			all = append(all, bytes.Split(bytes.TrimSpace(text), []byte("\n"))...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}}
}

func webhookTarget(t *testing.T) target {
	var mu sync.Mutex
	var all [][]byte
	seen := make(map[string]bool) // batches, which may be repeated
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("Webhook-Id")
		if err != nil || len(text) == 0 || seen[id] {
			return
		}
		seen[id] = true
		all = append(all, bytes.Split(bytes.TrimSpace(text), []byte("\n"))...)
	}))
	t.Cleanup(server.Close)
	return target{server.URL + "/in", func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}}
}

// TestServer_ContinuesAtAFormerDirectory imports into a directory and follows the stream into it,
// does the same with another one, and returns to the first.
func TestServer_ContinuesAtAFormerDirectory(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{"json": "", "ndjson": "?format=ndjson"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := fileTarget(t, t.TempDir(), query), fileTarget(t, t.TempDir(), query)
			w := newWorld(t, "", devhq.Options{Rate: 60, Customers: 20})
			for _, at := range []target{a, b} {
				w.url = at.url
				w.imports()
				p := w.serve()
				w.acknowledged(p, w.changes(100))
				p.stop()
			}
			w.url = strings.Replace(a.url, "file://", "file:///.", 1)
			p := w.serve()
			w.follows(p)
			w.drain(p)
			p.stop()
			w.holdsOnce(a, b)
		})
	}
}

// holdsOnce expects a to have each change once, and all changes of b.
func (w *world) holdsOnce(a, b target) {
	w.t.Helper()
	here, there := a.streamed(w.t), b.streamed(w.t)
	if len(there) < 100 || len(here) <= len(there) {
		w.t.Errorf("%d and %d changes came", len(here), len(there))
	}
	for id, n := range here {
		if n != 1 {
			w.t.Errorf("change %s is there %d times", id, n)
		}
	}
	for id := range there {
		if here[id] == 0 {
			w.t.Fatalf("change %s is missing", id)
		}
	}
}

// TestServer_ReturnsToTheDestinationThatHQConfiguredBefore makes HQ configure one destination,
// another one, and the first again, which needs no import.
func TestServer_ReturnsToTheDestinationThatHQConfiguredBefore(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(t *testing.T) target{
		"file":    func(t *testing.T) target { return fileTarget(t, t.TempDir(), "") },
		"ndjson":  func(t *testing.T) target { return fileTarget(t, t.TempDir(), "?format=ndjson") },
		"sqlite":  func(t *testing.T) target { return target{url: sqlite(t)} },
		"webhook": webhookTarget,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := make(t), make(t)
			w := newWorld(t, "", devhq.Options{Rate: 60, Customers: 20})
			p := w.serve()
			session := w.session(p, "")
			for n, at := range []target{a, b} {
				want(t, w.ask(p, session, "configure", map[string]any{"url": at.url, "backfill": true}), "success", true)
				w.notify(session, "import", map[string]any{"backfill": true})
				want(t, w.received(p, session, "import-response", n+1), "success", true)
				w.acknowledged(p, w.changes(100))
			}
			want(t, w.ask(p, session, "configure", map[string]any{"url": a.url, "backfill": false}), "success", true)
			w.acknowledged(p, w.changes(100))
			w.drain(p)
			p.stop()
			if a.events != nil {
				w.holdsOnce(a, b)
				return
			}
			w.url = a.url
			w.equal()
		})
	}
}

// TestServer_KnowsADestinationByAnySpelling restarts it under other spellings of its URL.
func TestServer_KnowsADestinationByAnySpelling(t *testing.T) {
	t.Parallel()
	for name, spellings := range map[string]func(t *testing.T) []string{
		"sqlite": func(t *testing.T) []string {
			dir := t.TempDir()
			if err := os.Symlink(dir, dir+"-link"); err != nil {
				t.Fatal(err)
			}
			return []string{
				"sqlite://" + dir + "/shop.db", "sqlite://" + dir + "/./x/../shop.db?busy_timeout=3s",
				"sqlite://" + dir + "-link/sh%6Fp.db", "sqlite:///${E2E_DIR}/shop.db",
			}
		},
		"postgres": func(t *testing.T) []string {
			raw := peers.Postgres(t)
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			same, plain := *u, *u
			same.Scheme, same.RawQuery = "postgresql", strings.TrimPrefix("connect_timeout=7&"+u.RawQuery+"&application_name=other", "&")
			plain.Host = strings.ToUpper(u.Host)
			return []string{raw, same.String(), plain.String(), strings.Replace(raw, u.Path, "/${E2E_DATABASE}", 1)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := spellings(t)
			w := newWorld(t, all[0], devhq.Options{Rate: 300})
			first, err := url.Parse(all[0])
			if err != nil {
				t.Fatal(err)
			}
			w.extraEnv = []string{"E2E_DIR=" + filepath.Dir(first.Path), "E2E_DATABASE=" + strings.Trim(first.Path, "/")}
			w.imports()
			for _, w.url = range all {
				p := w.serve()
				w.acknowledged(p, w.changes(50))
				w.follows(p)
				p.stop()
				for _, alarm := range []string{"another one than the last", "nothing was imported", "cannot check", "reading again"} {
					if strings.Contains(p.output(), alarm) {
						t.Errorf("%s: the server says %q\n%s", w.url, alarm, p.output())
					}
				}
			}
			w.url = all[0]
			p := w.serve()
			w.drain(p)
			p.stop()
			w.equal()
		})
	}
}

// TestServer_ReportsADirectoryThatIsNotMounted moves the directory away while the server is down,
// and puts it back.
func TestServer_ReportsADirectoryThatIsNotMounted(t *testing.T) {
	t.Parallel()
	for name, query := range map[string]string{"json": "", "ndjson": "?format=ndjson"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "mounted")
			at := fileTarget(t, dir, query)
			w := newWorld(t, at.url, devhq.Options{Rate: 60, Customers: 20})
			w.imports()
			p := w.serve()
			w.acknowledged(p, w.changes(100))
			p.stop()
			if err := os.Rename(dir, dir+"-away"); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p = w.serve()
			eventually(t, "the server reports the loss", func() bool {
				code, body := p.get("")
				return code == 503 && strings.Contains(body, "emptied") && strings.Contains(body, "run eds import")
			}, p.output)
			p.signal(syscall.SIGTERM)
			if code := p.wait(); code != 1 {
				t.Errorf("exit code %d, want 1\n%s", code, p.output())
			}
			if all := at.events(); len(all) > 0 {
				t.Errorf("%d changes were written into another directory", len(all))
			}
			if err := os.Rename(dir, dir+"-other"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(dir+"-away", dir); err != nil {
				t.Fatal(err)
			}
			p = w.serve()
			w.acknowledged(p, w.changes(100))
			w.follows(p)
			p.stop()
			for id, n := range at.streamed(t) {
				if n != 1 {
					t.Errorf("change %s is there %d times", id, n)
				}
			}
		})
	}
}

// TestServer_ContinuesAfterAnImportIntoAnEmptiedDirectory imports again after a loss.
func TestServer_ContinuesAfterAnImportIntoAnEmptiedDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mounted")
	w := newWorld(t, "file://"+dir, devhq.Options{Rate: 60, Customers: 20})
	w.imports()
	p := w.serve()
	w.acknowledged(p, w.changes(100))
	p.stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	w.imports("--only", "customer")
	p = w.serve()
	eventually(t, "the server reports the tables that are missing", func() bool {
		code, body := p.get("")
		return code == 503 && strings.Contains(body, "run eds import")
	}, p.output)
	p.signal(syscall.SIGTERM)
	p.wait()
	w.imports()
	for range 2 {
		p = w.serve()
		w.acknowledged(p, w.changes(50))
		w.follows(p)
		p.stop()
	}
}
