package verify_test

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/verify"
)

func column(t schema.Type) schema.Column { return schema.Column{Name: "c", Type: t} }

// TestCanonical_IsTheSameForEqualValues: all values in one line are equal, and differ from the
// values in every other line of the same type.
func TestCanonical_IsTheSameForEqualValues(t *testing.T) {
	for _, c := range []struct {
		kind  schema.Type
		lines [][]string
	}{
		{schema.String, [][]string{
			{`"a"`, `"\u0061"`},
			{`""`},
			{`"A"`},
			{`"a "`},
			{`"é"`, `"\u00e9"`},
			{`"e\u0301"`},
			{`"null"`},
			{`12.50`, `"12.50"`},
			{`"12.5"`},
			{`true`, `"true"`},
			{`"a\u0000b"`, `"a\ufffdb"`, `"a\ud83db"`, `"a\ude00b"`, "\"a\xffb\"", "\"a\xe2\x82b\"", `"a\ufffd\ufffdb"`},
			{`"ab"`},
			{`"\ud83d\ude00"`, `"😀"`},
		}},
		{schema.Enum, [][]string{{`"open"`}, {`"Open"`}}},
		{schema.Integer, [][]string{
			{`0`, `-0`, `0.0`, `"0"`, `0e5`},
			{`1`, `1.0`, `1e0`, `10e-1`, `"1"`, `"01"`, `"+1"`},
			{`-1`},
			{`100`, `1e2`, `1E+2`},
			{`9007199254740993`, `"9007199254740993"`},
			{`9007199254740992`},
			{`9223372036854775807`},
			{`9223372036854775808`},
			{`-9223372036854775808`},
			{`123456789012345678901234567890`},
			{`1e400`},
			{`1e99999`},
			{`1.5`},
			{`""`},
			{`"x"`},
			{`"1 "`},
			{`true`},
		}},
		{schema.Number, [][]string{
			{`0`, `-0.0`, `0.000`},
			{`0.1`, `0.10`, `1e-1`, `0.1000000000000000055`, `"0.1"`},
			{`0.12345678901234568`},
			{`0.12345678901234566`},
			{`9007199254740993`},
			{`9007199254740992`},
			{`9007199254740994`, `9007199254740993.5`, `9007199254740994.0`},
			{`9223372036854775808`, `9223372036854776000`, `9.223372036854775808e18`},
			{`9223372036854775807`},
			{`1e22`, `10000000000000000000000`},
			{`1e23`, `100000000000000000000000`},
			{`-1.5`, `-15e-1`},
			{`1e400`},
			{`5e-324`},
			{`"NaN"`},
			{`99999999999999.99`},
		}},
		{schema.Boolean, [][]string{{`true`, `1`, `"true"`, `1`}, {`false`, `0`, `"0"`}, {`2`}, {`"yes"`}}},
		{schema.DateTime, [][]string{
			{
				`"2026-01-02T03:04:05Z"`, `"2026-01-02T03:04:05.000000Z"`, `"2026-01-02 03:04:05"`, `"2026-01-02t04:04:05+01:00"`,
				`"2026-01-01T22:04:05-0500"`, `"2026-01-02 03:04:05+00"`, `"2026-01-02T08:49:05 +05:45"`,
			},
			{`"2026-01-02T03:04:05.123456Z"`, `"2026-01-02T03:04:05.123456999Z"`, `"2026-01-02 03:04:05.123456+00"`},
			{`"2026-01-02T03:04:05.123457Z"`},
			{`"2026-01-02"`, `"2026-01-02T00:00Z"`},
			{`"1969-12-31T23:59:59.999999Z"`, `"1969-12-31T23:59:59.9999999Z"`},
			{`"1899-12-30T00:00:00Z"`},
			{`"2038-01-19T03:14:08Z"`},
			{`"0001-01-01T00:00:00Z"`},
			{`"9999-12-31T23:59:59.999999Z"`},
			{`"2016-12-31T23:59:60Z"`, `"2017-01-01T00:00:00Z"`},
			{`"2025-02-29"`},
			{`"2026-13-01"`},
			{`"2026-01-02T25:00:00Z"`},
			{`"soon"`},
			{`""`},
			{`"2026-01-02x"`},
			{`"2026-01-02T03:04:05Z."`},
			{`1767323045`},
			{`"20260102"`},
			{`"10000-01-01T00:00:00Z"`},
			{`"2026-01-02T03:04:05.Z"`},
			{`"2026-01-02T03:04:05+1"`},
		}},
		{schema.Object, [][]string{
			{
				`{"a":1,"b":[true,null]}`, ` { "b" : [ true , null ] , "a" : 1.0 } `, `{"a":2,"b":[true,null],"a":1}`,
				`{"\u0061":1e0,"b":[true,null]}`,
			},
			{`{}`, `{ }`},
			{`[]`, `[ ]`},
			{`"text"`, `"\u0074ext"`},
			{`"{}"`},
			{`12`, `12.0`},
			{`"12"`},
			{`true`},
			{`"true"`},
			{`{"a":null}`},
			{`{"a":{"z":1,"y":{"b":2,"a":1}}}`, `{"a":{"y":{"a":1,"b":2},"z":1}}`},
			{`{"a":12345678901234567890.123456789}`},
			{`{"a":12345678901234567890.12345678}`},
			{`{"a":"x\u0000"}`, `{"a":"x\ufffd"}`},
			{`{"a\u0000":1}`, `{"a\ufffd":1}`},
			{`[1,2]`},
			{`[2,1]`},
			{`{"a":"","b":1}`},
			{`{"a":"\",\"b\":1"}`},
			{`1e999999999999`},
		}},
	} {
		seen := map[string]string{}
		for _, line := range c.lines {
			first, null := verify.Canonical(column(c.kind), []byte(line[0]))
			if null {
				t.Errorf("%v %s is null", c.kind, line[0])
			}
			if other, taken := seen[first]; taken {
				t.Errorf("%v: %s and %s are both %q", c.kind, line[0], other, first)
			}
			seen[first] = line[0]
			for _, same := range line[1:] {
				if got, _ := verify.Canonical(column(c.kind), []byte(same)); got != first {
					t.Errorf("%v: %s is %q, and %s is %q", c.kind, line[0], first, same, got)
				}
			}
		}
	}
}

