package change_test

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func table(t rapid.TB, version string, columns ...string) *schema.Table {
	t.Helper()
	cs := make([]schema.Column, len(columns))
	for i, c := range columns {
		cs[i] = schema.Column{Name: c, Type: schema.String}
	}
	table, err := schema.New("order", version, []string{"id"}, cs)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func event(t rapid.TB, sequence uint64, payload string) *cdc.Event {
	t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: sequence, Stored: int64(sequence)}}
	d := cdc.NewDecoder()
	d.Members = sequence%2 == 0 // the result must not depend on Members
	if err := d.Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// show formats the sets of a batch as text, one change per line.
func show(b *change.Batch) []string {
	var lines []string
	for _, s := range b.Sets {
		for _, r := range s.Upserts {
			line := s.Table.Version + " put"
			for slot, c := range s.Table.Columns {
				if v := r.Value(slot); v != nil {
					line += fmt.Sprintf(" %s=%s", c.Name, v)
				}
			}
			lines = append(lines, line)
		}
		for _, r := range s.Deletes {
			lines = append(lines, fmt.Sprintf("%s del %s", s.Table.Version, r.Value(0)))
		}
	}
	return lines
}

func TestBatch_KeepsTheLastChangeOfAKey(t *testing.T) {
	s := change.NewSplitter(table(t, "1", "id", "a"))
	var b change.Builder
	for i, p := range []string{
		`"operation":"INSERT","after":{"id":"1","a":"x"}`,
		`"operation":"UPDATE","after":{"id":"1","a":"y"}`, // an update replaces an insert
		`"operation":"INSERT","after":{"id":"2"}`,
		`"operation":"DELETE","key":["2"]`, // an insert followed by a delete is a delete
		`"operation":"DELETE","key":["3"]`,
		`"operation":"INSERT","after":{"id":"3"}`,      // a delete followed by an insert replaces the whole row
		`"operation":"DELETE","key":["\u0031\u0030"]`,  // "10", written with escapes
		`"operation":"INSERT","after":{"id":"10"}`,     //
		`"operation":"UPDATE","after":{"id":"\u0034"}`, // "4"
		`"operation":"DELETE","key":["4"]`,
	} {
		e := event(t, uint64(i+1), `{"table":"order",`+p+`}`)
		effect, err := s.Effect(e)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Accepts(effect) {
			t.Fatalf("event %d was refused", i+1)
		}
		b.Add(e, effect)
	}
	b.Pass(cdc.Position{Sequence: 40, Stored: 3})
	batch := b.Batch()
	if diff := gocmp.Diff([]string{
		`1 put id="1" a="y"`, `1 put id="10"`, `1 put id="3"`, `1 del "2"`, `1 del "3"`, `1 del "4"`,
		`1 del "\u0031\u0030"`,
	}, show(batch)); diff != "" {
		t.Error(diff)
	}
	if batch.First.Sequence != 1 || batch.Last != (cdc.Position{Sequence: 40, Stored: 10}) || len(batch.Events) != 10 || !b.Empty() {
		t.Errorf("positions %v to %v, %d events, builder empty: %v", batch.First, batch.Last, len(batch.Events), b.Empty())
	}
}

func TestAccepts_RefusesAKeyUnderTwoLayouts(t *testing.T) {
	v1, v2 := change.NewSplitter(table(t, "1", "id", "a")), change.NewSplitter(table(t, "2", "id", "a", "b"))
	effect := func(s *change.Splitter, payload string) change.Effect {
		effect, err := s.Effect(event(t, 1, payload))
		if err != nil {
			t.Fatal(err)
		}
		return effect
	}
	var b change.Builder
	b.Add(event(t, 1, `{"table":"order","operation":"INSERT"}`), effect(v1, `{"table":"order","operation":"INSERT","after":{"id":"1"}}`))
	if b.Accepts(effect(v2, `{"table":"order","operation":"UPDATE","after":{"id":"1"}}`)) {
		t.Error("the same row under another layout was accepted")
	}
	if !b.Accepts(effect(v2, `{"table":"order","operation":"UPDATE","after":{"id":"2"}}`)) {
		t.Error("another row under another layout was refused")
	}
	if !b.Accepts(effect(v1, `{"table":"order","operation":"UPDATE","after":{"id":"1"}}`)) {
		t.Error("the same row under the same layout was refused")
	}
}

func TestAppendKey_EqualLikeInADatabase(t *testing.T) {
	for _, same := range [][]string{
		{`"a"`, `"\u0061"`},
		{`1`, `1.0`, `1e0`, `10e-1`},
		{`0`, `-0`, `0.0`, `-0.0`},
		{`9007199254740993`},
		{`9007199254740992`},
		{`"1"`},
		{`12345678901234567890123`, `12345678901234567890123.0`},
		{`1e99999`},
	} {
		first := string(change.AppendKey(nil, []byte(same[0])))
		for _, other := range same {
			if got := string(change.AppendKey(nil, []byte(other))); got != first {
				t.Errorf("%s is not the key %s", other, same[0])
			}
		}
	}
	ab := change.AppendKey(change.AppendKey(nil, []byte(`"a"`)), []byte(`"b"`))
	if other := change.AppendKey(change.AppendKey(nil, []byte(`"as\u0001b"`)), []byte(`""`)); string(ab) == string(other) {
		t.Error("composite keys are ambiguous")
	}
}

