package dlq_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/dlq"
)

// TestPut_KeepsWithinTheLimit deletes superseded entries, the oldest first, and nothing else.
func TestPut_KeepsWithinTheLimit(t *testing.T) {
	q := open(t, t.TempDir())
	q.Limits.Bytes = 5 * 4096
	for n := uint64(1); n <= 4; n++ {
		put(t, q, entry(n, "order", fmt.Sprint(n)))
	}
	for _, key := range []string{"3", "2"} {
		if err := q.Supersede("d", "order", []string{key}, cdc.Position{Sequence: 9, Stored: 90}); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, []int{1, -2, -3, 4}, list(t, q, dlq.Filter{}))
	big := entry(5, "order", "5")
	big.Payload = bytes.Repeat([]byte("x"), 4096)
	put(t, q, big)
	equal(t, []int{1, -3, 4, 5}, list(t, q, dlq.Filter{}))
	put(t, q, entry(6, "order", "6"))
	equal(t, []int{1, 4, 5, 6}, list(t, q, dlq.Filter{}))
	if err := q.Put(entry(7, "order", "7")); !errors.Is(err, dlq.ErrFull) {
		t.Errorf("the sixth block: %v", err)
	}
	put(t, q, entry(6, "order", "6")) // again
	equal(t, []int{1, 4, 5, 6}, list(t, q, dlq.Filter{}))
	if got := q.Bytes(); got != q.Limits.Bytes {
		t.Errorf("%d bytes", got)
	}
	if n, err := q.Drop(dlq.Filter{IDs: []string{idOf(t, q, 5)}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	put(t, q, entry(7, "order", "7"))
}

func TestExpired_KeepsEntriesUntilTheirTablesAreMarked(t *testing.T) {
	q := open(t, t.TempDir())
	other := entry(3, "part", "c")
	other.Destination = "other"
	put(t, q, entry(1, "order", "a"), entry(2, "order", "b"), other, entry(4, ""), entry(5, "line", "e"), entry(2_000_000, "order", "f"))
	if err := q.Supersede("d", "order", []string{"a"}, cdc.Position{Sequence: 9, Stored: 90}); err != nil {
		t.Fatal(err)
	}
	if err := q.DropSuperseded(time.Unix(1, 0).Add(q.Limits.SupersededAge - 1)); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-1, 2, 3, 4 + unknown, 5, 2_000_000}, list(t, q, dlq.Filter{}))
	if err := q.DropSuperseded(time.Unix(1, 0).Add(q.Limits.SupersededAge)); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(100, 0).Add(q.Limits.Age)
	if got := q.Expired("d", time.Unix(1, 0).Add(q.Limits.Age)); len(got) > 0 {
		t.Errorf("%v are too old", got)
	}
	equal(t, []string{"line", "order"}, q.Expired("d", now))
	equal(t, []int{2, 3, 4 + unknown, 5, 2_000_000}, list(t, q, dlq.Filter{}))
	if err := q.DropExpired("d", []string{"order"}, now); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{3, 4 + unknown, 5, 2_000_000}, list(t, q, dlq.Filter{}))
}

// TestReplaced_SupersedesWhatTheSnapshotShows.
func TestReplaced_SupersedesWhatTheSnapshotShows(t *testing.T) {
	q := open(t, t.TempDir())
	at := func(minute int64) int64 { return minute * int64(time.Minute) }
	of := func(n uint64, table string, clock int64, keys ...string) dlq.Entry {
		e := entry(n, table, keys...)
		e.Stored, e.Clock = at(int64(n)), cdc.Timestamp{Wall: clock}
		return e
	}
	elsewhere := of(5, "order", at(1), "e")
	elsewhere.Destination = "other"
	put(
		t, q, of(1, "order", at(100), "a"), of(2, "order", at(101), "b"), of(3, "part", at(1), "c"), of(4, "order", 0),
		elsewhere, of(90, "order", 0),
	)
	if err := q.Replaced("d", "order", cdc.Timestamp{Wall: at(100)}); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-1, 2, 3, -4, 5, 90 + unknown}, list(t, q, dlq.Filter{}))
}

// TestOpen_ReadsTheIndexOnly: the files of entries are not looked into if they are those
// that were indexed.
func TestOpen_ReadsTheIndexOnly(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	for n := uint64(1); n <= 9; n++ {
		put(t, q, entry(n, "order", fmt.Sprint(n)))
	}
	if err := q.Supersede("d", "order", []string{"3"}, cdc.Position{Sequence: 10, Stored: 100}); err != nil {
		t.Fatal(err)
	}
	entries, err := filepath.Glob(filepath.Join(dir, "0*"))
	if err != nil || len(entries) != 9 {
		t.Fatal(entries, err)
	}
	for _, path := range entries { // the same size and time, and nothing in them
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(" "), int(info.Size())), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, dlq.EntryCounts{Waiting: 8}, open(t, dir).Count("d"))
	q = open(t, dir)
	if err := q.Supersede("another", "order", []string{"4"}, cdc.Position{Sequence: 20, Stored: 900}); err != nil {
		t.Fatal(err)
	}
	equal(t, dlq.EntryCounts{Waiting: 8}, q.Count("d"))

	if err := os.Chtimes(entries[0], time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	equal(t, dlq.EntryCounts{Waiting: 7, Unknown: 1}, open(t, dir).Count("d")) // which is damaged
}

// TestOpen_DoesWithoutAnIndex that is missing, torn, or of other entries.
func TestOpen_DoesWithoutAnIndex(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, entry(1, "order", "a"), entry(2, "order", "b"), entry(3, "order"))
	index := filepath.Join(dir, "index")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"missing":  "",
		"torn":     string(whole[:len(whole)-20]),
		"no json":  strings.Repeat("x\n", 100),
		"zeros":    strings.Repeat("\x00", 5000),
		"too much": string(whole) + strings.ReplaceAll(string(whole), `"name":"0`, `"name":"1`),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(index, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "missing" {
				if err := os.Remove(index); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				q := open(t, dir)
				equal(t, dlq.EntryCounts{Waiting: 2, Unknown: 1}, q.Count("d"))
			}
		})
	}
}

// TestRefresh_SeesWhatOthersDo, as `eds dlq drop` beside a server.
func TestRefresh_SeesWhatOthersDo(t *testing.T) {
	dir := t.TempDir()
	server := open(t, dir)
	put(t, server, entry(1, "order", "a"), entry(2, "order", "b"), entry(3, "order"))
	if n, err := dlq.Look(dir).Drop(dlq.Filter{IDs: []string{idOf(t, server, 1)}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	put(t, open(t, dir), entry(4, "order", "d"))
	for range 2 {
		if err := server.Refresh(); err != nil {
			t.Fatal(err)
		}
		equal(t, dlq.EntryCounts{Waiting: 2, Unknown: 1}, server.Count("d"))
	}
}

func TestLook_MakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dlq")
	q := dlq.Look(dir)
	equal(t, []int(nil), list(t, q, dlq.Filter{}))
	if n, err := q.Drop(dlq.Filter{}); n != 0 || err != nil {
		t.Error(n, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
}
