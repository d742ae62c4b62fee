package file

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// openIn opens the destination for a directory, as the program does.
func openIn(t testing.TB, dir, query string) sink.Sink {
	t.Helper()
	s, err := tryOpen(t, "file://"+dir+query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

func tryOpen(t testing.TB, raw string) (sink.Sink, error) {
	t.Helper()
	target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, err
	}
	return Driver().Open(t.Context(), target, env)
}

func apply(t testing.TB, s sink.Sink, first, last int) {
	t.Helper()
	if err := s.Apply(t.Context(), batch(t, cdc.Position{}, first, last)); err != nil {
		t.Fatal(err)
	}
}

// contents returns the content of the files that a consumer finds in a directory, by name.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, f := range files(t, dir) {
		all[f.name] = string(expand(t, f))
	}
	return all
}

func names(t testing.TB, dir string) []string {
	return slices.Sorted(maps.Keys(contents(t, dir)))
}

func TestURLOf_RoundTrips(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"file:///var/lib/eds": "/var/lib/eds", "file:///var/lib/eds/": "/var/lib/eds", "file://changes": filepath.Join(here, "changes"),
		"file://a/b/c":          filepath.Join(here, "a/b/c"),
		"file://./a%20b/%C3%A9": filepath.Join(here, "a b/é"), "file:///a%2523b": "/a%23b", "file://../x": filepath.Join(filepath.Dir(here),
			"x"), "file:///": "/",
	} {
		if got := parsed(t, raw).directory; got != want {
			t.Errorf("%s is %s, want %s", raw, got, want)
		}
	}
	for directory, want := range map[string]string{
		"/var/lib/eds": "/var/lib/eds", " /var/x ": "/var/x", "changes": filepath.Join(here, "changes"), "./a b": filepath.Join(here,
			"a b"), "a:b/c#d?e%f": filepath.Join(here, "a:b/c#d?e%f"),
		"/x#y?z%41": "/x#y?z%41", "é@ü": filepath.Join(here, "é@ü"), "[x]": filepath.Join(here, "[x]"),
	} {
		raw, problems := buildURL(map[string]string{"Directory": directory})
		if len(problems) > 0 {
			t.Errorf("%s: %v", directory, problems)
			continue
		}
		target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if c, err := parse(target); err != nil || c.directory != want {
			t.Errorf("%s: %s is %s, %v, want %s", directory, raw, c.directory, err, want)
		}
	}
	for _, directory := range []string{"", "  ", "a\x00b"} {
		if raw, problems := buildURL(map[string]string{"Directory": directory}); len(problems) != 1 || problems[0].Field != "Directory" {
			t.Errorf("%q: %s, %v", directory, raw, problems)
		}
	}
}

func TestOpen_RejectsBadURLs(t *testing.T) {
	dir := tempDir(t)
	for query, want := range map[string]string{
		"?format=xml": "json, ndjson or parquet", "?compress=gzip": "compress needs format=ndjson",
		"?roll-rows=5": "roll-rows needs format=ndjson", "?format=ndjson&path=x": "path needs format=json",
		"?format=ndjson&compress=brotli": "none, gzip or zstd", "?format=ndjson&roll-rows=0": "roll-rows",
		"?format=ndjson&roll-rows=x": "roll-rows", "?format=ndjson&roll-bytes=5t": "roll-bytes",
		"?format=ndjson&roll-bytes=9999999g": "roll-bytes", "?format=ndjson&roll-bytes=-1": "roll-bytes",
		"?format=ndjson&roll-age=5": "roll-age", "?format=ndjson&roll-age=1ms": "roll-age",
		"?path=%7B%7B.nope%7D%7D": "a field that no change has", "?fromat=json": `did you mean "format"?`, "#x": "write @ as %40",
	} {
		_, err := tryOpen(t, "file://"+dir+query)
		if err == nil || !strings.Contains(err.Error(), want) || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
	if _, err := tryOpen(t, "file://"); err == nil || fault.Of(err) != fault.Fatal {
		t.Errorf("no directory: %v", err)
	}
}

func TestOpen_RejectsAFileAsDirectory(t *testing.T) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "file/below"} {
		if _, err := tryOpen(t, "file://"+filepath.Join(dir, path)); err == nil || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestApply_RetriesDiskErrors makes the directory temporarily unwritable.
func TestApply_RetriesDiskErrors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EROFS, syscall.EACCES, syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.ESTALE} {
		for _, query := range []string{"", "?format=ndjson", "?format=parquet"} {
			broken := newFaultyDisk(newMemDisk())
			broken.err = errno
			s := mustOpen(t, broken, query)
			broken.Break(1, sinktest.Lost)
			err := s.Apply(t.Context(), batch(t, cdc.Position{}, 1, 3))
			if !errors.Is(err, errno) || fault.Of(err) != fault.Transient {
				t.Errorf("%s%v: the error is %v: %v", query, errno, fault.Of(err), err)
			}
			if err := s.Probe(t.Context()); !errors.Is(err, errno) || fault.Of(err) != fault.Transient {
				t.Errorf("%s%v: the probe: %v", query, errno, err)
			}
			broken.Repair()
			apply(t, s, 1, 3)
		}
	}
}

