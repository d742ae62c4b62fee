package shop_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/localhq/shop"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// clock is a clock that goes on by a microsecond each time it is read, but
// every third time stands still.
type clock struct {
	at    time.Time
	reads int
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 4, 5, 6, 7, 123456000, time.UTC)} }

func (c *clock) Now() time.Time {
	if c.reads++; c.reads%3 != 0 {
		c.at = c.at.Add(time.Microsecond)
	}
	return c.at
}

// open opens the shop in dir, a small one where there is none.
func open(t testing.TB, dir string, seed uint64, c *clock) *shop.Shop {
	t.Helper()
	s, err := shop.Open(dir, shop.Options{Seed: seed, Customers: 20, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	s.Sync(func(*os.File) error { return nil }) // it is the process that crashes here, not the machine
	return s
}

func closed(t testing.TB, s *shop.Shop) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// do does n steps and returns their changes.
func do(t testing.TB, s *shop.Shop, n int) []shop.Change {
	t.Helper()
	var changes []shop.Change
	for range n {
		if err := s.Do(t.Context(), keep(&changes)); err != nil {
			t.Fatal(err)
		}
	}
	return changes
}

func keep(changes *[]shop.Change) func(shop.Change) error {
	return func(c shop.Change) error {
		*changes = append(*changes, c)
		return nil
	}
}

// lines returns changes as they stand on the wire.
func lines(changes []shop.Change) []string {
	out := make([]string, len(changes))
	for i := range changes {
		out[i] = changes[i].Subject() + " " + string(changes[i].AppendJSON(nil))
	}
	return out
}

// contents is all rows of all tables, each table's by the text of its key.
type contents map[string]map[string]string

// held returns what a snapshot holds.
func held(t testing.TB, s *shop.Shop, sn *shop.Snapshot) contents {
	t.Helper()
	keys := primaryKeys(t, s)
	all := contents{}
	for _, table := range s.Tables() {
		all[table] = map[string]string{}
		for row := range sn.Rows(table, nil, nil) {
			all[table][rowKey(t, keys[table], row)] = string(row)
		}
		if len(all[table]) != sn.Len(table) {
			t.Fatalf("table %s: %d different keys among %d rows", table, len(all[table]), sn.Len(table))
		}
	}
	return all
}

// apply performs a change the simplest way there is, and makes sure that it
// tells the truth about what was there before.
func (all contents) apply(t testing.TB, keys map[string][]string, c *shop.Change) {
	t.Helper()
	rows := all[c.Table]
	if rows == nil {
		rows = map[string]string{}
		all[c.Table] = rows
	}
	image := c.After
	if c.Op == cdc.Delete {
		image = c.Before
	}
	key := rowKey(t, keys[c.Table], image)
	if was, ok := rows[key]; ok != (c.Op != cdc.Insert) || was != string(c.Before) {
		t.Fatalf("change %d, %v of %s: the row before it is not what was there", c.Seq, c.Op, c.Table)
	}
	if c.Op == cdc.Delete {
		delete(rows, key)
	} else {
		rows[key] = string(c.After)
	}
}

func primaryKeys(t testing.TB, s *shop.Shop) map[string][]string {
	t.Helper()
	keys := map[string][]string{}
	for _, text := range s.LatestSchemas() {
		var of struct {
			Table       string
			PrimaryKeys []string
		}
		if err := json.Unmarshal(text, &of); err != nil {
			t.Fatal(err)
		}
		keys[of.Table] = of.PrimaryKeys
	}
	return keys
}

// members returns the raw values of a row by name.
func members(t testing.TB, row []byte) map[string]string {
	t.Helper()
	m, err := rawjson.OpenObject(row)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for m.Next() {
		name := string(m.Name())
		if _, twice := values[name]; twice {
			t.Fatalf("a row has %s twice", name)
		}
		values[name] = string(m.Value())
	}
	if m.Err() != nil {
		t.Fatal(m.Err())
	}
	return values
}

func rowKey(t testing.TB, columns []string, row []byte) string {
	t.Helper()
	values := members(t, row)
	key := make([]string, len(columns))
	for i, c := range columns {
		if key[i] = values[c]; key[i] == "" {
			t.Fatalf("a row has no %s", c)
		}
	}
	return strings.Join(key, " ")
}

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

func TestADamagedCheckpointIsAnError(t *testing.T) {
	dir := t.TempDir()
	closed(t, open(t, dir, 1, newClock()))
	path := one(t, dir, "checkpoint-*")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := shop.Open(dir, shop.Options{}); err == nil {
		closed(t, s)
		t.Error("a damaged checkpoint was opened")
	}
}

// one returns the only file that matches a pattern in dir.
func one(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}
