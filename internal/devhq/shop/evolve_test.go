package shop_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// latest returns the newest version of every table.
func latest(t testing.TB, s *shop.Shop) map[string]*schema.Table {
	t.Helper()
	tables := map[string]*schema.Table{}
	for _, text := range s.LatestSchemas() {
		table, err := schema.Decode(text)
		must(t, err)
		tables[table.Name] = table
	}
	return tables
}

// wider maps a type to the types that can hold all of its values.
var wider = map[schema.Type][]schema.Type{schema.Integer: {schema.Number, schema.String}, schema.Number: {schema.String}}

func TestEvolve_OnlyExtendsTheSchema(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 31, c)
	defer func() { closed(t, s) }()
	before := latest(t, s)
	kinds := map[string]int{}
	for i := 0; ; i++ {
		var changes []shop.Change
		description, err := s.Evolve(t.Context(), keep(&changes))
		if errors.Is(err, shop.ErrEvolved) {
			break
		}
		must(t, err)
		if len(changes) == 0 {
			t.Errorf("%s: no row has it", description)
		}
		for _, ch := range changes {
			if version := latest(t, s)[ch.Table].Version; ch.ModelVersion != version {
				t.Errorf("%s: a row of version %s, want %s", description, ch.ModelVersion, version)
			}
		}
		after := latest(t, s)
		kinds[difference(t, description, before, after)]++
		before = after
		if i%3 == 0 {
			closed(t, s)
			s = open(t, dir, 0, c)
			if diff := cmp.Diff(versions(before), versions(latest(t, s))); diff != "" {
				t.Errorf("after a restart: %s", diff)
			}
		}
	}
	if kinds["column"] < 2 || kinds["table"] < 2 || kinds["type"] < 2 {
		t.Errorf("evolutions: %v", kinds)
	}
	// The shop also works when no evolutions are left.
	do(t, s, 20)
}

func versions(tables map[string]*schema.Table) map[string]string {
	out := map[string]string{}
	for name, table := range tables {
		out[name] = table.Version
	}
	return out
}

