package change_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// keyed returns a table whose primary key consists of the given columns.
func keyed(t *testing.T, key ...string) *schema.Table {
	t.Helper()
	columns := []schema.Column{{Name: "v", Type: schema.String}}
	for _, name := range []string{"id", "company", "code"} {
		columns = append(columns, schema.Column{Name: name, Type: schema.String})
	}
	table, err := schema.New("order", "1", key, columns)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func decoded(t *testing.T, members string) *cdc.Event {
	t.Helper()
	var e cdc.Event
	if err := cdc.NewDecoder().Decode(&e, []byte(`{"table":"order",`+members+`}`), ""); err != nil {
		t.Fatal(err)
	}
	return &e
}

func effectOf(t *testing.T, table *schema.Table, e *cdc.Event) change.Effect {
	t.Helper()
	effect, err := change.NewSplitter(table).Effect(e)
	if err != nil {
		t.Fatal(err)
	}
	return effect
}

// TestLetterKeys_MeetTheKeysOfChangesOfTheRow compares the keys of a dead letter, with and without
// a known layout, with the keys of a later change.
func TestLetterKeys_MeetTheKeysOfChangesOfTheRow(t *testing.T) {
	const (
		update = `"operation":"UPDATE",`
		remove = `"operation":"DELETE",`
		upper  = "0F8FAD5B-D9CB-469F-A165-70867728950E"
	)
	lower := strings.ToLower(upper)
	id, both, code := []string{"id"}, []string{"company", "id"}, []string{"code"}
	for name, c := range map[string]struct {
		key             []string
		letter, applied string
		same            bool
	}{
		"same id":              {id, update + `"key":["1"],"after":{"id":"1"}`, update + `"key":["1"],"after":{"id":"1"}`, true},
		"another id":           {id, update + `"key":["1"],"after":{"id":"1"}`, update + `"key":["2"],"after":{"id":"2"}`, false},
		"key and id":           {id, remove + `"key":["1"]`, update + `"after":{"id":"1"}`, true},
		"id and key":           {id, update + `"after":{"id":"1"}`, remove + `"key":["1"]`, true},
		"id of the row before": {id, remove + `"before":{"id":"1"}`, remove + `"key":["1"]`, true},
		"longer key":           {id, update + `"key":["c","1"],"after":{"id":"1"}`, update + `"after":{"id":"1"}`, true},
		"another of the company": {
			id, update + `"key":["c","1"],"after":{"id":"1"}`, update + `"key":["c","2"],"after":{"id":"2"}`,
			false,
		},
		"number and string":     {id, update + `"key":[7],"after":{"id":7}`, update + `"key":["7"],"after":{"id":"7"}`, true},
		"spellings of a number": {id, update + `"key":[7.0],"after":{"id":7e0}`, update + `"key":["7"],"after":{"id":"7"}`, true},
		"large numbers":         {id, remove + `"key":[9007199254740993]`, remove + `"key":[9007199254740992]`, false},
		"escapes":               {id, remove + `"key":["\u0061"]`, remove + `"key":["a"]`, true},
		"case":                  {id, remove + `"key":["A"]`, remove + `"key":["a"]`, false},
		"spellings of a UUID":   {id, remove + fmt.Sprintf(`"key":[%q]`, upper), remove + fmt.Sprintf(`"key":[%q]`, lower), true},
		"UUID in braces":        {id, remove + fmt.Sprintf(`"key":["{%s}"]`, upper), remove + fmt.Sprintf(`"key":[%q]`, lower), true},
		"UUID without hyphens": {
			id, remove + fmt.Sprintf(`"key":[%q]`, strings.ReplaceAll(upper, "-", "")),
			remove + fmt.Sprintf(`"key":[%q]`, lower), true,
		},
		"almost a UUID": {
			id, remove + fmt.Sprintf(`"key":["%sG"]`, upper), remove + fmt.Sprintf(`"key":["%sg"]`, lower),
			false,
		},
		"composite": {
			both, update + `"key":["c","1"],"after":{"company":"c","id":"1"}`, remove + `"key":["c","1"]`,
			true,
		},
		"another first column": {
			both, update + `"key":["c","1"],"after":{"company":"c","id":"1"}`, remove + `"key":["d","1"]`,
			false,
		},
		"ambiguous": {both, remove + `"key":["ab","c"]`, remove + `"key":["a","bc"]`, false},
		"composite, without keys": {
			both, update + `"after":{"company":"c","id":"1"}`, update + `"after":{"company":"c","id":"1"}`,
			true,
		},
		"composite, of longer keys": {
			both, update + `"key":["r","c","1"],"after":{"company":"c","id":"1"}`,
			update + `"key":["r","c","1"],"after":{"company":"c","id":"1"}`, true,
		},
		"not called id":          {code, update + `"key":["x"],"after":{"code":"x"}`, remove + `"key":["x"]`, true},
		"not called id, no keys": {code, update + `"after":{"code":"x","id":"1"}`, update + `"after":{"code":"x","id":"1"}`, true},
		"letter moves from":      {id, update + `"key":["2"],"before":{"id":"1"},"after":{"id":"2"}`, remove + `"key":["1"]`, true},
		"letter moves to":        {id, update + `"key":["2"],"before":{"id":"1"},"after":{"id":"2"}`, remove + `"key":["2"]`, true},
		"letter moves elsewhere": {id, update + `"key":["2"],"before":{"id":"1"},"after":{"id":"2"}`, remove + `"key":["3"]`, false},
		"code moves from": {
			code, update + `"key":["y"],"before":{"code":"x"},"after":{"code":"y"}`, remove + `"key":["x"]`,
			true,
		},
		"code moves, key from": {
			code, update + `"key":["x"],"before":{"code":"x"},"after":{"code":"y"}`, remove + `"key":["y"]`,
			true,
		},
		"change moves from": {id, remove + `"key":["1"]`, update + `"key":["2"],"before":{"id":"1"},"after":{"id":"2"}`, true},
		"change moves to":   {id, remove + `"key":["2"]`, update + `"key":["2"],"before":{"id":"1"},"after":{"id":"2"}`, true},
		"composite moves from": {
			both, update + `"key":["d","1"],"before":{"company":"c","id":"1"},"after":{"company":"d","id":"1"}`,
			remove + `"key":["c","1"]`, true,
		},
		"composite does not move": {both, update + `"key":["c","1"],"before":{"company":"c","id":"1","v":"a"},"after":{"company":"c",` +
			`"id":"1","v":"b"}`, remove + `"key":["d","1"]`, false},
		"composite moves by spelling": {
			both, update + `"key":["7","1"],"before":{"company":7,"id":"1"},"after":{"company":"7","id":"1"}`,
			remove + `"key":["d","1"]`, false,
		},
	} {
		table := keyed(t, c.key...)
		letter, applied := decoded(t, c.letter), decoded(t, c.applied)
		keys := change.RowKeys(applied, effectOf(t, table, applied))
		for layout, effect := range map[string]change.Effect{"unknown": {}, "known": effectOf(t, table, letter)} {
			got, _ := change.LetterKeys(letter, effect)
			meet := len(got) == 0 || slices.ContainsFunc(got, func(key string) bool { return slices.Contains(keys, key) })
			if meet != c.same {
				t.Errorf("%s, layout %s: keys %v and %v of a change", name, layout, got, keys)
			}
		}
		if c.same && len(c.key) == 1 { // history sinks have no layouts
			if got, _ := change.LetterKeys(letter, change.Effect{}); !slices.ContainsFunc(got,
				func(key string) bool { return slices.Contains(change.RowKeys(applied, change.Effect{}), key) }) {
				t.Errorf("%s: without layouts, the keys differ", name)
			}
		}
	}
}

func TestLetterKeys_AreNoneOfAnEventWithoutAKey(t *testing.T) {
	for _, members := range []string{
		`"operation":"UPDATE"`, `"operation":"DELETE","key":[null]`,
		`"operation":"UPDATE","key":[],"after":{"v":1}`, `"operation":"UPDATE","after":{"id":null}`,
	} {
		e := decoded(t, members)
		if got, rows := change.LetterKeys(e, change.Effect{}); got != nil || rows != nil {
			t.Errorf("%s has the keys %v, of rows %v", members, got, rows)
		}
		if got := change.RowKeys(e, change.Effect{}); got != nil {
			t.Errorf("%s has the keys %v", members, got)
		}
	}
}

// TestLetterKeys_TellWhichRowAKeyIsOf checks that the keys are assigned to rows if the assignment
// is known.
func TestLetterKeys_TellWhichRowAKeyIsOf(t *testing.T) {
	const move = `"operation":"UPDATE","key":["2"],"before":{"id":"1"},"after":{"id":"2"}`
	id, both := []string{"id"}, []string{"company", "id"}
	key := func(id string) string {
		keys, _ := change.LetterKeys(decoded(t, `"operation":"DELETE","key":["`+id+`"]`), change.Effect{})
		return keys[0]
	}
	for name, c := range map[string]struct {
		key    []string
		letter string
		layout bool
		want   [][]string
	}{
		"stays, layout known":    {id, `"operation":"UPDATE","key":["1"],"after":{"id":"1"}`, true, [][]string{{key("1")}}},
		"stays, layout unknown":  {id, `"operation":"UPDATE","key":["1"],"after":{"id":"1"}`, false, [][]string{{key("1")}}},
		"moves, layout known":    {id, move, true, [][]string{{key("2")}, {key("1")}}},
		"moves, layout unknown":  {id, move, false, [][]string{{key("2")}, {key("1")}}},
		"moves, no key, unknown": {id, `"operation":"UPDATE","before":{"id":"1"},"after":{"id":"2"}`, false, nil},
		"two candidates, layout unknown": {
			id, `"operation":"UPDATE","key":["2"],"before":{"id":"1","n":"3"},"after":{"id":"2","n":"2"}`,
			false, nil,
		},
		// The key 2 does not identify the row, because it may be the key of another row.
		"keyed by another column": {
			[]string{"code"},
			`"operation":"UPDATE","key":["1"],"after":{"id":"2","code":"1"}`, false,
			[][]string{{key("1")}},
		},
		"composite moves, unknown": {
			both,
			`"operation":"UPDATE","key":["d","1"],"before":{"company":"c","id":"1"},"after":{"company":"d","id":"1"}`, false, nil,
		},
	} {
		e := decoded(t, c.letter)
		effect := change.Effect{}
		if c.layout {
			effect = effectOf(t, keyed(t, c.key...), e)
		}
		keys, rows := change.LetterKeys(e, effect)
		if diff := cmp.Diff(c.want, rows); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, key := range slices.Concat(rows...) {
			if !slices.Contains(keys, key) {
				t.Errorf("%s: the keys lack that of a row", name)
			}
		}
	}
}

func TestEffect_Without(t *testing.T) {
	e := decoded(t, `"operation":"UPDATE","key":["2"],"before":{"id":"1"},"after":{"id":"2"}`)
	effect := effectOf(t, keyed(t, "id"), e)
	_, rows := change.LetterKeys(e, effect)
	for name, c := range map[string]struct {
		keys           []string
		upsert, delete bool
	}{
		"none":    {nil, true, true},
		"another": {[]string{"x"}, true, true},
		"written": {rows[0], false, true},
		"deleted": {rows[1], true, false},
		"both":    {slices.Concat(rows...), false, false},
	} {
		if got := effect.Without(c.keys); (got.Upsert != nil) != c.upsert || (got.Delete != nil) != c.delete {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
