package shop_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

func TestTheSameSeedMakesTheSameShop(t *testing.T) {
	run := func(seed uint64) (contents, []string) {
		s := open(t, t.TempDir(), seed, newClock())
		defer closed(t, s)
		before := held(t, s, s.Snapshot())
		changes := lines(do(t, s, 100))
		if _, err := s.Evolve(t.Context(), func(shop.Change) error { return nil }); err != nil {
			t.Fatal(err)
		}
		return before, append(changes, lines(do(t, s, 20))...)
	}
	rowsA, changesA := run(1)
	rowsB, changesB := run(1)
	if diff := cmp.Diff(rowsA, rowsB); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(changesA, changesB); diff != "" {
		t.Error(diff)
	}
	if _, changes := run(2); slices.Equal(changes, changesA) {
		t.Error("another seed made the same changes")
	}
}

func TestAShopGoesOnAfterARestartAsIfNothingHadHappened(t *testing.T) {
	run := func(restart bool) (contents, []string) {
		dir, c := t.TempDir(), newClock()
		s := open(t, dir, 3, c)
		s.CheckpointAfter(10_000)
		defer func() { closed(t, s) }()
		var all []string
		for i := range 12 {
			all = append(all, lines(do(t, s, 10))...)
			if i%4 == 1 {
				var changes []shop.Change
				if _, err := s.Evolve(t.Context(), keep(&changes)); err != nil {
					t.Fatal(err)
				}
				all = append(all, lines(changes)...)
			}
			if restart {
				closed(t, s)
				s = open(t, dir, 99, c) // a shop that is there keeps its seed
				s.CheckpointAfter(10_000)
			}
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

func TestChangesTurnOneSnapshotIntoTheNext(t *testing.T) {
	for seed := range uint64(5) {
		s := open(t, t.TempDir(), seed, newClock())
		model := held(t, s, s.Snapshot())
		for range 8 {
			var changes []shop.Change
			_, err := s.Evolve(t.Context(), keep(&changes))
			if err != nil && !errors.Is(err, shop.ErrEvolved) {
				t.Fatal(err)
			}
			keys := primaryKeys(t, s)
			must(t, s.Work(t.Context(), 400, func(more []shop.Change) (int, error) {
				changes = append(changes, more...)
				return len(more), nil
			}))
			for i := range changes {
				model.apply(t, keys, &changes[i])
			}
			if diff := cmp.Diff(held(t, s, s.Snapshot()), model); diff != "" {
				t.Fatalf("seed %d: %s", seed, diff)
			}
		}
		closed(t, s)
	}
}

func TestASnapshotNeverChangesAndItsClockDividesTheChanges(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 5, c)
	before := do(t, s, 20)
	sn := s.Snapshot()
	first := held(t, s, sn)
	last := before[len(before)-1].Clock
	if sn.Clock.Compare(last) <= 0 {
		t.Errorf("the snapshot at %v holds a change at %v", sn.Clock, last)
	}
	// Neither a stopped clock nor a restart may hand the moment out again.
	closed(t, s)
	frozen := c.at
	s, err := shop.Open(dir, shop.Options{Now: func() time.Time { return frozen }})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	after := do(t, s, 200)
	if after[0].Clock.Compare(sn.Clock) <= 0 {
		t.Errorf("a change at %v follows the snapshot at %v", after[0].Clock, sn.Clock)
	}
	if diff := cmp.Diff(first, held(t, s, sn)); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshotRowsAreOfTheCompaniesAndLocationsAskedFor(t *testing.T) {
	s := open(t, t.TempDir(), 6, newClock())
	defer closed(t, s)
	do(t, s, 100)
	sn := s.Snapshot()
	companies := s.Companies()
	if len(companies) < 2 {
		t.Fatalf("there are %d companies", len(companies))
	}
	for _, table := range s.Tables() {
		var perCompany, located int
		for _, company := range companies {
			for row := range sn.Rows(table, []string{company}, nil) {
				perCompany++
				if got := members(t, row)["companyId"]; got != `"`+company+`"` {
					t.Fatalf("table %s: a row of company %s among those of %s", table, got, company)
				}
			}
		}
		if perCompany != sn.Len(table) {
			t.Errorf("table %s: %d rows by company, %d in all", table, perCompany, sn.Len(table))
		}
		location := s.Locations()[0]
		for row := range sn.Rows(table, nil, []string{location}) {
			got := members(t, row)["locationId"]
			if got != "" && got != "null" && got != `"`+location+`"` {
				t.Fatalf("table %s: a row of location %s among those of %s", table, got, location)
			}
			if got == `"`+location+`"` {
				located++
			}
		}
		want := 0
		for row := range sn.Rows(table, nil, nil) {
			if members(t, row)["locationId"] == `"`+location+`"` {
				want++
			}
		}
		if located != want {
			t.Errorf("table %s: %d rows of the location, want %d", table, located, want)
		}
	}
}

func TestManyStepsAtOnceAreTheSameAsOneByOne(t *testing.T) {
	one := open(t, t.TempDir(), 8, newClock())
	defer closed(t, one)
	many := open(t, t.TempDir(), 8, newClock())
	defer closed(t, many)
	var got []shop.Change
	if err := many.Work(t.Context(), 300, func(changes []shop.Change) (int, error) {
		got = append(got, changes...)
		return len(changes), nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(got) < 300 {
		t.Fatalf("%d changes", len(got))
	}
	var want []shop.Change
	for len(want) < len(got) {
		want = append(want, do(t, one, 1)...)
	}
	if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestNothingIsPublishedThatIsNotDurable(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 9, c)
	want := held(t, s, s.Snapshot())
	path := one(t, dir, "log-*")
	before, err := os.ReadFile(path)
	must(t, err)
	synced := 0
	s.Sync(func(*os.File) error {
		synced++
		return nil
	})
	must(t, s.Do(t.Context(), func(shop.Change) error {
		if synced != 1 {
			t.Error("a change is published before the log is durable")
		}
		return nil
	}))
	full := errors.New("no space left on device")
	s.Sync(func(*os.File) error { return full })
	refuse := func(shop.Change) error {
		t.Error("a change is published that is not durable")
		return nil
	}
	for range 2 { // and it stays at an end
		if err := s.Do(t.Context(), refuse); !errors.Is(err, full) {
			t.Errorf("Do: %v", err)
		}
	}
	if _, err := s.Evolve(t.Context(), refuse); !errors.Is(err, full) {
		t.Errorf("Evolve: %v", err)
	}
	must(t, os.WriteFile(path, before, 0o600)) // the disk lost it all
	s = open(t, dir, 0, c)
	defer closed(t, s)
	if diff := cmp.Diff(want, held(t, s, s.Snapshot())); diff != "" {
		t.Error(diff)
	}
}

func TestAClosedShopDoesNothing(t *testing.T) {
	s := open(t, t.TempDir(), 1, newClock())
	closed(t, s)
	err := s.Do(context.Background(), func(shop.Change) error {
		t.Error("a change was published")
		return nil
	})
	if err == nil {
		t.Error("no error")
	}
	if s.Snapshot().Len("customer") == 0 {
		t.Error("what it held can't be read any more")
	}
}

func TestACheckpointThatCanNotBeReadIsAnError(t *testing.T) {
	for name, spoil := range map[string]func(text []byte) []byte{
		"is not a checkpoint of a shop, or damaged": func(text []byte) []byte {
			text[len(text)/2] ^= 1
			return text
		},
		"or damaged": func(text []byte) []byte { return text[:3] },
		"was written by another version of the program": func(text []byte) []byte {
			text[len("eds shop 1")] ^= 1 // of what tells which columns there may be
			body := len(text) - 4
			return binary.LittleEndian.AppendUint32(text[:body], crc32.Checksum(text[:body], crc32.MakeTable(crc32.Castagnoli)))
		},
	} {
		dir := t.TempDir()
		closed(t, open(t, dir, 1, newClock()))
		path := one(t, dir, "checkpoint-*")
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
