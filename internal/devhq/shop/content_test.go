package shop_test

import (
	stdcmp "cmp"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// TestShop_ProducesEveryKindOfChangeSoon checks that a short run produces every kind of value and
// change, so that a test with the shop covers all kinds.
func TestShop_ProducesEveryKindOfChangeSoon(t *testing.T) {
	s := open(t, t.TempDir(), 23, newClock())
	defer closed(t, s)
	known := &schemas{shop: s}
	seen := map[string]int{}
	updates := map[string]int{} // number of updates by row
	deleted := map[string]bool{}
	var previous cdc.Timestamp
	var changes []shop.Change
	for len(changes) < 12_000 {
		must(t, s.Work(t.Context(), 1000, func(more []shop.Change) (int, error) {
			changes = append(changes, more...)
			return len(more), nil
		}))
	}
	for i := range changes {
		c := &changes[i]
		seen[c.Op.String()]++
		seen[c.Table+" "+c.Op.String()]++
		row := c.Table + string(c.Key)
		switch c.Op {
		case cdc.Update:
			updates[row]++
			seen["updates of the hottest row"] = max(seen["updates of the hottest row"], updates[row])
		case cdc.Delete:
			deleted[row] = true
		case cdc.Insert:
			seen["inserted again"] += count(deleted[row])
		}
		seen["one nanosecond, two changes"] += count(c.Clock.Wall == previous.Wall && c.Clock.Logical > previous.Logical)
		seen["a new nanosecond"] += count(c.Clock.Wall > previous.Wall)
		previous = c.Clock
		seen["imported"] += count(c.Imported)
		seen["by a user"] += count(c.UserID != "")
		seen["by no user"] += count(c.UserID == "")
		seen["of a whole company"] += count(c.LocationID == "" && strings.Contains(c.Subject(), ".NONE.PUBLIC."))
		seen["of a location"] += count(c.LocationID != "")
		seen["a key with its company"] += count(strings.HasPrefix(string(c.Key), `["`+c.CompanyID+`","`) && c.Table == "order")
		seen["a key with a number"] += count(c.Table == "time_entry" && c.Key[len(c.Key)-2] != '"')
		if c.After != nil {
			noteValues(t, seen, known.version(t, c.Table, c.ModelVersion), c.After)
		}
	}
	want := []string{
		"INSERT", "UPDATE", "DELETE", "inserted again", "one nanosecond, two changes", "a new nanosecond", "imported", "by a user",
		"by no user",
		"of a whole company", "of a location", "a key with its company", "a key with a number",
		"string", "enum", "date-time", "integer", "number", "boolean", "object", "array", "null", "absent",
		"beyond 2^53", "negative", "the largest", "the smallest", "seventeen digits", "microseconds", "before 1970", "after 2038",
		"not ASCII", "beyond the basic plane", "a quote", "an apostrophe", "a line break", "long", "empty text", "json in a string",
		"an escaped letter",
	}
	for _, table := range s.Tables() {
		if table != "company" && table != "location" {
			want = append(want, table+" UPDATE")
		}
	}
	for _, table := range []string{
		"appointment", "customer", "inventory_part", "labor", "message", "order", "part", "payment", "service", "time_entry", "vehicle",
	} {
		want = append(want, table+" INSERT", table+" DELETE")
	}
	for _, what := range want {
		if seen[what] == 0 {
			t.Errorf("not seen: %s", what)
		}
	}
	if hottest := seen["updates of the hottest row"]; hottest < len(changes)/100 {
		t.Errorf("the hottest row was updated %d times in %d changes", hottest, len(changes))
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// noteValues counts the kinds of values in a row.
func noteValues(t testing.TB, seen map[string]int, w *wireSchema, row []byte) {
	t.Helper()
	values := members(t, row)
	for name, p := range w.Properties {
		value, ok := values[name]
		switch {
		case !ok:
			seen["absent"]++
			continue
		case value == "null":
			seen["null"]++
			continue
		case p.Items != nil && len(p.Items.Enum) > 0:
			seen["enum"]++
		case p.Format != "":
			seen[p.Format]++
			noteDate(seen, value)
		default:
			seen[p.Type]++
		}
		switch p.Type {
		case "integer":
			n, err := strconv.ParseInt(value, 10, 64)
			must(t, err)
			seen["beyond 2^53"] += count(n > 1<<53 && n%2 == 1)
			seen["negative"] += count(n < 0)
			seen["the largest"] += count(n == math.MaxInt64)
			seen["the smallest"] += count(n == math.MinInt64)
		case "number":
			seen["seventeen digits"] += count(len(strings.Trim(strings.NewReplacer(".", "", "-", "").Replace(value), "0")) == 17)
		case "object":
			seen["json in a string"] += count(strings.Contains(value, `"{\"`))
			seen["an escaped letter"] += count(strings.Contains(value, `\u00e9`))
		case "string":
			noteText(seen, string(rawjson.Text([]byte(value))))
		}
	}
}

func noteDate(seen map[string]int, value string) {
	seen["microseconds"] += count(len(value) == len(`"2026-01-02T03:04:05.123456Z"`))
	seen["before 1970"] += count(value < `"1970`)
	seen["after 2038"] += count(value > `"2039`)
}

func noteText(seen map[string]int, text string) {
	seen["not ASCII"] += count(strings.ContainsFunc(text, func(r rune) bool { return r > 127 }))
	seen["beyond the basic plane"] += count(strings.ContainsFunc(text, func(r rune) bool { return r > 0xffff }))
	seen["a quote"] += count(strings.Contains(text, `"`))
	seen["an apostrophe"] += count(strings.Contains(text, "'"))
	seen["a line break"] += count(strings.Contains(text, "\n"))
	seen["long"] += count(len(text) > 5_000)
	seen["empty text"] += count(text == "")
}

func TestChange_DiffNamesTheColumnsThatDiffer(t *testing.T) {
	s := open(t, t.TempDir(), 24, newClock())
	defer closed(t, s)
	for range 13 {
		var changes []shop.Change
		_, err := s.Evolve(t.Context(), keep(&changes))
		must(t, err)
		for _, c := range append(changes, do(t, s, 60)...) {
			checkDiff(t, &c)
		}
	}
}

// checkDiff checks that the diff of an UPDATE names exactly the columns whose values differ. Other
// changes must have no diff.
func checkDiff(t testing.TB, c *shop.Change) {
	t.Helper()
	if c.Op != cdc.Update {
		if c.Diff != nil {
			t.Fatalf("%v has a diff", c.Op)
		}
		return
	}
	before, after := members(t, c.Before), members(t, c.After)
	var want []string
	for name, value := range after {
		if was, ok := before[name]; was != value && (ok || value != "null") {
			want = append(want, name)
		}
	}
	for name, was := range before {
		if _, ok := after[name]; !ok && was != "null" {
			want = append(want, name)
		}
	}
	got := slices.Sorted(slices.Values(c.Diff))
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
		t.Fatalf("table %s: %s", c.Table, diff)
	}
}

func TestChange_AppendJSONKeepsEverything(t *testing.T) {
	s := open(t, t.TempDir(), 25, newClock())
	defer closed(t, s)
	decoder := cdc.NewDecoder()
	ids := map[string]bool{}
	for _, c := range do(t, s, 200) {
		var e cdc.Event
		if err := decoder.Decode(&e, c.AppendJSON(nil), ""); err != nil {
			t.Fatal(err)
		}
		var names []string
		if e.Diff != nil {
			must(t, json.Unmarshal(e.Diff, &names))
		}
		got := shop.Change{
			Seq: c.Seq, ID: e.ID, Op: e.Op, Table: e.Table, Key: e.Key, ModelVersion: e.ModelVersion, CompanyID: e.CompanyID,
			LocationID: e.LocationID, UserID: e.UserID, Before: e.Before, After: e.After, Diff: names, Clock: e.Clock, Imported: e.Imported,
		}
		if !reflect.DeepEqual(c, got) {
			t.Fatal(cmp.Diff(c, got))
		}
		image := c.After
		if image == nil {
			image = c.Before
		}
		if members(t, image)["id"] != lastOf(t, c.Key) {
			t.Fatalf("the key of a row of %s does not end with its id", c.Table)
		}
		if e.Timestamp != c.Clock.Wall/1e6 || e.MVCC != c.Clock.String() || ids[c.ID] {
			t.Fatalf("timestamp %d, clock %s, id %s", e.Timestamp, e.MVCC, c.ID)
		}
		ids[c.ID] = true
		want := fmt.Sprintf("dbchange.%s.%v.%s.%s.PUBLIC.%s", c.Table, c.Op, c.CompanyID, stdcmp.Or(c.LocationID, "NONE"), c.ModelVersion)
		if c.Subject() != want {
			t.Fatalf("subject %s, want %s", c.Subject(), want)
		}
	}
}

func lastOf(t testing.TB, array []byte) string {
	t.Helper()
	var last string
	must(t, rawjson.Elements(array, func(el rawjson.Span) error {
		last = string(array[el.Start:el.End])
		return nil
	}))
	return last
}
