package shop_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
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
	m, err := rawjson.OpenObject(row)
	must(t, err)
	key := make([]string, len(columns))
	for m.Next() {
		if i := slices.Index(columns, string(m.Name())); i >= 0 {
			key[i] = string(m.Value())
		}
	}
	must(t, m.Err())
	if slices.Contains(key, "") {
		t.Fatalf("a row lacks a part of its key, %s", columns)
	}
	return strings.Join(key, " ")
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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func clone(all contents) contents {
	out := contents{}
	for table, rows := range all {
		out[table] = map[string]string{}
		for key, row := range rows {
			out[table][key] = row
		}
	}
	return out
}
