package rawjson_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

var samples = []string{
	`{}`, `[]`, `0`, `-0`, `1.5e-7`, `12345678901234567890123`, `""`, `"a\"b\\c\/\b\f\n\r\t\u00e9\ud83d\ude00"`,
	`{"a":1,"b":[true,false,null,{"c":{}}]}`, " \t\r\n[1 , 2 ] ", `{"a" : "x" , "a" : "y"}`,
	`[[[[[[[[[[{"a":[{}]}]]]]]]]]]]`, `"0123456789abcdef0123456789\n0123456789"`,
	// These texts are not JSON.
	``, `{`, `}`, `[`, `]`, `{]`, `[}`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{1:1}`, `01`, `-`, `1.`, `.5`, `1e`, `1e+`,
	`+1`, `tru`, `nul`, `falsey`, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\n\"", "\"01234567\x01\"", `1 2`, `{} {}`, `[1 2]`,
	`{"a":1 "b":2}`, `NaN`, `'a'`,
	"\xef\xbb\xbf1", `[1]x`,
}

func TestValid_AgreesWithTheStandardLibrary(t *testing.T) {
	for _, s := range samples {
		got, want := rawjson.Valid([]byte(s)) == nil, json.Valid([]byte(s))
		if got != want {
			t.Errorf("Valid(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestCompact_FindsAllWhiteSpace(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: true, `{"a":1}`: true, `{"a b":"c d\" e"}`: true, `{"a":"\\"}`: true, `{"a":"\\\""}`: true, `"x y"`: true, `-1.5e+3`: true,
		`""`: true, `[[],{"a":[1,"b ",{}]}]`: true,
		`{ }`: false, `{"a": 1}`: false, `{"a" :1}`: false, `{"a":1,` + "\n" + `"b":2}`: false, `{"a":1` + "\r" + `,"b":2}`: false,
		`[1,2] `: false, ` "x"`: false, `{"a":"\\" }`: false,
		`["a\"b" ,1]`: false, `[[1,{"a":[` + "\t" + `]}]]`: false, `{"a":{"b" :1}}`: false, `{"a`: false, `1 1`: false,
	} {
		if got := rawjson.Compact([]byte(text)); got != want {
			t.Errorf("Compact(%s) = %v, want %v", text, got, want)
		}
		m, err := rawjson.OpenObject([]byte(text))
		if err != nil {
			continue
		}
		for m.NextName() {
			if !m.AtObject() && !m.SkipValue() {
				break
			} else if m.AtObject() {
				if _, ok := m.Object(nil, len(text)); !ok {
					break
				}
			}
		}
		if m.Err() == nil && m.Spaced() == want {
			t.Errorf("a walk of %s is spaced: %v, want %v", text, m.Spaced(), !want)
		}
	}
}

func TestObject_ReturnsNoMembersBeyondTheLimit(t *testing.T) {
	text := []byte(`{"row":{"a":1,"b":{"c":2},"d":3}}`)
	for limit, want := range map[int]int{2: 0, 3: 3, 4: 3} {
		m, err := rawjson.OpenObject(text)
		if err != nil || !m.NextName() {
			t.Fatal(err)
		}
		members, ok := m.Object(make([]rawjson.Member, 0, 8), limit)
		if !ok || len(members) != want || (want == 0) != (members == nil) || string(m.Value()) != `{"a":1,"b":{"c":2},"d":3}` {
			t.Errorf("limit %d: %v, %v, value %s", limit, members, ok, m.Value())
		}
	}
}

func TestSkip_BoundsDepthWithoutStack(t *testing.T) {
	deep := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if err := rawjson.Valid(deep(rawjson.MaxDepth)); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	if err := rawjson.Valid(deep(rawjson.MaxDepth + 1)); err != rawjson.ErrDepth {
		t.Errorf("past the bound: %v, want %v", err, rawjson.ErrDepth)
	}
}

func TestText_Unescapes(t *testing.T) {
	for raw, want := range map[string]string{
		`"plain"`:                  "plain",
		`"\u0041\ud83d\ude00\n\/"`: "A😀\n/",
		`"\ud83d alone"`:           "\ufffd alone",
		`"\ude00\ud83d"`:           "\ufffd\ufffd",
		`"\ud83d\u0041"`:           "\ufffdA",
		`"a\u0000b"`:               "a\x00b",
		`12.50`:                    "12.50",
		"\"\xff\"":                 "\xff",
	} {
		if got := string(rawjson.Text([]byte(raw))); got != want {
			t.Errorf("Text(%s) = %q, want %q", raw, got, want)
		}
	}
}

func TestAppendQuoted_RoundTrips(t *testing.T) {
	for _, s := range []string{"", "a", "\"\\/\b\f\n\r\t\x00\x1f", "é😀\u2028", strings.Repeat("x", 100)} {
		raw := rawjson.AppendQuoted(nil, s)
		if err := rawjson.Valid(raw); err != nil {
			t.Fatalf("AppendQuoted(%q) = %s: %v", s, raw, err)
		}
		if got := string(rawjson.Text(raw)); got != s {
			t.Errorf("AppendQuoted(%q) reads back as %q", s, got)
		}
	}
	if got, want := string(rawjson.AppendQuoted(nil, "a\xffb")), "\"a\ufffdb\""; got != want {
		t.Errorf("invalid UTF-8: %s, want %s", got, want)
	}
}

func TestMembers_AndElements(t *testing.T) {
	m, err := rawjson.OpenObject([]byte(` {"a":1,"\u0062":[2, 3] , "c" : null} `))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for m.Next() {
		got = append(got, string(m.Name())+"="+string(m.Value()))
	}
	if m.Err() != nil {
		t.Fatal(m.Err())
	}
	if diff := cmp.Diff([]string{"a=1", "b=[2, 3]", "c=null"}, got); diff != "" {
		t.Error(diff)
	}
	text := []byte(`[ "x" , {"y":[]} ,3]`)
	got = nil
	if err := rawjson.Elements(text, func(s rawjson.Span) error {
		got = append(got, string(text[s.Start:s.End]))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`"x"`, `{"y":[]}`, `3`}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, want := rawjson.Valid(b) == nil, json.Valid(b)
		if got != want {
			t.Fatalf("Valid(%q) = %v, encoding/json says %v", b, got, want)
		}
		if !got || b[rawjson.SkipSpace(b, 0)] != '"' {
			return
		}
		raw := b[rawjson.SkipSpace(b, 0):]
		end, err := rawjson.Skip(raw, 0)
		if err != nil {
			t.Fatal(err)
		}
		var want2 string
		if err := json.Unmarshal(raw, &want2); err != nil {
			t.Fatal(err)
		}
		if got := strings.ToValidUTF8(string(rawjson.Text(raw[:end])), "\ufffd"); strings.ReplaceAll(got, "\ufffd",
			"") != strings.ReplaceAll(want2, "\ufffd", "") {
			t.Fatalf("Text(%q) = %q, encoding/json says %q", raw[:end], got, want2)
		}
	})
}
