package shop_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// clock is a test clock. It advances by a microsecond each time it is read, except every third
// time.
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

// open opens the shop in dir. If dir contains no shop, open creates a small one.
func open(t testing.TB, dir string, seed uint64, c *clock) *shop.Shop {
	t.Helper()
	s, err := shop.Open(dir, shop.Options{Seed: seed, Customers: 20, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t testing.TB, s *shop.Shop) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// do performs n steps of work and returns their changes.
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

// wireLines returns the changes in their published form, with their subjects.
func wireLines(changes []shop.Change) []string {
	out := make([]string, len(changes))
	for i := range changes {
		out[i] = changes[i].Subject() + " " + string(changes[i].AppendJSON(nil))
	}
	return out
}

// contents holds all rows: table -> key -> row.
type contents map[string]map[string]string

// held returns the rows of a snapshot.
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

// apply applies a change, and checks the change's old row image.
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
		t.Fatalf("change %d, %v of %s: before differs from the row", c.Seq, c.Op, c.Table)
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
		t.Fatalf("a row lacks a key column of %s", columns)
	}
	return strings.Join(key, " ")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
