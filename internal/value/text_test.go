package value_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/value"
)

func TestAppendText_NamesReplacedFlaws(t *testing.T) {
	for _, c := range []struct {
		raw, text string
		flaws     value.Flaw
		nulStays  string // the text if NUL is kept
	}{
		{raw: `"plain"`, text: "plain"},
		{raw: `"\u0041\ud83d\ude00\n\/\b\f\r\t\"\\"`, text: "A😀\n/\b\f\r\t\"\\"},
		{raw: `"a\u0000b"`, text: "a\ufffdb", flaws: value.NUL, nulStays: "a\x00b"},
		{raw: `"\ud83d alone"`, text: "\ufffd alone", flaws: value.Surrogate},
		{raw: `"\ude00\ud83d"`, text: "\ufffd\ufffd", flaws: value.Surrogate},
		{raw: "\"a\xffb\"", text: "a\ufffdb", flaws: value.UTF8},
		{
			raw: "\"\\u0000\xff\\udfff\"", text: "\ufffd\ufffd\ufffd", flaws: value.NUL | value.UTF8 | value.Surrogate,
			nulStays: "\x00\ufffd\ufffd",
		},
		{raw: `"\ufffd"`, text: "\ufffd"}, // U+FFFD in the source is not a flaw
		{raw: `12.50`, text: "12.50"},
		{raw: `{"a":"\u0000"}`, text: `{"a":"\u0000"}`}, // the text of a value that is not a string
	} {
		text, flaws := value.AppendText([]byte("> "), []byte(c.raw), 0)
		if string(text) != "> "+c.text || flaws != c.flaws {
			t.Errorf("%s: %q with flaws %b, want %q with %b", c.raw, text, flaws, c.text, c.flaws)
		}
		want := c.text
		if c.nulStays != "" {
			want = c.nulStays
		}
		text, flaws = value.AppendText(nil, []byte(c.raw), value.NUL)
		if string(text) != want || flaws != c.flaws&^value.NUL {
			t.Errorf("%s with U+0000 kept: %q with flaws %b, want %q", c.raw, text, flaws, want)
		}
	}
}

func TestAppendJSON_KeepsTheText(t *testing.T) {
	for _, c := range []struct {
		raw, text string
		flaws     value.Flaw
	}{
		{raw: `{"a":[1.50,"\u0041\n"]}`, text: `{"a":[1.50,"\u0041\n"]}`},
		{raw: `{"a\u0000":"\ud800"}`, text: "{\"a\ufffd\":\"\ufffd\"}", flaws: value.NUL | value.Surrogate},
		{raw: `"\ud83d\ude00"`, text: `"\ud83d\ude00"`},
		{raw: "[\"\xff\\\\\"]", text: "[\"\ufffd\\\\\"]", flaws: value.UTF8},
	} {
		if text, flaws := value.AppendJSON(nil, []byte(c.raw), 0); string(text) != c.text || flaws != c.flaws {
			t.Errorf("%s: %s with flaws %b, want %s with %b", c.raw, text, flaws, c.text, c.flaws)
		}
		stay := value.NUL | value.Surrogate
		if text, flaws := value.AppendJSON(nil, []byte(c.raw), stay); flaws != c.flaws&^stay || c.flaws&value.UTF8 == 0 &&
			string(text) != c.raw {
			t.Errorf("%s with everything kept: %s with flaws %b", c.raw, text, flaws)
		}
	}
}

// FuzzText checks that AppendText returns the same text as encoding/json, and that the text is
// valid UTF-8.
func FuzzText(f *testing.F) {
	for _, s := range []string{`"a\u0000\ud83d\ude00\ud83d"`, "\"\xff\xfe\"", `"\n\/"`, `""`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !rawjson.IsString(raw) || rawjson.Valid(raw) != nil || raw[len(raw)-1] != '"' {
			return
		}
		text, flaws := value.AppendText(nil, raw, value.NUL)
		if !utf8.Valid(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
		var want string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if string(text) != want {
			t.Fatalf("%s: %q, encoding/json reads %q", raw, text, want)
		}
		if made := strings.Contains(want, value.Replacement); flaws != 0 && !made {
			t.Fatalf("%s: flaws %b, and nothing was replaced in %q", raw, flaws, text)
		}
		kept, _ := value.AppendJSON(nil, raw, 0)
		if rawjson.Valid(kept) != nil || !utf8.Valid(kept) {
			t.Fatalf("%q is not JSON", kept)
		}
		if again, more := value.AppendJSON(nil, kept, 0); string(again) != string(kept) || more != 0 {
			t.Fatalf("%q becomes %q, with flaws %b", kept, again, more)
		}
	})
}
