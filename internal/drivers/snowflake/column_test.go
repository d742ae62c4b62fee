package snowflake

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// testColumn returns the encoder for column c of table t.
func testColumn(a attribute, adjusted func(table, column, rule string)) columnEncoder {
	t := &sqlsink.Target{Slot: -1, Real: &sqlsink.RealColumn{Name: "c", Type: "TYPE", Native: &a}}
	return newColumnEncoder(&sqlsink.Layout{Table: &schema.Table{Name: "t"}}, t, adjusted)
}

func TestColumn_EncodesValues(t *testing.T) {
	text, variant := attribute{kind: kindText}, attribute{kind: kindVariant}
	integer, fraction := attribute{kind: kindFixed, precision: 38}, attribute{kind: kindFixed, precision: 38, scale: 18}
	money, float := attribute{kind: kindFixed, precision: 5, scale: 2}, attribute{kind: kindFloat}
	zoned, local := attribute{kind: kindTZ, precision: 9}, attribute{kind: kindNTZ, precision: 9}
	millis, date := attribute{kind: kindNTZ, precision: 3}, attribute{kind: kindDate}
	digits := func(n int) string { return strings.Repeat("1234567890", 4)[:n] }
	for _, c := range []struct {
		name      string
		attribute attribute
		raw, want string
		rule      string
		err       error
	}{
		{"text", text, `"it's \"\u0041\n"`, `"it's \"A\n"`, "", nil},
		{"number as text", text, `12.50`, `"12.50"`, "", nil},
		{"NUL", text, `"a\u0000b"`, "\"a\uFFFDb\"", "snowflake_nul", nil},
		{"38 digits", integer, digits(38), `"` + digits(38) + `"`, "", nil},
		{"39 digits", integer, digits(39), "", "", value.ErrRange},
		{"exponent", integer, `-1.5e3`, `"-1500"`, "", nil},
		{"fraction for an integer", integer, `1.5`, "", "", value.ErrNotInteger},
		{"minus zero", integer, `-0`, `"0"`, "", nil},
		{"decimal", fraction, `-0.000000000000000001`, `"-0.000000000000000001"`, "", nil},
		{"rounded", money, `1.005`, `"1.01"`, "snowflake_number_scale", nil},
		{"rounded out of range", money, `999.995`, "", "", value.ErrRange},
		{"rounded to zero", money, `-0.004`, `"0"`, "snowflake_number_scale", nil},
		{"rounded up to one digit", money, `0.0099`, `"0.01"`, "snowflake_number_scale", nil},
		{"far below the scale", money, `1e-300`, `"0"`, "snowflake_number_scale", nil},
		{"float", float, `0.1`, `"1e-01"`, "", nil},
		{"float of many digits", float, `0.1234567890123456789`, `"1.2345678901234568e-01"`, "snowflake_float_precision", nil},
		{"float out of range", float, `1e400`, "", "", value.ErrRange},
		{"instant", zoned, `"2026-01-02T03:04:05.123456+05:45"`, `"2026-01-01T21:19:05.123456+00:00"`, "", nil},
		{
			"nanoseconds", local, `"2026-01-02T03:04:05.123456789Z"`, `"2026-01-02T03:04:05.123456"`,
			"snowflake_time_precision", nil,
		},
		{
			"microseconds for milliseconds", millis, `"2026-01-02T03:04:05.123456Z"`, `"2026-01-02T03:04:05.123000"`,
			"snowflake_time_precision", nil,
		},
		{"milliseconds", millis, `"2026-01-02T03:04:05.123Z"`, `"2026-01-02T03:04:05.123000"`, "", nil},
		{"date", date, `"2026-01-02"`, `"2026-01-02"`, "", nil},
		{"instant for a date", date, `"2026-01-02T03:04:05Z"`, `"2026-01-02"`, "snowflake_date_only", nil},
		{"milliseconds since 1970", zoned, `1767323045000`, "", "", value.ErrNotInstant},
		{"JSON", variant, "{\"a\":\n[1, 1.0e2, \"x\\ny\"]}", `{"a": [1, 1.0e2, "x\ny"]}`, "", nil},
		{"JSON with 39 digits", variant, "[" + digits(39) + "]", "[" + digits(39) + "]", "snowflake_json_number", nil},
		{"JSON with 38 digits", variant, "[" + digits(38) + "]", "[" + digits(38) + "]", "", nil},
		{"JSON with a huge number", variant, `[1e400]`, "", "", value.ErrRange},
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
	for name, want := range map[string]string{
		"shop": "SHOP", `"shop"`: "shop", `"a""b"`: `a"b`, "my-shop": "my-shop", "Shop_1$": "SHOP_1$",
	} {
		if got := identifier(name); got != want {
			t.Errorf("%s names %q, want %q", name, got, want)
		}
	}
}

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "snowflake", rules) }
