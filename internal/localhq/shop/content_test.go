package shop_test

import (
	stdcmp "cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/localhq/shop"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// wireSchema is a Schema as far as rows are checked against it.
type wireSchema struct {
	Table, ModelVersion string
	PrimaryKeys         []string
	Required            []string
	Properties          map[string]struct {
		Type, Format string
		Nullable     bool
		Items        *struct {
			Type string
			Enum []string
		}
	}
}

// schemas finds the schema of any version of any table.
type schemas struct {
	shop    *shop.Shop
	objects map[string]string // by table
	known   map[string]*wireSchema
}

func (s *schemas) version(t testing.TB, table, version string) *wireSchema {
	t.Helper()
	if known := s.known[table+version]; known != nil {
		return known
	}
	if s.objects[table] == "" {
		s.objects, s.known = map[string]string{}, map[string]*wireSchema{}
		for object, text := range s.shop.LatestSchemas() {
			var w wireSchema
			must(t, json.Unmarshal(text, &w))
			s.objects[w.Table] = object
		}
	}
	text, ok := s.shop.Schema(s.objects[table], version)
	if !ok {
		t.Fatalf("table %s has no version %q", table, version)
	}
	w := &wireSchema{}
	must(t, json.Unmarshal(text, w))
	s.known[table+version] = w
	return w
}

// check makes sure that a row is one of its schema.
func (w *wireSchema) check(t testing.TB, row []byte) {
	t.Helper()
	if !utf8.Valid(row) {
		t.Fatalf("a row of %s is not UTF-8", w.Table)
	}
	values := members(t, row)
	for _, name := range append(slices.Clone(w.Required), w.PrimaryKeys...) {
		if v, ok := values[name]; !ok || v == "null" {
			t.Fatalf("a row of %s lacks %s", w.Table, name)
		}
	}
	for name, value := range values {
		p, ok := w.Properties[name]
		if !ok {
			t.Fatalf("a row of %s has %s, which its schema lacks", w.Table, name)
		}
		if value == "null" {
			if !p.Nullable {
				t.Fatalf("%s.%s is null", w.Table, name)
			}
			continue
		}
		kind := p.Type
		if p.Items != nil && len(p.Items.Enum) > 0 {
			kind = "enum"
			if !slices.Contains(p.Items.Enum, string(rawjson.Text([]byte(value)))) {
				t.Fatalf("%s.%s is none of its set: %s", w.Table, name, value)
			}
		}
		if !isA(kind, p.Format, value) {
			t.Fatalf("%s.%s is no %s: %s", w.Table, name, kind, value)
		}
	}
}

func isA(kind, format, value string) bool {
	switch kind {
	case "integer":
		_, err := strconv.ParseInt(value, 10, 64)
		return err == nil
	case "number":
		f, err := strconv.ParseFloat(value, 64)
		return err == nil && !math.IsInf(f, 0)
	case "boolean":
		return value == "true" || value == "false"
	case "object":
		return value[0] == '{'
	case "array":
		return value[0] == '['
	case "string":
		if format == "date-time" {
			text := string(rawjson.Text([]byte(value)))
			at, err := time.Parse(time.RFC3339Nano, text)
			return err == nil && at.Nanosecond()%1000 == 0 && strings.HasSuffix(text, "Z")
		}
	}
	return value[0] == '"'
}

func TestEveryRowIsOneOfItsSchemaVersion(t *testing.T) {
	s := open(t, t.TempDir(), 21, newClock())
	defer closed(t, s)
	known := &schemas{shop: s}
	versions := map[string]string{} // of each row, by table and key
	for table, rows := range held(t, s, s.Snapshot()) {
		latest := latestVersion(t, s, table)
		for key, row := range rows {
			known.version(t, table, latest).check(t, []byte(row))
			versions[table+key] = latest
		}
	}
	for range 15 {
		var changes []shop.Change
		must(t, s.Work(t.Context(), 400, func(more []shop.Change) (int, error) {
			changes = append(changes, more...)
			return len(more), nil
		}))
		if _, err := s.Evolve(t.Context(), keep(&changes)); err != nil && !errors.Is(err, shop.ErrEvolved) {
			t.Fatal(err)
		}
		known.objects = nil
		keys := primaryKeys(t, s)
		for _, c := range changes {
			if c.Before != nil {
				// The row as it was is of the version in which it was written.
				known.version(t, c.Table, versions[c.Table+rowKey(t, keys[c.Table], c.Before)]).check(t, c.Before)
			}
			if c.After != nil {
				known.version(t, c.Table, c.ModelVersion).check(t, c.After)
				versions[c.Table+rowKey(t, keys[c.Table], c.After)] = c.ModelVersion
			}
		}
	}
}

func latestVersion(t testing.TB, s *shop.Shop, table string) string {
	t.Helper()
	for _, text := range s.LatestSchemas() {
		var w wireSchema
		must(t, json.Unmarshal(text, &w))
		if w.Table == table {
			return w.ModelVersion
		}
	}
	t.Fatalf("table %s has no schema", table)
	return ""
}

func TestTheSchemaIsThatOfALargeShop(t *testing.T) {
	s := open(t, t.TempDir(), 22, newClock())
	defer closed(t, s)
	columns, composite, renamed := map[string]int{}, 0, 0
	for object, text := range s.LatestSchemas() {
		table, err := schema.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		columns[table.Name] = len(table.Columns)
		if table.Keys > 1 {
			composite++
		}
		if !strings.EqualFold(strings.ReplaceAll(table.Name, "_", ""), object) {
			renamed++
		}
	}
	if diff := cmp.Diff(len(s.Tables()), len(columns)); diff != "" {
		t.Error(diff)
	}
	for _, table := range []string{
		"company", "location", "user", "customer", "vehicle", "order", "service", "labor", "part", "inventory_part", "vendor", "payment",
		"appointment", "message",
	} {
		if columns[table] == 0 {
			t.Errorf("there is no table %s", table)
		}
	}
	if columns["order"] < 60 || columns["customer"] != 45 || composite < 2 || renamed < 1 {
		t.Errorf("order has %d columns, customer %d; %d tables have composite keys, %d another name than their object",
			columns["order"], columns["customer"], composite, renamed)
	}
	if _, ok := s.Schema("RepairOrder", "nope"); ok {
		t.Error("there is a schema of a version that never was")
	}
}

// TestEverythingThatTheWireCanCarryComesSoon makes sure that a short run meets
// every kind of value and change, so that who passes against the shop has seen it.
func TestEverythingThatTheWireCanCarryComesSoon(t *testing.T) {
	s := open(t, t.TempDir(), 23, newClock())
	defer closed(t, s)
	known := &schemas{shop: s}
	seen := map[string]int{}
	updates := map[string]int{} // of one row
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
		seen["by nobody"] += count(c.UserID == "")
		seen["of a whole company"] += count(c.LocationID == "" && strings.Contains(c.Subject(), ".NONE.PUBLIC."))
		seen["of a location"] += count(c.LocationID != "")
		seen["a key with its company"] += count(strings.HasPrefix(string(c.Key), `["`+c.CompanyID+`","`) && c.Table == "order")
		seen["a key with a number"] += count(c.Table == "time_entry" && c.Key[len(c.Key)-2] != '"')
		if c.After != nil {
			noteValues(t, seen, known.version(t, c.Table, c.ModelVersion), c.After)
		}
	}
	want := []string{
		"INSERT", "UPDATE", "DELETE", "inserted again", "one nanosecond, two changes", "a new nanosecond", "imported", "by a user", "by nobody",
		"of a whole company", "of a location", "a key with its company", "a key with a number",
		"string", "enum", "date-time", "integer", "number", "boolean", "object", "array", "null", "absent",
		"beyond 2^53", "negative", "the largest", "the smallest", "seventeen digits", "microseconds", "before 1970", "after 2038",
		"not ASCII", "beyond the basic plane", "a quote", "an apostrophe", "a line break", "long", "empty text", "json in a string", "an escaped letter",
	}
	for _, table := range s.Tables() {
		if table != "company" && table != "location" {
			want = append(want, table+" UPDATE")
		}
	}
	for _, table := range []string{"appointment", "customer", "inventory_part", "labor", "message", "order", "part", "payment", "service", "time_entry", "vehicle"} {
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

// noteValues counts the kinds of values of a row.
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

func TestDiffNamesTheColumnsThatDiffer(t *testing.T) {
	s := open(t, t.TempDir(), 24, newClock())
	defer closed(t, s)
	for range 13 {
		var changes []shop.Change
		_, err := s.Evolve(t.Context(), keep(&changes))
		must(t, err)
		for _, c := range append(changes, do(t, s, 60)...) {
			if c.Op != cdc.Update {
				if c.Diff != nil {
					t.Fatalf("%v has a diff", c.Op)
				}
				continue
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
			got := slices.Clone(c.Diff)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" || len(got) == 0 {
				t.Fatalf("table %s: %s", c.Table, diff)
			}
		}
	}
}

func TestTheWireCarriesTheWholeChange(t *testing.T) {
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
		if diff := cmp.Diff(c, got); diff != "" {
			t.Fatal(diff)
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
