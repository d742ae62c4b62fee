package shop_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// stream is what a stream that knows every message's id holds.
type stream struct {
	changes []shop.Change
	texts   map[string]string // by id
}

// store takes a change in, unless it has it already. A change that comes again
// must be the same, and may not come after newer ones that it never saw.
func (st *stream) store(t testing.TB, c shop.Change) {
	t.Helper()
	text := string(c.AppendJSON(nil))
	if was, again := st.texts[c.ID]; again {
		if was != text {
			t.Fatalf("change %d was published again as another one:\n%s\n%s", c.Seq, was, text)
		}
		return
	}
	if want := uint64(len(st.changes) + 1); c.Seq != want {
		t.Fatalf("change %d was published where %d was due", c.Seq, want)
	}
	if st.texts == nil {
		st.texts = map[string]string{}
	}
	st.texts[c.ID] = text
	st.changes = append(st.changes, c)
}

func TestALogCutAnywhereOpensAsTheStepBeforeAndLosesNothing(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s, err := shop.Open(dir, shop.Options{Seed: 12, Customers: 2, Now: c.Now})
	must(t, err)
	path := one(t, dir, "log-*")
	size := func() int64 {
		info, err := os.Stat(path)
		must(t, err)
		return info.Size()
	}
	// What the shop holds from the moment that its log has a size, and how many
	// changes made it so.
	type moment struct {
		size    int64
		held    contents
		changes int
	}
	model, keys := held(t, s, s.Snapshot()), primaryKeys(t, s)
	moments := []moment{{size(), clone(model), 0}}
	var all []shop.Change
	begin := int64(0) // where the cuts begin: before a small step, which makes them few
	for len(moments) < 5 || size()-begin > 300 {
		begin = size()
		var logged int64
		for _, ch := range doSizing(t, s, func() { logged = size() }) {
			model.apply(t, keys, &ch)
			all = append(all, ch)
		}
		moments = append(moments, moment{logged, clone(model), len(all)})
	}
	closed(t, s)
	text, err := os.ReadFile(path)
	must(t, err)

	for cut := begin; cut <= int64(len(text)); cut++ {
		last := moments[0]
		for _, m := range moments {
			if m.size <= cut {
				last = m
			}
		}
		must(t, os.WriteFile(path, text[:cut], 0o600))
		again := open(t, dir, 0, c)
		if diff := cmp.Diff(last.held, held(t, again, again.Snapshot())); diff != "" {
			t.Fatalf("cut at %d: %s", cut, diff)
		}
		// What was logged may have been published before the crash or not. It is
		// published again unless the log says that it was, as it was, and before
		// anything new.
		got := do(t, again, 1)
		first := int(got[0].Seq) - 1
		if first > last.changes {
			t.Fatalf("cut at %d: change %d is published, but the last one logged is %d", cut, first+1, last.changes)
		}
		if diff := cmp.Diff(lines(all[first:last.changes]), lines(got[:last.changes-first])); diff != "" {
			t.Fatalf("cut at %d: %s", cut, diff)
		}
		closed(t, again)
	}
}

// doSizing does a step and calls logged before its first change is published.
func doSizing(t testing.TB, s *shop.Shop, logged func()) []shop.Change {
	t.Helper()
	var changes []shop.Change
	if err := s.Do(t.Context(), func(c shop.Change) error {
		if len(changes) == 0 {
			logged()
		}
		changes = append(changes, c)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return changes
}

// copyShop copies the files of a shop, as a crash would leave them.
func copyShop(t testing.TB, dir string) string {
	t.Helper()
	to, err := os.MkdirTemp("", "shop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(to) })
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestACrashWhileACheckpointIsWrittenLosesNothing(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 12, c)
	do(t, s, 10)
	old := copyShop(t, dir)
	s.CheckpointAfter(1)
	do(t, s, 1) // one more step, then a new generation
	want := held(t, s, s.Snapshot())
	closed(t, s)
	newCheckpoint, oldCheckpoint := one(t, dir, "checkpoint-*"), one(t, old, "checkpoint-*")
	if filepath.Base(newCheckpoint) == filepath.Base(oldCheckpoint) {
		t.Fatal("there is no new generation")
	}
	keys := primaryKeys(t, s)

	states := map[string]func(dir string){
		"before it has its name": func(dir string) { // the old generation, and a file half written
			must(t, os.CopyFS(dir, os.DirFS(old)))
			must(t, os.WriteFile(filepath.Join(dir, filepath.Base(newCheckpoint)+".tmp"), []byte("half"), 0o600))
		},
		"before there is a log": func(dir string) {
			must(t, os.CopyFS(dir, os.DirFS(old)))
			copyFile(t, newCheckpoint, dir)
		},
		"before the old one is gone": func(dir string) {
			must(t, os.CopyFS(dir, os.DirFS(old)))
			copyFile(t, newCheckpoint, dir)
			must(t, os.WriteFile(filepath.Join(dir, filepath.Base(one(t, filepath.Dir(newCheckpoint), "log-*"))), nil, 0o600))
		},
	}
	for name, leave := range states {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			leave(dir)
			s := open(t, dir, 0, c)
			model := held(t, s, s.Snapshot())
			if name != "before it has its name" {
				if diff := cmp.Diff(want, model); diff != "" {
					t.Fatal(diff)
				}
			}
			for _, ch := range do(t, s, 20) {
				model.apply(t, keys, &ch)
			}
			if diff := cmp.Diff(model, held(t, s, s.Snapshot())); diff != "" {
				t.Error(diff)
			}
			closed(t, s)
			one(t, dir, "checkpoint-*")
			one(t, dir, "log-*")
		})
	}
}

func copyFile(t testing.TB, path, dir string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o600))
}

// TestWhateverHappensTheStreamTellsWhatTheShopHolds makes a shop live through
// refused changes, crashes, restarts, evolutions and new generations of its
// log, in any order.
func TestWhateverHappensTheStreamTellsWhatTheShopHolds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, c := copyShop(t, seedShop(t)), newClock()
		c.at = c.at.Add(time.Hour)
		s := open(t, dir, 0, c)
		defer func() { closed(t, s) }()
		limit := rapid.Int64Range(200, 20_000).Draw(r, "checkpoint after")
		s.CheckpointAfter(limit)
		first := held(t, s, s.Snapshot())
		var published stream
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
			"work, of which some is stored": func() {
				part := rapid.IntRange(0, 100).Draw(r, "percent")
				_ = s.Work(t.Context(), 30, func(changes []shop.Change) (int, error) {
					n := len(changes) * part / 100
					for _, ch := range changes[:n] {
						published.store(t, ch)
					}
					return n, errors.New("the stream went away")
				})
			},
			"work, all stored but not known to be": func() {
				_ = s.Work(t.Context(), 30, func(changes []shop.Change) (int, error) {
					for _, ch := range changes {
						published.store(t, ch)
					}
					return 0, context.DeadlineExceeded
				})
			},
			"evolve": func() { _, _ = s.Evolve(t.Context(), publish) },
			"crash": func() {
				dir = copyShop(t, dir)
				closed(t, s)
				s = open(t, dir, 0, c)
				s.CheckpointAfter(limit)
			},
			"learn where the stream ends": func() {
				if n := len(published.changes); n > 0 {
					must(t, s.Published(published.changes[n-1].ID))
				}
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
			first.apply(t, keys, ch)
		}
		if diff := cmp.Diff(held(t, s, s.Snapshot()), first); diff != "" {
			t.Fatal(diff)
		}
	})
}

// seedShop makes a shop and closes it.
func seedShop(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	closed(t, open(t, dir, 13, newClock()))
	return dir
}