func TestFileSink_WritesAFilePerEvent(t *testing.T) {
	dir := tempDir(t)
	s := openIn(t, dir, "")
	apply(t, s, 1, 3)
	var b change.Builder
	ruled := event(t, 4)
	ruled.Object = "../by rule/./x.json"
	b.Add(ruled, change.Effect{})
	if err := s.Apply(t.Context(), b.Batch()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"part/1700000000-k1-ev1.json":  string(event(t, 1).Payload) + "\n",
		"order/1700000000-k2-ev2.json": string(event(t, 2).Payload) + "\n",
		"part/1700000000-k0-ev3.json":  string(event(t, 3).Payload) + "\n",
		"%2E%2E/by rule/%2E/x.json":    string(event(t, 4).Payload) + "\n",
	}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
	apply(t, s, 1, 3)
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Errorf("after a replay: %s", diff)
	}
}

func TestFileSink_KeepsTheLastEventOfAPath(t *testing.T) {
	dir := tempDir(t)
	s := openIn(t, dir, "?path="+url.QueryEscape("{{.table}}/latest-{{.key}}.json"))
	apply(t, s, 1, 12)
	apply(t, s, 13, 13)
	want := map[string]string{
		"order/latest-k0.json": string(event(t, 12).Payload) + "\n", "order/latest-k1.json": string(event(t, 10).Payload) + "\n",
		"order/latest-k2.json": string(event(t, 8).Payload) + "\n",
		"part/latest-k0.json":  string(event(t, 9).Payload) + "\n", "part/latest-k1.json": string(event(t, 13).Payload) + "\n",
		"part/latest-k2.json": string(event(t, 11).Payload) + "\n",
	}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// TestFileSink_RejectsNameConflicts checks that an event is rejected if its file has the name of a
// directory that another event needs. In that case nothing of the batch is written.
func TestFileSink_RejectsNameConflicts(t *testing.T) {
	for name, objects := range map[string][]string{
		"in one batch, directory first": {"a/b", "a"}, "in one batch, file first": {"x", "x/y"}, "deep": {"d/e/f", "d/e"},
		"a file of another batch": {"fine", "old/new"}, "a directory of another batch": {"fine", "olddir"}, "far below a file": {
			"fine",
			"old/a/b/c",
		},
	} {
		dir := tempDir(t)
		s := openIn(t, dir, "")
		add := func(objects ...string) error {
			var b change.Builder
			for i, object := range objects {
				e := event(t, i+1)
				e.Object = object
				b.Add(e, change.Effect{})
			}
			return s.Apply(t.Context(), b.Batch())
		}
		if err := add("old", "olddir/x"); err != nil {
			t.Fatal(err)
		}
		before := contents(t, dir)
		poison := func(objects ...string) {
			t.Helper()
			err := add(objects...)
			if fault.Of(err) != fault.Poison || !strings.Contains(fmt.Sprint(err), "write an event of table") ||
				strings.Contains(fmt.Sprint(err), "old") {
				t.Errorf("%s: %q: the error is %v: %v", name, objects, fault.Of(err), err)
			}
		}
		poison(objects...)
		if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		// If the events are written one at a time, only the last one is rejected.
		if err := add(objects[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		poison(objects[1])
	}
}

func TestFileSink_RejectsAFailingTemplate(t *testing.T) {
	s := openIn(t, tempDir(t), "?path="+url.QueryEscape("{{index .key 5}}"))
	err := s.Apply(t.Context(), batch(t, cdc.Position{}, 1, 1))
	if fault.Of(err) != fault.Poison || !strings.Contains(err.Error(), `"part"`) || strings.Contains(err.Error(), "k1") {
		t.Errorf("the error is %v: %v", fault.Of(err), err)
	}
}

func TestApply_RecreatesTheDirectory(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson", "?format=parquet"} {
		dir := filepath.Join(tempDir(t), "changes")
		s := openIn(t, dir, query)
		apply(t, s, 1, 3)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		apply(t, s, 4, 6)
		if got := sequences(t, contents(t, dir)); !cmp.Equal(got, map[string][]string{"order": {"ev4", "ev6"}, "part": {"ev5"}}) {
			t.Errorf("%s: %v", query, got)
		}
		if err := os.RemoveAll(filepath.Join(dir, "order")); err != nil {
			t.Fatal(err)
		}
		// The first attempt may fail, because it detects that the directory is gone.
		if err := s.Apply(t.Context(), batch(t, cdc.Position{}, 7, 8)); err != nil {
			if fault.Of(err) != fault.Transient {
				t.Errorf("%s: %v", query, err)
			}
			apply(t, s, 7, 8)
		}
		if got := sequences(t, contents(t, dir)); !slices.Contains(got["order"], "ev8") || !slices.Contains(got["part"], "ev7") {
			t.Errorf("%s: %v", query, got)
		}
	}
}

func TestApply_ReplacesAndCountsInvalidUTF8(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson"} {
		var rules []string
		counting := env
		counting.Adjusted = func(table, column, rule string) { rules = append(rules, table+"/"+column+"/"+rule) }
		memory := newMemDisk()
		s, err := newSink(memory, parsed(t, "file:///nowhere"+query), counting)
		if err != nil {
			t.Fatal(err)
		}
		e := &cdc.Event{Position: cdc.Position{Sequence: 1, Stored: 1}}
		if err := cdc.NewDecoder().Decode(e,
			[]byte("{\"table\":\"t\",\"operation\":\"INSERT\",\"id\":\"e\",\"after\":{\"id\":\"a\xffb\"}}"), ""); err != nil {
			t.Fatal(err)
		}
		var b change.Builder
		b.Add(e, change.Effect{})
		if err := s.Apply(t.Context(), b.Batch()); err != nil {
			t.Fatal(err)
		}
		for name, text := range memory.files() {
			if text != "{\"table\":\"t\",\"operation\":\"INSERT\",\"id\":\"e\",\"after\":{\"id\":\"a\ufffdb\"}}\n" {
				t.Errorf("%s holds %q", name, text)
			}
		}
		if diff := cmp.Diff([]string{"t//invalid-utf8"}, rules); diff != "" {
			t.Error(diff)
		}
	}
}

func TestStore_SweepsOldTemporaryDirectoriesWhenItWrites(t *testing.T) {
	dir := tempDir(t)
	for name, age := range map[string]time.Duration{"dead": 2 * staleAfter, "alive": staleAfter / 2} {
		temp := filepath.Join(dir, privateDir, "tmp", name)
		if err := os.MkdirAll(temp, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(temp, "1"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(temp, then, then); err != nil {
			t.Fatal(err)
		}
	}
	s := openIn(t, dir, "")
	before := tree(t, dir)
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := tree(t, dir); after != before || !strings.Contains(before, "dead") {
		t.Errorf("before the first write there is\n%s", after)
	}
	if err := s.Apply(t.Context(), &change.Batch{}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, privateDir, "tmp"))
	if err != nil || len(left) != 1 || left[0].Name() != "alive" {
		t.Errorf("left: %v, %v", left, err)
	}
}
