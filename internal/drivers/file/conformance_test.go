package file

import (
	"bytes"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/laketest"
)

func TestMain(m *testing.M) { sinktest.Main(m) }

func TestConformance(t *testing.T) {
	for name, query := range map[string]string{
		"json":   "",
		"ndjson": "?format=ndjson&compress=zstd&layout=%7Btable%7D/dt=YYYY-MM-DD&roll-rows=7&roll-bytes=4k", "parquet": "?format=parquet",
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.Run(t, sinktest.Config{
				Driver: Driver(),
				URL:    func(t testing.TB) string { return "file://" + tempDir(t) + query },
				Untouched: func(t testing.TB) (string, func() string) {
					above := tempDir(t)
					return "file://" + above + "/a/b" + query, func() string { return tree(t, above) }
				},
				Faulty:  openFaulty,
				History: history,
			})
		})
	}
}

// tree returns a listing of a directory's content, as text.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// openFaulty opens the destination on a disk that the test can make fail.
func openFaulty(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
	t.Helper()
	d, err := openDisk(directory(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	faulty := newFaultyDisk(d)
	s, err := newSink(faulty, parsed(t, raw), env)
	if err != nil {
		t.Fatal(err)
	}
	return s, faulty
}

func parsed(t testing.TB, raw string) config {
	t.Helper()
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func directory(t testing.TB, raw string) string { return parsed(t, raw).directory }

// history reads all events in a destination's directory. NDJSON files are in the order of their
// names, single-event files in the order of the events' clocks.
func history(t testing.TB, raw string) []sinktest.Stored {
	t.Helper()
	var all []sinktest.Stored
	for _, f := range files(t, directory(t, raw)) {
		if !holdsMany(f.name) {
			all = append(all, sinktest.Stored{Place: f.name, Event: f.text})
			continue
		}
		for n, event := range laketest.Events(t, f.name, f.text) {
			all = append(all, sinktest.Stored{Place: f.name + ":" + strconv.Itoa(n+1), Event: event})
		}
	}
	slices.SortStableFunc(all, func(a, b sinktest.Stored) int {
		switch {
		case !holdsMany(a.Place):
			return clockOf(t, a).Compare(clockOf(t, b))
		case imported(a) != imported(b):
			return imported(b) - imported(a) // imported rows come before changes of the stream
		default:
			return 0 // already in the order of file names and lines
		}
	})
	return all
}

// holdsMany reports whether a file with the given name contains many events.
func holdsMany(name string) bool {
	return strings.Contains(name, ".ndjson") || strings.Contains(name, ".parquet")
}

func imported(s sinktest.Stored) int { return strings.Count(s.Place, "/import-") }

func clockOf(t testing.TB, s sinktest.Stored) cdc.Timestamp {
	t.Helper()
	var e cdc.Event
	if err := cdc.NewDecoder().Decode(&e, s.Event, ""); err != nil {
		t.Fatalf("%s: %v", s.Place, err)
	}
	return e.Clock
}

type storedFile struct {
	name string // relative to the directory
	text []byte
}

// files returns the files that a consumer finds, sorted by name. It omits the private files of eds.
func files(t testing.TB, dir string) []storedFile {
	t.Helper()
	var all []storedFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.Name() == privateDir {
				return filepath.SkipDir
			}
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all = append(all, storedFile{filepath.ToSlash(name), text})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// expand returns the content of a file as JSON, one event per line.
func expand(t testing.TB, f storedFile) []byte {
	t.Helper()
	if !strings.HasSuffix(f.name, ".parquet") {
		return laketest.Expand(t, f.name, f.text)
	}
	return append(bytes.Join(laketest.Events(t, f.name, f.text), []byte("\n")), '\n')
}
