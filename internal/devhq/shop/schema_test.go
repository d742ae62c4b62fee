package shop_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// wireSchema holds the parts of a published schema against which rows are checked.
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

// schemas looks up the schemas of all versions of all tables.
type schemas struct {
	shop    *shop.Shop
	objects map[string]string // table name -> object name
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

// check checks that a row conforms to the schema.
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
				t.Fatalf("%s.%s is not in its set: %s", w.Table, name, value)
			}
		}
		if !isA(kind, p.Format, value) {
			t.Fatalf("%s.%s is not of type %s: %s", w.Table, name, kind, value)
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

func TestShop_RowsConformToTheirSchemaVersion(t *testing.T) {
	s := open(t, t.TempDir(), 21, newClock())
	defer closed(t, s)
	known := &schemas{shop: s}
	versions := map[string]string{} // table and key -> version of the row
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
				// The old row image conforms to the version with which it was written.
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

func TestShop_HasTheSchemaOfALargeShop(t *testing.T) {
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
		t.Errorf("order has %d columns, customer %d; %d tables have composite keys, %d are not named like their object",
			columns["order"], columns["customer"], composite, renamed)
	}
	if _, ok := s.Schema("RepairOrder", "nope"); ok {
		t.Error("there is a schema of an unknown version")
	}
}