// difference checks that the schema changed in exactly one way, and returns the kind of that
// change.
func difference(t testing.TB, description string, before, after map[string]*schema.Table) string {
	t.Helper()
	var found []string
	for name, now := range after {
		was := before[name]
		if was == nil {
			found = append(found, "table")
			continue
		}
		for _, column := range was.Columns {
			same := now.Column(column.Name)
			switch {
			case same == nil:
				t.Errorf("%s: %s.%s is gone", description, name, column.Name)
			case same.Type != column.Type:
				found = append(found, "type")
				if !slices.Contains(wider[column.Type], same.Type) {
					t.Errorf("%s: %s.%s went from %v to %v", description, name, column.Name, column.Type, same.Type)
				}
			case same.Required != column.Required:
				t.Errorf("%s: required changed for %s.%s", description, name, column.Name)
			}
		}
		for _, column := range now.Columns {
			if was.Column(column.Name) == nil {
				found = append(found, "column")
				if column.Required {
					t.Errorf("%s: %s.%s is required, but older rows lack it", description, name, column.Name)
				}
			}
		}
		if (now.Version != was.Version) != !now.SameLayout(was) {
			t.Errorf("%s: versions %s and %s of table %s", description, was.Version, now.Version, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s: %d differences", description, len(found))
	}
	return found[0]
}

func TestSchema_ReturnsOlderVersions(t *testing.T) {
	s := open(t, t.TempDir(), 32, newClock())
	defer closed(t, s)
	all := map[string]json.RawMessage{}
	for {
		for object, text := range s.LatestSchemas() {
			var w wireSchema
			must(t, json.Unmarshal(text, &w))
			all[object+"/"+w.ModelVersion] = text
		}
		if _, err := s.Evolve(t.Context(), func(shop.Change) error { return nil }); err != nil {
			break
		}
	}
	for name, want := range all {
		object, version, _ := strings.Cut(name, "/")
		got, ok := s.Schema(object, version)
		if !ok || string(got) != string(want) {
			t.Errorf("%s: %v, %s", name, ok, cmp.Diff(string(want), string(got)))
		}
	}
	if len(all) < len(s.Tables())+6 {
		t.Errorf("there were %d versions of %d tables", len(all), len(s.Tables()))
	}
}

// TestEvolve_ConvertsRowsWhenTheyAreWritten follows one column whose type changes from integer to
// number to text.
func TestEvolve_ConvertsRowsWhenTheyAreWritten(t *testing.T) {
	s := open(t, t.TempDir(), 33, newClock())
	defer closed(t, s)
	forms := func() map[string]int {
		counts := map[string]int{}
		for row := range s.Snapshot().Rows("vehicle", nil, nil) {
			odometer := members(t, row)["odometer"]
			switch {
			case odometer == "null":
			case odometer[0] == '"':
				counts["text"]++
			case strings.Contains(odometer, "."):
				counts["fraction"]++
			default:
				counts["integer"]++
			}
		}
		return counts
	}
	evolveTo := func(description string) []shop.Change {
		for {
			var changes []shop.Change
			did, err := s.Evolve(t.Context(), keep(&changes))
			must(t, err)
			if strings.Contains(did, description) {
				return changes
			}
		}
	}
	if got := forms(); got["integer"] == 0 || got["text"]+got["fraction"] > 0 {
		t.Errorf("before the evolutions: %v", got)
	}
	evolveTo("vehicle.odometer widened to number")
	if got := forms(); got["integer"] == 0 || got["fraction"] == 0 || got["text"] > 0 {
		t.Errorf("as a number: %v", got)
	}
	evolveTo("vehicle.odometer widened to string")
	if got := forms(); got["integer"] == 0 || got["text"] == 0 {
		t.Errorf("as text: %v", got)
	}

	// The next update of a row converts its number to text.
	converted := 0
	for range 40 {
		for _, c := range do(t, s, 50) {
			if c.Table != "vehicle" || c.Op != cdc.Update {
				continue
			}
			was, is := members(t, c.Before)["odometer"], members(t, c.After)["odometer"]
			if was == "null" || was[0] == '"' {
				continue
			}
			if is == `"`+was+`"` {
				converted++
			}
			if is != "null" && is[0] != '"' || !slices.Contains(c.Diff, "odometer") {
				t.Fatalf("the odometer went from %s to %s, the diff is %q", was, is, c.Diff)
			}
		}
	}
	if converted == 0 {
		t.Error("no number was converted")
	}
}

func TestEvolve_LeavesTheNewColumnOutOfOldRows(t *testing.T) {
	s := open(t, t.TempDir(), 34, newClock())
	defer closed(t, s)
	description, err := s.Evolve(t.Context(), func(shop.Change) error { return nil })
	must(t, err)
	if !strings.Contains(description, "order.warrantyMonths") {
		t.Fatal(description)
	}
	with, without := 0, 0
	for row := range s.Snapshot().Rows("order", nil, nil) {
		if _, ok := members(t, row)["warrantyMonths"]; ok {
			with++
		} else {
			without++
		}
	}
	if with == 0 || without == 0 {
		t.Errorf("%d rows have the column, %d lack it", with, without)
	}
}

func TestEvolve_NewTableHasEveryOperation(t *testing.T) {
	s := open(t, t.TempDir(), 35, newClock())
	defer closed(t, s)
	for !slices.Contains(s.Tables(), "inspection") {
		_, err := s.Evolve(t.Context(), func(shop.Change) error { return nil })
		must(t, err)
	}
	ops := map[cdc.Op]int{}
	must(t, s.Work(t.Context(), 30_000, func(changes []shop.Change) (int, error) {
		for _, c := range changes {
			if c.Table == "inspection" {
				ops[c.Op]++
			}
		}
		return len(changes), nil
	}))
	if ops[cdc.Insert] == 0 || ops[cdc.Update] == 0 || ops[cdc.Delete] == 0 {
		t.Errorf("operations: %v", ops)
	}
}
