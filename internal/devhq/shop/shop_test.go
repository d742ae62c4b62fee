package shop_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "40"); err != nil { // fewer than the default of 100, because each check opens many shops
		panic(err)
	}
	os.Exit(m.Run())
}

func TestShop_FollowsFromItsSeed(t *testing.T) {
	run := func(seed uint64) (contents, []string) {
		s := open(t, t.TempDir(), seed, newClock())
		defer closed(t, s)
		before := held(t, s, s.Snapshot())
		changes := wireLines(do(t, s, 100))
		if _, err := s.Evolve(t.Context(), func(shop.Change) error { return nil }); err != nil {
			t.Fatal(err)
		}
		return before, append(changes, wireLines(do(t, s, 20))...)
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

func TestShop_ChangesTurnOneSnapshotIntoTheNext(t *testing.T) {
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

func TestSnapshot_IsImmutableAndItsClockDividesTheChanges(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 5, c)
	before := do(t, s, 20)
	sn := s.Snapshot()
	first := held(t, s, sn)
	last := before[len(before)-1].Clock
	if sn.Clock.Compare(last) <= 0 {
		t.Errorf("the snapshot at %v holds a change at %v", sn.Clock, last)
	}
	// Later changes have later clocks, even after a restart with a clock that does not advance.
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

func TestSnapshot_RowsSelectsCompaniesAndLocations(t *testing.T) {
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

func TestWork_MakesTheSameChangesAsDo(t *testing.T) {
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
	if diff := cmp.Diff(wireLines(want), wireLines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestDo_FailsAfterClose(t *testing.T) {
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
		t.Error("the rows cannot be read after Close")
	}
}
