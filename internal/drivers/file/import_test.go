package file

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// snapshotTable returns the table that the import tests load.
func snapshotTable(t testing.TB) *schema.Table {
	t.Helper()
	table, err := schema.New("order", "v1", []string{"id"}, []schema.Column{
		{Name: "id", Type: schema.String},
		{Name: "n", Type: schema.Integer},
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func rows(t testing.TB, table *schema.Table, ids ...string) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		s := change.NewSplitter(table)
		for _, id := range ids {
			image := fmt.Appendf(nil, `{"id":%q}`, id)
			spans, err := s.Split(image)
			if !yield(&change.Row{Image: image, Spans: spans, Op: cdc.Insert, Clock: cdc.Timestamp{Wall: 1_700_000_000_000_000_000}}, err) {
				return
			}
		}
	}
}

func beginLoad(t testing.TB, s sink.Sink, job string, table *schema.Table) sink.Load {
	t.Helper()
	l, err := s.BeginLoad(t.Context(), job, table, sink.Replace, sink.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLoad_Resumes(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson", "?format=ndjson&compress=gzip"} {
		dir := tempDir(t)
		table := snapshotTable(t)
		s := openIn(t, dir, query)
		l := beginLoad(t, s, "job/1", table)
		if n, err := l.LoadFile(t.Context(), "a.ndjson.gz", rows(t, table, "1", "2")); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := openIn(t, dir, query)
		l = beginLoad(t, again, "job/1", table)
		if !l.Loaded("a.ndjson.gz") || l.Loaded("b.ndjson.gz") {
			t.Errorf("%s: loaded: a %v, b %v", query, l.Loaded("a.ndjson.gz"), l.Loaded("b.ndjson.gz"))
		}
		if other := beginLoad(t, again, "job/2", snapshotTable(t)); other.Loaded("a.ndjson.gz") {
			t.Errorf("%s: another job has loaded it", query)
		}
		l = beginLoad(t, again, "job/1", table)
		for _, file := range []string{"a.ndjson.gz", "b.ndjson.gz"} {
			ids := map[string][]string{"a.ndjson.gz": {"1", "2"}, "b.ndjson.gz": {"3"}}[file]
			if l.Loaded(file) {
				continue
			}
			if _, err := l.LoadFile(t.Context(), file, rows(t, table, ids...)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := sequences(t, contents(t, dir))["order"]
		slices.Sort(all)
		if len(all) != 3 || len(slices.Compact(all)) != 3 {
			t.Errorf("%s: imported %v", query, all)
		}
		if left, err := os.ReadDir(filepath.Join(dir, privateDir, "load")); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", query, left, err)
		}
	}
}

// TestFinish_MissesFilesThatAreGone checks that a missing staged file is an error, and that the
// load can then start again.
func TestFinish_MissesFilesThatAreGone(t *testing.T) {
	dir := tempDir(t)
	table := snapshotTable(t)
	s := openIn(t, dir, "?format=ndjson")
	for name, remove := range map[string]func(staged string) error{
		"one file":  os.Remove,
		"all files": func(staged string) error { return os.RemoveAll(filepath.Dir(staged)) },
	} {
		l := beginLoad(t, s, "job", table)
		for _, file := range []string{"a", "b"} {
			if _, err := l.LoadFile(t.Context(), file, rows(t, table, file)); err != nil {
				t.Fatal(err)
			}
		}
		staged, err := filepath.Glob(filepath.Join(dir, privateDir, "load", "order", "job", "*~a.ndjson"))
		if err != nil || len(staged) != 1 {
			t.Fatal(staged, err)
		}
		if err := remove(staged[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Finish(t.Context()); !errors.Is(err, sink.ErrLoadLost) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("%s: %v is in place", name, got)
		}
		if again := beginLoad(t, s, "job", table); again.Loaded("a") || again.Loaded("b") {
			t.Errorf("%s: a is loaded: %v, b is loaded: %v", name, again.Loaded("a"), again.Loaded("b"))
		}
	}
}

func TestFinish_MakesRowsVisible(t *testing.T) {
	dir := tempDir(t)
	table := snapshotTable(t)
	s := openIn(t, dir, "?format=ndjson")
	l := beginLoad(t, s, "../job", table)
	for _, file := range []string{"x/y", "z"} {
		if _, err := l.LoadFile(t.Context(), file, rows(t, table, file)); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); len(got) > 0 {
		t.Errorf("before it is finished: %v", got)
	}
	if _, err := l.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"order/import-%2E.%2Fjob~x%2Fy.ndjson", "order/import-%2E.%2Fjob~z.ndjson"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
	discarded := beginLoad(t, s, "next", table)
	if _, err := discarded.LoadFile(t.Context(), "x", rows(t, table, "1")); err != nil {
		t.Fatal(err)
	}
	if err := discarded.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 2 || discarded.Loaded("x") {
		t.Errorf("after another was discarded: %v", got)
	}
}