func TestCanonical_TreatsNullAsAbsent(t *testing.T) {
	for kind := schema.String; kind <= schema.Array; kind++ {
		for _, raw := range [][]byte{nil, []byte("null")} {
			if text, null := verify.Canonical(column(kind), raw); text != "" || !null {
				t.Errorf("%v: %q, %v", kind, text, null)
			}
		}
		if text, null := verify.Canonical(column(kind), []byte(`""`)); null {
			t.Errorf("%v: an empty string is null, %q", kind, text)
		}
	}
}

func TestCanonical_OfInvalidJSONEqualsNoOther(t *testing.T) {
	for _, raw := range []string{``, `abc`, `"abc`, `"abc\`, `{"a":`, `[1,`, `1 2`, `"a" "b"`} {
		if got, null := verify.Canonical(column(schema.Object), []byte(raw)); null || got != "\x00"+raw {
			t.Errorf("%q: %q, %v", raw, got, null)
		}
	}
}

func TestCanonical_HandlesDepthAndSize(t *testing.T) {
	big := strings.Repeat("y", 10<<20)
	deep := strings.Repeat(`{"b":[`, rawjson.MaxDepth/2) + `"` + big + `"` + strings.Repeat(`]}`, rawjson.MaxDepth/2)
	for _, raw := range []string{
		deep, `{"a":"` + big + `","b":1}`, strings.Repeat("[", rawjson.MaxDepth) + strings.Repeat("]", rawjson.MaxDepth),
	} {
		if got, _ := verify.Canonical(column(schema.Object), []byte(raw)); got != raw {
			t.Errorf("%.10s... of %d bytes became %.10s... of %d", raw, len(raw), got, len(got))
		}
	}
}

// TestCanonical_IsExactForIntegers compares with big.Int.
func TestCanonical_IsExactForIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		digits := rapid.StringMatching(`-?[1-9][0-9]{0,60}`).Draw(t, "digits")
		zeros := rapid.IntRange(0, 20).Draw(t, "zeros")
		n, _ := new(big.Int).SetString(digits+strings.Repeat("0", zeros), 10)
		for _, kind := range []schema.Type{schema.Integer, schema.Number} {
			plain, _ := verify.Canonical(column(kind), []byte(n.String()))
			scaled, _ := verify.Canonical(column(kind), []byte(digits+"."+strings.Repeat("0", zeros)+"e"+big.NewInt(int64(zeros)).String()))
			other, _ := verify.Canonical(column(kind), []byte(new(big.Int).Add(n, big.NewInt(1)).String()))
			if zeros == 0 {
				scaled = plain // a dot needs digits
			}
			if plain != scaled || plain == other {
				t.Fatalf("%v: %q, %q, one more: %q", kind, plain, scaled, other)
			}
		}
	})
}

// TestCanonical_PreservesDoubles: a number from a DOUBLE column is equal to the original, in its
// shortest and in its longest form.
func TestCanonical_PreservesDoubles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		short, _ := verify.Canonical(column(schema.Number), strconv.AppendFloat(nil, f, 'e', -1, 64))
		long, _ := verify.Canonical(column(schema.Number), []byte(new(big.Float).SetFloat64(f).Text('f', 1100)))
		next, _ := verify.Canonical(column(schema.Number), strconv.AppendFloat(nil, math.Nextafter(f, math.Inf(1)), 'e', -1, 64))
		if short != long || short == next {
			t.Fatalf("%v: %q, %q, the next double: %q", f, short, long, next)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		`"a"`, `1.50e3`, `{"b":[1,"\ud800"],"a":{}}`, `"2026-01-02T03:04:05.123+01:00"`, "\"\xff\"", `true`, `{"a":1,"a":2}`, `-0.0`,
	} {
		for kind := schema.String; kind <= schema.Array; kind++ {
			f.Add(byte(kind), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, raw []byte) {
		c := column(schema.String + schema.Type(kind)%schema.Array)
		text, null := verify.Canonical(c, raw)
		if null || rawjson.Valid(raw) != nil {
			return
		}
		// The canonical text of a value is itself a valid value, whose canonical text is the same.
		again := []byte(text)
		if !c.Type.IsJSON() {
			again = rawjson.AppendQuoted(nil, text)
		}
		if err := rawjson.Valid(again); err != nil {
			t.Fatalf("%v %q: %q is not JSON: %v", c.Type, raw, text, err)
		}
		if second, _ := verify.Canonical(c, again); second != text && string(again) != "null" {
			t.Fatalf("%v %q: %q, then %q", c.Type, raw, text, second)
		}
	})
}
