package change_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func TestSplit_FindsColumnsInAnyOrder(t *testing.T) {
	s := change.NewSplitter(table(t, "1", "id", "a", "b"))
	var unknown []string
	s.Unknown = func(name []byte) { unknown = append(unknown, string(name)) }
	for _, c := range []struct {
		image string
		want  []string
	}{
		{`{"id":"1","a":"x","b":[1]}`, []string{`"1"`, `"x"`, `[1]`}},
		{`{"b":null,"id":"2"}`, []string{`"2"`, ``, `null`}},
		{`{"a":1,"a":2,"other":3,"\u0069d":"3"}`, []string{`"3"`, `2`, ``}},
		{`{}`, []string{``, ``, ``}},
		{`{"id":"1","a":"x","b":[1]}`, []string{`"1"`, `"x"`, `[1]`}},
	} {
		spans, err := s.Split([]byte(c.image))
		if err != nil {
			t.Fatal(err)
		}
		row := change.Row{Image: []byte(c.image), Spans: spans}
		got := []string{string(row.Value(0)), string(row.Value(1)), string(row.Value(2))}
		if diff := gocmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.image, diff)
		}
	}
	if diff := gocmp.Diff([]string{"other"}, unknown); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{``, `[]`, `{"id":}`, `{"id":"1"} x`, `null`} {
		if _, err := s.Split([]byte(bad)); err == nil {
			t.Errorf("Split(%q) is no error", bad)
		}
	}
}