// TestBatch_AnySplitEqualsNaiveApplication applies random histories to a map, once batch by batch
// and once event by event, and compares the results.
func TestBatch_AnySplitEqualsNaiveApplication(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layouts := []*schema.Table{table(t, "1", "id", "a"), table(t, "2", "id", "a", "b")}
		splitters := []*change.Splitter{change.NewSplitter(layouts[0]), change.NewSplitter(layouts[1])}
		naive, batched := rowMap{}, rowMap{}
		var b change.Builder
		for i := range rapid.IntRange(0, 60).Draw(t, "events") {
			version := rapid.IntRange(0, 1).Draw(t, "version")
			id := rapid.SampledFrom([]string{"1", "2", "3", `\u0031`}).Draw(t, "id")
			var payload string
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				payload = fmt.Sprintf(`{"table":"order","operation":"DELETE","key":["%s"]}`, id)
			case 1:
				old := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "old")
				payload = fmt.Sprintf(`{"table":"order","operation":"UPDATE","before":{"id":"%s"},"after":{"id":"%s","a":"%d","b":"%d"}}`,
					old, id, i, i)
			default:
				payload = fmt.Sprintf(`{"table":"order","operation":"INSERT","after":{"id":"%s","a":"%d","b":"%d"}}`, id, i, i)
			}
			e := event(t, uint64(i+1), payload)
			effect, err := splitters[version].Effect(e)
			if err != nil {
				t.Fatal(err)
			}
			naive.delete(effect.Delete)
			naive.put(effect.Table, effect.Upsert)
			if !b.Accepts(effect) || rapid.IntRange(0, 9).Draw(t, "close") == 0 {
				batched.apply(b.Batch())
			}
			b.Add(e, effect)
		}
		batched.apply(b.Batch())
		if diff := gocmp.Diff(naive, batched); diff != "" {
			t.Fatal(diff)
		}
	})
}

// rowMap represents a table as a map of rows. Each row is a map of columns.
type rowMap map[string]map[string]string

func (r rowMap) put(table *schema.Table, row *change.Row) {
	if row == nil {
		return
	}
	id := string(rawjson.Text(row.Value(0)))
	if r[id] == nil {
		r[id] = map[string]string{}
	}
	for slot, c := range table.Columns {
		r[id][c.Name] = string(rawjson.Text(row.Value(slot)))
	}
}

func (r rowMap) delete(row *change.Row) {
	if row != nil {
		delete(r, string(rawjson.Text(row.Value(0))))
	}
}

func (r rowMap) apply(b *change.Batch) {
	for _, s := range b.Sets {
		for i := range s.Deletes {
			r.delete(&s.Deletes[i])
		}
		for i := range s.Upserts {
			r.put(s.Table, &s.Upserts[i])
		}
	}
}

// TestSortByKey_EqualsTheNaiveSort sorts keys that have common prefixes, differ in length and
// type, or are missing.
func TestSortByKey_EqualsTheNaiveSort(t *testing.T) {
	table, err := schema.New("t", "1", []string{"a", "b"}, []schema.Column{
		{Name: "a", Type: schema.String},
		{Name: "b", Type: schema.Integer},
	})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	families := [][]string{
		{`"shop-0000001"`, `"shop-0000002"`, `"shop-00000020"`, `"shop-0000002a-and-more"`, `"shop-0000002a-and-less"`, `"shop-"`},
		{
			`1`, `2`, `10`, `-7`, `123456789012`, `123456789013`, strings.Repeat("9", 300), strings.Repeat("1", 301),
			strings.Repeat("8", 300),
		},
		{`""`, `"a"`, `"ab"`, `"\u0000"`, `"é"`, `5`, `17`, ``},
		{`"same"`},
	}
	for range 300 {
		family := families[random.IntN(len(families))]
		var rows []change.Row
		for range random.IntN(40) {
			first, second := family[random.IntN(len(family))], families[1][random.IntN(len(families[1]))]
			row := change.Row{Image: []byte(first + second), Spans: make([]rawjson.Span, 2)}
			if first != "" {
				row.Spans[0] = rawjson.Span{Start: 0, End: uint32(len(first))}
			}
			row.Spans[1] = rawjson.Span{Start: uint32(len(first)), End: uint32(len(row.Image))}
			rows = append(rows, row)
		}
		want := slices.Clone(rows)
		slices.SortStableFunc(want, func(x, y change.Row) int {
			return cmp.Or(naive(x.Value(0), y.Value(0)), naive(x.Value(1), y.Value(1)))
		})
		set := &change.RowSet{Table: table, Upserts: slices.Clone(rows), Deletes: slices.Clone(rows)}
		set.SortByKey()
		for half, got := range map[string][]change.Row{"upserts": set.Upserts, "deletes": set.Deletes} {
			if !slices.EqualFunc(got, want, func(x, y change.Row) bool { return string(x.Image) == string(y.Image) }) {
				t.Fatalf("%s are not in order: %d rows of %q", half, len(rows), family)
			}
		}
	}
}

// naive compares keys: missing values come first, then numbers by length and digits, then strings.
func naive(x, y []byte) int {
	rank := func(raw []byte) int {
		if len(raw) == 0 {
			return -1
		}
		if raw[0] == '"' {
			return math.MaxInt
		}
		return len(raw)
	}
	return cmp.Or(cmp.Compare(rank(x), rank(y)), bytes.Compare(x, y))
}
