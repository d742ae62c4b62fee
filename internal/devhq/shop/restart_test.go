package shop_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// killed returns a copy of a shop's directory, as a kill would leave it.
func killed(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	must(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

func TestOpen_ContinuesAfterClose(t *testing.T) {
	run := func(restart bool) (contents, []string) {
		dir, c := t.TempDir(), newClock()
		s := open(t, dir, 3, c)
		defer func() { closed(t, s) }()
		history := s.History()
		var all []string
		for i := range 12 {
			all = append(all, wireLines(do(t, s, 10))...)
			if i%4 == 1 {
				var changes []shop.Change
				if _, err := s.Evolve(t.Context(), keep(&changes)); err != nil {
					t.Fatal(err)
				}
				all = append(all, wireLines(changes)...)
			}
			if restart {
				closed(t, s)
				s = open(t, dir, 99, c) // an existing shop keeps its seed
			}
		}
		if s.History() != history {
			t.Error("the history changed")
		}
		return held(t, s, s.Snapshot()), all
	}
	rows, changes := run(false)
	rowsRestarted, changesRestarted := run(true)
	if diff := cmp.Diff(changes, changesRestarted); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(rows, rowsRestarted); diff != "" {
		t.Error(diff)
	}
}

func TestOpen_BeginsAnotherHistoryAfterKill(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 12, c)
	saved := held(t, s, s.Snapshot())
	ids := map[string]bool{}
	for _, ch := range do(t, s, 20) {
		ids[ch.ID] = true
	}
	copied := killed(t, dir)
	closed(t, s)

	must(t, os.WriteFile(filepath.Join(copied, "snapshot-1.tmp"), nil, 0o600)) // as if the shop had been killed while it saved
	again := open(t, copied, 0, c)
	defer closed(t, again)
	if files, err := os.ReadDir(copied); err != nil || len(files) != 1 {
		t.Errorf("the directory has %v, %v, want only the snapshot", files, err)
	}
	if again.History() == s.History() {
		t.Error("the history is the same")
	}
	if diff := cmp.Diff(saved, held(t, again, again.Snapshot())); diff != "" {
		t.Error(diff)
	}
	for _, ch := range do(t, again, 20) {
		if ids[ch.ID] {
			t.Errorf("change %s has the id of a lost one", ch.ID)
		}
	}
}

func TestOpen_BeginsAnotherHistoryIfChangesWereNotPublished(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 12, c)
	if err := s.Do(t.Context(), func(shop.Change) error { return errors.New("the stream is away") }); err == nil {
		t.Fatal("no error")
	}
	want := held(t, s, s.Snapshot())
	closed(t, s)
	again := open(t, dir, 0, c)
	defer closed(t, again)
	if again.History() == s.History() {
		t.Error("the history is the same")
	}
	if diff := cmp.Diff(want, held(t, again, again.Snapshot())); diff != "" {
		t.Error(diff)
	}
}

func TestWork_SavesNowAndThen(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 12, c)
	defer closed(t, s)
	s.SaveAfter(100)
	publish := func(changes []shop.Change) (int, error) { return len(changes), nil }
	must(t, s.Work(t.Context(), 100, publish))
	want := held(t, s, s.Snapshot())
	s.SaveAfter(1000)
	must(t, s.Work(t.Context(), 100, publish))

	again := open(t, killed(t, dir), 0, c)
	defer closed(t, again)
	if diff := cmp.Diff(want, held(t, again, again.Snapshot())); diff != "" {
		t.Error(diff)
	}
}

func TestEvolve_SavesTheSchemaBeforeItPublishes(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 12, c)
	defer closed(t, s)
	published := false
	_, err := s.Evolve(t.Context(), func(shop.Change) error {
		if published {
			return nil
		}
		published = true
		again := open(t, killed(t, dir), 0, c)
		defer closed(t, again)
		if diff := cmp.Diff(s.LatestSchemas(), again.LatestSchemas()); diff != "" {
			t.Error(diff)
		}
		return nil
	})
	must(t, err)
	if !published {
		t.Error("nothing was published")
	}
}

func TestWork_FailsIfItCannotSave(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 9, newClock())
	s.SaveAfter(1)
	must(t, os.RemoveAll(dir))
	err := s.Do(t.Context(), func(shop.Change) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "write the shop's snapshot") {
		t.Error(err)
	}
}

