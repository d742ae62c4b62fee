package dlq_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/dlq"
)

// TestSupersede_TakesAnEventThatIsAppliedAfterAll: a lane reads events again, and the
// destination may take one that it refused before.
func TestSupersede_TakesAnEventThatIsAppliedAfterAll(t *testing.T) {
	q := open(t, t.TempDir())
	e := entry(3, "order", "a", "b")
	e.Rows = [][]string{{"b"}, {"a"}}
	put(t, q, entry(2, "order", "a"), e, entry(4, "order", "a"))
	if err := q.Supersede("d", "order", []string{"a", "b"}, e.Position()); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-2, -3, 4}, list(t, q, dlq.Filter{}))
}

// TestReplay_SupersedesOlderEntriesBeforeItRemovesOne: if the process dies in between, an
// older entry would be applied over the row.
func TestReplay_SupersedesOlderEntriesBeforeItRemovesOne(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, entry(1, "order", "a"), entry(2, "order", "a"))
	older, newer := idOf(t, q, 1), idOf(t, q, 2)
	// The directory stands in the way of the mark.
	files, err := filepath.Glob(filepath.Join(dir, "*01-*.event"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	obstacle := files[0][:len(files[0])-len(".event")] + ".superseded"
	if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = q.Replay(t.Context(), dlq.Filter{IDs: []string{newer}}, false, func(context.Context, dlq.Entry) error { return nil })
	if err == nil {
		t.Error("the mark succeeded")
	}
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Show(newer); err != nil {
		t.Errorf("the entry is gone, and %s waits: %v", older, err)
	}
}

// TestOpen_TakesAnEntryThatIsThereTwiceForOneThatIsNotSuperseded: a power cut may bring back
// the file that a new one has replaced.
func TestOpen_TakesAnEntryThatIsThereTwiceForOneThatIsNotSuperseded(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, entry(1, "order", "a"))
	files, err := filepath.Glob(filepath.Join(dir, "*.event"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	twin := files[0][:len(files[0])-len(".event")] + ".superseded"
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(twin, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := q.Refresh(); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]*dlq.Queue{"same": q, "opened": open(t, dir)} {
		if got := q.Count("d"); got != (dlq.EntryCounts{Waiting: 1}) {
			t.Errorf("%s: %+v", name, got)
		}
		equal(t, []int{1}, list(t, q, dlq.Filter{}))
	}
	if n, err := dlq.Look(dir).Drop(dlq.Filter{IDs: []string{idOf(t, q, 1)}}); n != 1 || err != nil {
		t.Error(n, err)
	}
	equal(t, nil, list(t, q, dlq.Filter{}))
}

// TestOpen_TakesFilesThatCannotBeReadForDamagedEntries, so that they do not keep a server
// from its start, and count.
func TestOpen_TakesFilesThatCannotBeReadForDamagedEntries(t *testing.T) {
	for name, obstruct := range map[string]func(path string) error{
		"a directory":        func(path string) error { return os.Mkdir(path, 0o700) },
		"a link to nothing":  func(path string) error { return os.Symlink(path+"-", path) },
		"a link to a device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a link to itself":   func(path string) error { return os.Symlink(path, path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, open(t, dir), entry(1, "order", "a"))
			if err := obstruct(filepath.Join(dir, "00000000000000000002-0000000000000000020-12345678.event")); err != nil {
				t.Fatal(err)
			}
			q := open(t, dir)
			if got := q.Count("d"); got != (dlq.EntryCounts{Waiting: 1, Unknown: 1}) {
				t.Errorf("%+v", got)
			}
			equal(t, []int{1, 2 + unknown}, list(t, q, dlq.Filter{}))
			if err := q.Refresh(); err != nil {
				t.Error(err)
			}
			if n, err := q.Drop(dlq.Filter{IDs: []string{idOf(t, q, 2)}}); n != 1 || err != nil {
				t.Error(n, err)
			}
			equal(t, []int{1}, list(t, q, dlq.Filter{}))
		})
	}
}

// TestPut_FindsTheRoomThatAnotherProcessMade at once: else a table would be incomplete.
func TestPut_FindsTheRoomThatAnotherProcessMade(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	q.Limits.Bytes = 4096
	put(t, q, entry(1, "order", "a"))
	if err := q.Put(entry(2, "order", "b")); !errors.Is(err, dlq.ErrFull) {
		t.Fatal(err)
	}
	if n, err := dlq.Look(dir).Drop(dlq.Filter{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	put(t, q, entry(2, "order", "b"))
}

// TestPut_KeepsTheIndexShort though entries come and go.
func TestPut_KeepsTheIndexShort(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	for range 3000 {
		put(t, q, entry(1, "order", "a"))
	}
	index, err := os.ReadFile(filepath.Join(dir, "index"))
	if lines := bytes.Count(index, []byte("\n")); err != nil || lines > 1500 {
		t.Errorf("%d lines, %v", lines, err)
	}
}

// TestOpen_ReadsADamagedEntryAgain: its file may be restored as it was, with its time.
func TestOpen_ReadsADamagedEntryAgain(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, dir), entry(1, "order", "a"))
	files, err := filepath.Glob(filepath.Join(dir, "*.event"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		content []byte
		want    dlq.EntryCounts
	}{
		{bytes.Repeat([]byte("x"), len(whole)), dlq.EntryCounts{Unknown: 1}},
		{whole, dlq.EntryCounts{Waiting: 1}},
	} {
		if err := os.WriteFile(files[0], c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(files[0], time.Time{}, time.Unix(1_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		equal(t, c.want, open(t, dir).Count("d"))
	}
}

// TestOpen_ReplacesAnIndexThatIsNoFile, and does not follow where it leads.
func TestOpen_ReplacesAnIndexThatIsNoFile(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(dir, "index")
	for name, target := range map[string]string{"a file": other, "nothing": other + "-", "a device": "/dev/zero"} {
		if err := os.RemoveAll(index); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, index); err != nil {
			t.Fatal(err)
		}
		q := open(t, dir)
		put(t, q, entry(1, "order", "a"))
		equal(t, dlq.EntryCounts{Waiting: 1}, open(t, dir).Count("d"))
		if info, err := os.Lstat(index); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if text, err := os.ReadFile(other); string(text) != "mine" || err != nil {
		t.Errorf("the other file has %q, %v", text, err)
	}
	if _, err := os.Lstat(other + "-"); err == nil {
		t.Error("a file was made elsewhere")
	}
}
