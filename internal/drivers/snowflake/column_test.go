package snowflake

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// testColumn returns the encoder for column c of table t.
func testColumn(a attribute, adjusted func(table, column, rule string)) column {
	t := &sqlsink.Target{Slot: -1, Real: &sqlsink.Column{Name: "c", Type: "TYPE", Native: &a}}
	return newColumn(&sqlsink.Layout{Table: &schema.Table{Name: "t"}}, t, adjusted)
}

func TestColumn_EncodesValues(t *testing.T) {
	for _, c := range []struct {
		name      string
		attribute attribute
		raw, want string
		rule      string
		err       error
	}{
		{"text", attribute{kind: kindText}, `"it's \"\u0041\n"`, `"it's \"A\n"`, "", nil},
		{"a number as text", attribute{kind: kindText}, `12.50`, `"12.50"`, "", nil},
		{"NUL", attribute{kind: kindText}, `"a\u0000b"`, "\"a\uFFFDb\"", rules[sqlsink.ReplaceNUL].Name, nil},
		{"an integer of 38 digits", attribute{kind: kindFixed, precision: 38}, `12345678901234567890123456789012345678`, `"12345678901234567890123456789012345678"`, "", nil},
		{"an integer of 39 digits", attribute{kind: kindFixed, precision: 38}, `123456789012345678901234567890123456789`, "", "", value.ErrRange},
		{"an integer with an exponent", attribute{kind: kindFixed, precision: 38}, `-1.5e3`, `"-1500"`, "", nil},
		{"a fraction where there is none", attribute{kind: kindFixed, precision: 38}, `1.5`, "", "", value.ErrNotInteger},
		{"minus zero", attribute{kind: kindFixed, precision: 38}, `-0`, `"0"`, "", nil},
		{"a decimal", attribute{kind: kindFixed, precision: 38, scale: 18}, `-0.000000000000000001`, `"-0.000000000000000001"`, "", nil},
		{"a decimal that is rounded", attribute{kind: kindFixed, precision: 5, scale: 2}, `1.005`, `"1.01"`, rules[sqlsink.RoundDecimal].Name, nil},
		{"a decimal that is rounded out of range", attribute{kind: kindFixed, precision: 5, scale: 2}, `999.995`, "", "", value.ErrRange},
		{"a decimal that is rounded away", attribute{kind: kindFixed, precision: 5, scale: 2}, `-0.004`, `"0"`, rules[sqlsink.RoundDecimal].Name, nil},
		{"a decimal that is rounded up to one digit", attribute{kind: kindFixed, precision: 5, scale: 2}, `0.0099`, `"0.01"`, rules[sqlsink.RoundDecimal].Name, nil},
		{"a decimal far below", attribute{kind: kindFixed, precision: 5, scale: 2}, `1e-300`, `"0"`, rules[sqlsink.RoundDecimal].Name, nil},
		{"a float", attribute{kind: kindFloat}, `0.1`, `"1e-01"`, "", nil},
		{"a float of many digits", attribute{kind: kindFloat}, `0.1234567890123456789`, `"1.2345678901234568e-01"`, rules[sqlsink.RoundFloat].Name, nil},
		{"a float out of range", attribute{kind: kindFloat}, `1e400`, "", "", value.ErrRange},
		{"an instant", attribute{kind: kindTZ, precision: 9}, `"2026-01-02T03:04:05.123456+05:45"`, `"2026-01-01T21:19:05.123456+00:00"`, "", nil},
		{"an instant of nanoseconds", attribute{kind: kindNTZ, precision: 9}, `"2026-01-02T03:04:05.123456789Z"`, `"2026-01-02T03:04:05.123456"`, rules[sqlsink.CutSecond].Name, nil},
		{"an instant in a column of milliseconds", attribute{kind: kindNTZ, precision: 3}, `"2026-01-02T03:04:05.123456Z"`, `"2026-01-02T03:04:05.123000"`, rules[sqlsink.CutSecond].Name, nil},
		{"an instant in a column of milliseconds that fits", attribute{kind: kindNTZ, precision: 3}, `"2026-01-02T03:04:05.123Z"`, `"2026-01-02T03:04:05.123000"`, "", nil},
		{"a date", attribute{kind: kindDate}, `"2026-01-02"`, `"2026-01-02"`, "", nil},
		{"a date with a time", attribute{kind: kindDate}, `"2026-01-02T03:04:05Z"`, `"2026-01-02"`, rules[sqlsink.DropTime].Name, nil},
		{"milliseconds since 1970", attribute{kind: kindTZ, precision: 9}, `1767323045000`, "", "", value.ErrNotInstant},
		{"JSON", attribute{kind: kindVariant}, "{\"a\":\n[1, 1.0e2, \"x\\ny\"]}", `{"a": [1, 1.0e2, "x\ny"]}`, "", nil},
		{"JSON with a long number", attribute{kind: kindVariant}, `[123456789012345678901234567890123456789]`, `[123456789012345678901234567890123456789]`, rules[sqlsink.RoundJSON].Name, nil},
		{"JSON with 38 digits", attribute{kind: kindVariant}, `[12345678901234567890123456789012345678]`, `[12345678901234567890123456789012345678]`, "", nil},
		{"JSON with a huge number", attribute{kind: kindVariant}, `[1e400]`, "", "", value.ErrRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			rule := ""
			column := testColumn(c.attribute, func(_, _, r string) { rule = r })
			got, err := column.append(nil, []byte(c.raw))
			if !errors.Is(err, c.err) || err != nil && fault.Of(err) != fault.Poison {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" || rule != c.rule {
				t.Errorf("rule %q, want %q %s", rule, c.rule, diff)
			}
			key := column
			key.Key = true
			if _, err := key.append(nil, []byte(c.raw)); c.rule != "" && !errors.Is(err, sqlsink.ErrKeyChanged) {
				t.Errorf("in a key: %v", err)
			}
		})
	}
}

func TestColumn_RefusesLongText(t *testing.T) {
	c := testColumn(attribute{kind: kindText, length: 3}, nil)
	if _, err := c.append(nil, []byte(`"日本語"`)); err != nil {
		t.Error(err)
	}
	if _, err := c.append(nil, []byte(`"abcd"`)); err == nil || fault.Of(err) != fault.Poison {
		t.Errorf("want a poison error, got %v", err)
	}
}

func TestName(t *testing.T) {
	d := &dialect{}
	long := func(last string) string {
		name := ""
		for range 30 {
			name += "0123456789"
		}
		return name + last
	}
	if a, b := d.Name(long("a")), d.Name(long("b")); a == b || len(a) > maxName || d.Name(long("a")) != a {
		t.Errorf("long names become %q and %q", a, b)
	}
	if a, b := d.Name("a\tb"), d.Name("a\nb"); a == b {
		t.Errorf("two names become %q", a)
	}
	for name, want := range map[string]string{"shop": "SHOP", `"shop"`: "shop", `"a""b"`: `a"b`, "my-shop": "my-shop", "Shop_1$": "SHOP_1$"} {
		if got := identifier(name); got != want {
			t.Errorf("%s names %q, want %q", name, got, want)
		}
	}
}

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "snowflake", rules) }
