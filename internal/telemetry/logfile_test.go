package telemetry_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// clock is a time that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func openLog(t *testing.T, o telemetry.LogFileOptions) *telemetry.LogFile {
	t.Helper()
	if o.Name == "" {
		o.Name = "server"
	}
	f, err := telemetry.OpenLogFile(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func writeLines(t *testing.T, f *telemetry.LogFile, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if n, err := io.WriteString(f, l+"\n"); err != nil || n != len(l)+1 {
			t.Fatal(n, err)
		}
	}
}

// contents returns the files in dir with their text, decompressed.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
		files[e.Name()] = text(t, filepath.Join(dir, e.Name()))
	}
	return files
}

func text(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var r io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(file); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLogFile_RotatesBySize(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "logs"), newClock()
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, MaxBytes: 8, Now: c.Now})
	writeLines(t, f, "one", "two", "three", "a line longer than the bound", "five")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"server-20260102T030405.000000000Z.log.gz": "one\ntwo\n",
		"server-20260102T030405.000000001Z.log.gz": "three\n",
		"server-20260102T030405.000000002Z.log.gz": "a line longer than the bound\n",
		"server.log": "five\n",
	}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestLogFile_RotatesByAge(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, Now: c.Now})
	writeLines(t, f, "one")
	c.advance(59 * time.Minute)
	writeLines(t, f, "two")
	c.advance(time.Minute)
	writeLines(t, f, "three")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"server-20260102T040405.000000000Z.log.gz": "one\ntwo\n", "server.log": "three\n"}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestRotate_ReturnsTheFinishedFile(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, Now: c.Now})
	var paths []string
	for _, line := range []string{"one", "two"} {
		writeLines(t, f, line)
		path, err := f.Rotate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, path); got != line+"\n" {
			t.Errorf("%s: %q", path, got)
		}
		paths = append(paths, path)
	}
	finished, err := f.Finished()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(paths, finished); diff != "" {
		t.Error(diff)
	}
}

func TestRotate_EndsWithItsContext(t *testing.T) {
	f := openLog(t, telemetry.LogFileOptions{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// The compressor may be quicker than the context.
	if _, err := f.Rotate(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLogFile_DeletesTheOldestFilesAndSaysSo(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	other := filepath.Join(dir, "supervisor-20250101T000000.000000000Z.log.gz")
	for path, size := range map[string]int{other: 1000, filepath.Join(dir, "supervisor.log"): 5000, filepath.Join(dir, "notes.txt"): 5000} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, MaxTotal: 900, Now: c.Now})
	var last string
	for i := range 50 {
		c.advance(time.Second)
		writeLines(t, f, fmt.Sprintf("line %d", i))
		path, err := f.Rotate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = path
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest file is there: %v", err)
	}
	finished, err := f.Finished()
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, path := range finished {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 900 || total < 500 || finished[len(finished)-1] != last {
		t.Errorf("%d bytes in %d files", total, len(finished))
	}
	got, warning := text(t, last), `"level":"WARN","msg":"deleted the oldest log files to stay within their bound","files":`
	if !strings.Contains(got, warning) || !strings.Contains(got, `"bound":900}`) || !strings.HasSuffix(got, "\nline 49\n") {
		t.Errorf("the last file says: %s", got)
	}
	for name, size := range map[string]int64{"supervisor.log": 5000, "notes.txt": 5000} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != size {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLogFile_ContinuesTheFileOfTheLastRun(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	for name, text := range map[string]string{
		"server.log":                                    "earlier\n",
		"server-20250101T000000.000000000Z.log":         "left uncompressed\n",
		"server-20250101T000000.000000000Z.log.gz.part": "half",
		"other-20250101T000000.000000000Z.log":          "not ours\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "server.log"), c.Now(), c.Now()); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Minute)
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, Now: c.Now})
	writeLines(t, f, "later")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"server.log": "earlier\nlater\n",
		"server-20250101T000000.000000000Z.log.gz": "left uncompressed\n",
		"other-20250101T000000.000000000Z.log":     "not ours\n",
	}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestLogFile_RefusesWritesAfterClose(t *testing.T) {
	f := openLog(t, telemetry.LogFileOptions{Dir: t.TempDir()})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("x\n")); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	if _, err := f.Rotate(t.Context()); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestLogFile_SurvivesTheLossOfItsDirectory(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "logs"), newClock()
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, Now: c.Now})
	writeLines(t, f, "one")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	c.advance(2 * time.Hour)
	if _, err := f.Write([]byte("two\n")); err == nil {
		t.Error("a write to a directory that is gone succeeded")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeLines(t, f, "three")
	want := map[string]string{"server.log": `{"time":"2026-01-02T05:04:05Z","level":"WARN",` +
		`"msg":"records could not be written to the log file and are lost","records":1}` + "\nthree\n"}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestLogFile_LosesNoLineWhileItRotates(t *testing.T) {
	dir := t.TempDir()
	f := openLog(t, telemetry.LogFileOptions{Dir: dir, MaxBytes: 2000})
	const writers, lines = 4, 500
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range lines {
				if _, err := fmt.Fprintf(f, "%d-%04d\n", w, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 5 {
			if _, err := f.Rotate(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for _, text := range contents(t, dir) {
		for line := range strings.Lines(text) {
			seen[line]++
		}
	}
	for line, n := range seen {
		if n != 1 {
			t.Errorf("%q came %d times", line, n)
		}
	}
	if len(seen) != writers*lines {
		t.Errorf("%d lines of %d", len(seen), writers*lines)
	}
}