func TestEffect_FindsTheKey(t *testing.T) {
	one := table(t, "1", "id", "a")
	two, err := schema.New("order", "2", []string{"company", "id"}, []schema.Column{
		{Name: "id", Type: schema.String},
		{Name: "company", Type: schema.String},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		table   *schema.Table
		payload string
		want    []string // nil if an error is expected
	}{
		"insert":                {one, `{"operation":"INSERT","after":{"id":"1","a":"x"}}`, []string{`1 put id="1" a="x"`}},
		"key only in the event": {one, `{"operation":"INSERT","key":["c","9"],"after":{"a":"x"}}`, []string{`1 put id="9" a="x"`}},
		"delete by image":       {one, `{"operation":"DELETE","before":{"id":"1"}}`, []string{`1 del "1"`}},
		"delete by key":         {one, `{"operation":"DELETE","key":["c","1"]}`, []string{`1 del "1"`}},
		"delete, poor image":    {one, `{"operation":"DELETE","key":["1"],"before":{"a":"x"}}`, []string{`1 del "1"`}},
		"composite":             {two, `{"operation":"INSERT","after":{"id":"1","company":"c"}}`, []string{`2 put company="c" id="1"`}},
		"composite key":         {two, `{"operation":"DELETE","key":["c","1"]}`, []string{`2 del "c"`}},
		"composite, half a key": {two, `{"operation":"INSERT","key":["c","1"],"after":{"id":"1"}}`, []string{`2 put company="c" id="1"`}},
		"composite, short key":  {two, `{"operation":"DELETE","key":["1"]}`, nil},
		"the key moved": {
			one, `{"operation":"UPDATE","before":{"id":"1"},"after":{"id":"2"},"diff":["id"]}`,
			[]string{`1 put id="2"`, `1 del "1"`},
		},
		"the key moved, no diff": {one, `{"operation":"UPDATE","before":{"id":"1"},"after":{"id":"2"}}`, []string{
			`1 put id="2"`,
			`1 del "1"`,
		}},
		"the key has another spelling": {
			one, `{"operation":"UPDATE","before":{"id":"A"},"after":{"id":"\u0041"}}`,
			[]string{`1 put id="\u0041"`},
		},
		"diff names no change":    {one, `{"operation":"UPDATE","after":{"id":"1"},"diff":["a"]}`, []string{`1 put id="1"`}},
		"no image":                {one, `{"operation":"UPDATE","key":["1"]}`, nil},
		"no key":                  {one, `{"operation":"INSERT","after":{"a":"x"}}`, nil},
		"null key":                {one, `{"operation":"DELETE","key":[null]}`, nil},
		"null key in the image":   {one, `{"operation":"INSERT","after":{"id":null}}`, nil},
		"delete, nothing at all":  {one, `{"operation":"DELETE"}`, nil},
		"delete, image cut short": {one, `{"operation":"DELETE","before":{}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := event(t, 1, strings.Replace(c.payload, "{", `{"table":"order",`, 1))
			effect, err := change.NewSplitter(c.table).Effect(e)
			if err != nil {
				if c.want != nil {
					t.Fatal(err)
				}
				return
			}
			var b change.Builder
			b.Add(e, effect)
			if diff := gocmp.Diff(c.want, show(b.Batch())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSplit_FindsColumnsAmongAnyMembers splits rows that have more members, and longer names, than
// a Splitter remembers.
func TestSplit_FindsColumnsAmongAnyMembers(t *testing.T) {
	s := change.NewSplitter(table(t, "1", "id", "a", "b"))
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"x%d":%d,`, i, i)
	}
	long := strings.Repeat("n", 1000)
	for name, image := range map[string]string{
		"plain":            `{"id":"1","a":"2","b":"3"}`,
		"after many":       `{` + many.String() + `"b":"3","a":"2","id":"1"}`,
		"before many":      `{"id":"1","a":"2","b":"3",` + strings.TrimSuffix(many.String(), ",") + `}`,
		"among long names": `{"` + long + `":1,"id":"1","` + long + `2":1,"a":"2","` + long + `3":1,"b":"3"}`,
		"the last counts":  `{"id":"0",` + many.String() + `"id":"1","a":"2","b":"3"}`,
	} {
		for range 2 {
			spans, err := s.Split([]byte(image))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, span := range spans {
				got = append(got, image[span.Start:span.End])
			}
			if text := strings.Join(got, " "); text != `"1" "2" "3"` {
				t.Errorf("%s: %.100s", name, text)
			}
		}
	}
}

func TestEffect_TakesARowOfAnyNumberOfMembers(t *testing.T) {
	var many strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&many, `"x%d":%d,`, i, i)
	}
	d := cdc.NewDecoder()
	d.Members = true
	var e cdc.Event
	if err := d.Decode(&e, []byte(`{"table":"order","operation":"INSERT","after":{`+many.String()+`"id":"1","a":"2"}}`), ""); err != nil {
		t.Fatal(err)
	}
	if e.Members != nil {
		t.Errorf("%d members are recorded", len(e.Members))
	}
	got, err := change.NewSplitter(table(t, "1", "id", "a")).Effect(&e)
	if err != nil || string(got.Upsert.Value(0)) != `"1"` || string(got.Upsert.Value(1)) != `"2"` {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestEffect_FindsAKeyApartInTheEvent checks that a missing key is taken from elsewhere in the
// event. Appending the key to a large row would double the memory of the row.
func TestEffect_FindsAKeyApartInTheEvent(t *testing.T) {
	e := event(t, 2, `{"table":"order","operation":"INSERT","key":["c","9"],"after":{"a":"x"}}`)
	effect, err := change.NewSplitter(table(t, "1", "id", "a")).Effect(e)
	if err != nil {
		t.Fatal(err)
	}
	row := effect.Upsert
	if string(row.Value(0)) != `"9"` || string(row.Value(1)) != `"x"` || &row.Image[0] != &e.Payload[0] {
		t.Errorf("the row %s has the values %s and %s", row.Image, row.Value(0), row.Value(1))
	}
}

func TestEffect_RefusesALargeKey(t *testing.T) {
	for size, want := range map[int]string{
		change.MaxKey: "", change.MaxKey + 1: `the value of "id" of the primary key is larger than 1 MiB`,
	} {
		key := `"` + strings.Repeat("k", size-2) + `"`
		for _, payload := range []string{
			`{"table":"order","operation":"INSERT","after":{"id":` + key + `}}`,
			`{"table":"order","operation":"INSERT","key":[` + key + `],"after":{"a":"x"}}`,
			`{"table":"order","operation":"DELETE","before":{"id":` + key + `}}`,
			`{"table":"order","operation":"DELETE","key":[` + key + `]}`,
			`{"table":"order","operation":"UPDATE","before":{"id":` + key + `},"after":{"id":"2"}}`,
		} {
			_, err := change.NewSplitter(table(t, "1", "id", "a")).Effect(event(t, 1, payload))
			if got := fmt.Sprint(err); got != cmp.Or(want, "<nil>") {
				t.Errorf("%.80s of %d bytes: %s, want %q", payload, size, got, want)
			}
		}
	}
}