func TestOpen_RefusesDamagedSnapshot(t *testing.T) {
	for name, spoil := range map[string]func(text []byte) []byte{
		"is not a snapshot of a shop, or damaged": func(text []byte) []byte {
			text[len(text)/2] ^= 1
			return text
		},
		"or damaged": func(text []byte) []byte { return text[:3] },
		"is from another version of the program": func(text []byte) []byte {
			text[len("eds shop 2")] ^= 1 // damages the fingerprint of the layouts
			body := len(text) - 4
			return binary.LittleEndian.AppendUint32(text[:body], crc32.Checksum(text[:body], crc32.MakeTable(crc32.Castagnoli)))
		},
	} {
		dir := t.TempDir()
		closed(t, open(t, dir, 1, newClock()))
		path := filepath.Join(dir, "snapshot")
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, spoil(text), 0o600))
		if s, err := shop.Open(dir, shop.Options{}); err == nil {
			closed(t, s)
			t.Errorf("%s: it was opened", name)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want that it %s", err, name)
		}
	}
}

// stream is the stream of one history. It detects duplicates by the ids of changes.
type stream struct {
	history string
	before  contents // the shop's rows when the history began
	changes []shop.Change
	texts   map[string]string // texts of changes by id
}

// store stores a change. A change that the stream already has must be identical; a new one must be
// the next in order.
func (st *stream) store(t testing.TB, c shop.Change) {
	t.Helper()
	text := string(c.AppendJSON(nil))
	if was, again := st.texts[c.ID]; again {
		if was != text {
			t.Fatalf("change %d was published again with another content:\n%s\n%s", c.Seq, was, text)
		}
		return
	}
	if n := len(st.changes); n > 0 && c.Seq != st.changes[n-1].Seq+1 {
		t.Fatalf("change %d follows change %d", c.Seq, st.changes[n-1].Seq)
	}
	st.texts[c.ID] = text
	st.changes = append(st.changes, c)
}

// open opens the shop in dir. If the shop has a new history, the stream starts again.
func (st *stream) open(t testing.TB, dir string, c *clock) *shop.Shop {
	t.Helper()
	s := open(t, dir, 13, c)
	if s.History() != st.history {
		*st = stream{history: s.History(), before: held(t, s, s.Snapshot()), texts: map[string]string{}}
	}
	return s
}

// TestShop_StreamMatchesRows refuses changes, kills and restarts the shop, and changes its schema,
// in any order. Applied to the first rows of a history, the changes of the history must produce
// its last rows.
func TestShop_StreamMatchesRows(t *testing.T) {
	made := t.TempDir()
	closed(t, open(t, made, 13, newClock()))
	rapid.Check(t, func(r *rapid.T) {
		dir, c := killed(t, made), newClock()
		c.at = c.at.Add(time.Hour)
		var published stream
		s := published.open(t, dir, c)
		defer func() { closed(t, s) }()
		saveAfter := rapid.IntRange(1, 200).Draw(r, "save after")
		s.SaveAfter(saveAfter)
		refuse := -1
		publish := func(ch shop.Change) error {
			if refuse--; refuse == -1 {
				return errors.New("the stream is away")
			}
			published.store(t, ch)
			return nil
		}
		actions := map[string]func(){
			"do": func() { _ = s.Do(t.Context(), publish) },
			"do, refused": func() {
				refuse = rapid.IntRange(0, 8).Draw(r, "after")
				_ = s.Do(t.Context(), publish)
				refuse = -1
			},
			"work, partly stored": func() {
				part := rapid.IntRange(0, 100).Draw(r, "percent")
				_ = s.Work(t.Context(), 30, func(changes []shop.Change) (int, error) {
					n := len(changes) * part / 100
					for _, ch := range changes[:n] {
						published.store(t, ch)
					}
					return n, errors.New("the stream went away")
				})
			},
			"work, stored but not acknowledged": func() {
				_ = s.Work(t.Context(), 30, func(changes []shop.Change) (int, error) {
					for _, ch := range changes {
						published.store(t, ch)
					}
					return 0, context.DeadlineExceeded
				})
			},
			"evolve": func() { _, _ = s.Evolve(t.Context(), publish) },
			"kill": func() {
				dir = killed(t, dir)
				closed(t, s)
				s = published.open(t, dir, c)
				s.SaveAfter(saveAfter)
			},
			"restart": func() {
				closed(t, s)
				s = published.open(t, dir, c)
				s.SaveAfter(saveAfter)
			},
			"snapshot": func() { s.Snapshot() },
		}
		names := slices.Sorted(maps.Keys(actions))
		for range rapid.IntRange(1, 15).Draw(r, "actions") {
			actions[rapid.SampledFrom(names).Draw(r, "action")]()
		}
		must(t, s.Do(t.Context(), publish))
		keys := primaryKeys(t, s)
		var newest cdc.Timestamp
		for i := range published.changes {
			ch := &published.changes[i]
			if ch.Clock.Compare(newest) <= 0 {
				t.Fatalf("change %d at %v follows one at %v", ch.Seq, ch.Clock, newest)
			}
			newest = ch.Clock
			published.before.apply(t, keys, ch)
		}
		if diff := cmp.Diff(held(t, s, s.Snapshot()), published.before); diff != "" {
			t.Fatal(diff)
		}
	})
}
