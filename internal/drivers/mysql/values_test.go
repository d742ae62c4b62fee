package mysql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// values are test cases for columns of every real type: a value of the source, the text of the
// value at the server, and the rule that adjusts the value. The text is "" if the value is refused.
var values = []struct{ real, source, raw, want, rule string }{
	{"tinyint(1)", "boolean", `true`, "1", ""},
	{"tinyint(1)", "boolean", `"false"`, "0", ""},
	{"tinyint(1)", "boolean", `"yes"`, "", ""},
	{"tinyint(1)", "enum", `"7"`, "7", ""},
	{"bigint", "integer", `9223372036854775807`, "9223372036854775807", ""},
	{"bigint", "integer", `9223372036854775808`, "", ""},
	{"bigint unsigned", "integer", `18446744073709551615`, "18446744073709551615", ""},
	{"bigint unsigned", "integer", `18446744073709551616`, "", ""},
	{"bigint", "boolean", `true`, "1", ""},
	{"double", "number", `5e-324`, "5e-324", ""},
	{"double", "number", `1.7976931348623157e308`, "1.7976931348623157e+308", ""},
	{"double", "number", `9007199254740993`, "9.007199254740992e+15", "mysql_float_precision"},
	{"double", "number", `1e400`, "", ""},
	{"double", "number", `"NaN"`, "", ""},
	{"decimal(6,2)", "number", `1234.5`, "1234.50", ""},
	{"decimal(6,2)", "number", `12.345`, "12.35", "mysql_decimal_scale"},
	{"decimal(6,2)", "number", `-12.344999`, "-12.34", "mysql_decimal_scale"},
	{"decimal(6,2)", "number", `9999.999`, "", ""},
	{"decimal(6,2)", "number", `0.004`, "0.00", "mysql_decimal_scale"},
	{"decimal(6,2)", "number", `12345`, "", ""},
	{"decimal(65,30)", "number", `9007199254740993.000000000000000000000000000001`, "9007199254740993.000000000000000000000000000001", ""},
	{"decimal(20,0)", "integer", `12345678901234567890`, "12345678901234567890", ""},
	{"double(7,2)", "number", `1.005`, "1.01", "mysql_decimal_scale"},
	{"bit(1)", "boolean", `true`, "\x01", ""},
	{"bit(8)", "integer", `65`, "A", ""},
	{"bit(8)", "integer", `256`, "", ""},

	{"datetime(6)", "date-time", `"2024-01-02T03:04:05.123456+05:30"`, "2024-01-01 21:34:05.123456", ""},
	{"datetime(6)", "date-time", `"2024-01-02T03:04:05.1234567Z"`, "2024-01-02 03:04:05.123456", "mysql_time_precision"},
	{"datetime(3)", "date-time", `"2024-01-02T03:04:05.123987Z"`, "2024-01-02 03:04:05.123", "mysql_time_precision"},
	{"datetime", "date-time", `"2024-01-02T03:04:05Z"`, "2024-01-02 03:04:05", ""},
	{"datetime", "date-time", `"1969-12-31T23:59:59.9Z"`, "1969-12-31 23:59:59", "mysql_time_precision"},
	{"datetime(6)", "date-time", `"0001-01-01T00:00:00Z"`, "0001-01-01 00:00:00.000000", ""},
	{"datetime(6)", "date-time", `"10000-01-01T00:00:00Z"`, "", ""},
	{"datetime(6)", "date-time", `"2024-02-30T00:00:00Z"`, "", ""},
	{"timestamp(6) NULL", "date-time", `"2026-03-29T02:30:00.5+01:00"`, "2026-03-29 01:30:00.500000", ""},
	{"timestamp NULL", "date-time", `"1970-01-01T00:00:00Z"`, "", ""},
	{"timestamp NULL", "date-time", `"2038-01-19T03:14:08Z"`, "", ""},
	{"date", "date-time", `"2024-01-02T23:30:00-01:00"`, "2024-01-03", "mysql_date_only"},
	{"date", "date-time", `"2024-01-03"`, "2024-01-03", ""},
	{"time", "enum", `"03:04:05"`, "03:04:05", ""},
	{"time", "enum", `"no time"`, "", ""},
	{"year", "integer", `2024`, "2024", ""},
	{"year", "integer", `20240`, "", ""},

	{"enum('a','b')", "enum", `"b"`, "b", ""},
	{"enum('a','b')", "enum", `"c"`, "", ""},
	{"set('a','b')", "enum", `"a,b"`, "a,b", ""},
	{"longtext", "string", `"tab\tline\nback\\slash \\N \u0000 quote'\" end"`, "tab\tline\nback\\slash \\N \x00 quote'\" end", ""},
	{"longtext", "string", `"\ud800"`, "\ufffd", "mysql_surrogate"},
	{"longtext", "string", "\"\xff\"", "\ufffd", "mysql_utf8"},
	{"longtext", "object", "{\"a\":\t\"\\ud800\\n\"}", "{\"a\":\t\"\\ud800\\n\"}", ""},
	{"json", "object", `{"b":1,"a":"\u0000\n"}`, `{"b":1,"a":"\u0000\n"}`, ""},
	{"json", "object", `"\ud800"`, "\"\ufffd\"", "mysql_surrogate"},
	{"json", "object", strings.Repeat("[", 40) + strings.Repeat("]", 40), "", ""},
	{"varbinary(4)", "string", `"\\x00ff0a09"`, "\x00\xff\n\t", ""},
	{"varbinary(4)", "string", `"\\x00ff0a0900"`, "", ""},
	{"varbinary(4)", "string", `"é"`, "é", ""},
	{"binary(3)", "string", `"ab"`, "ab\x00", "mysql_padding"},
	{"uuid", "string", `"123e4567-E89B-12d3-a456-426614174000"`, "123e4567-e89b-12d3-a456-426614174000", ""},
	{"uuid", "string", `"zzze4567-e89b-12d3-a456-426614174000"`, "", ""},
	{"inet6", "string", `"::1"`, "::1", ""},
}

func TestApply_StoresValuesUnchangedOrRefusesThem(t *testing.T) {
	for _, w := range ways {
		d := open(t, w.option)
		d.beside()
		for i, c := range values {
			t.Run(fmt.Sprintf("%d rows/%s/%s/%.30s", w.rows, w.option, c.real, c.raw), func(t *testing.T) {
				d.T = t
				name := fmt.Sprintf("value_%d", i)
				d.exec(fmt.Sprintf("CREATE TABLE %s (id varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, v %s)",
					name, c.real))
				source := sinktest.Table(t, name, 1, "id string", "v "+c.source)
				h := sinktest.NewChanges(t, 0)
				for r := range w.rows {
					h.Put(source, fmt.Sprintf(`{"id":"%d","v":%s}`, r, c.raw))
				}
				clear(d.Adjusted)
				err := d.Apply(t.Context(), h.Batch())
				if c.want == "" {
					if fault.Of(err) != fault.Poison {
						t.Fatalf("error %v of class %v, want poison", err, fault.Of(err))
					}
					if value := strings.Trim(c.raw, `"`); len(value) > 3 && strings.Contains(err.Error(), value) {
						t.Errorf("the error contains the value: %v", err)
					}
					sinktest.Equal(t, nil, d.query("SELECT id FROM "+name))
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				want := make([]string, w.rows)
				for r := range want {
					want[r] = c.want
				}
				sinktest.Equal(t, want, d.query("SELECT v FROM "+name))
				rules := make(map[string]int)
				if c.rule != "" {
					rules[c.rule] = w.rows
				}
				d.WantAdjusted(rules)
			})
		}
	}
}

func TestApply_ErrorsNameTheColumnNotTheValue(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		order := sinktest.Table(t, "order", 1, "id string", "n integer")
		err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","n":"secret"}`)...).Batch())
		want := `apply the batch: value of order.n (bigint(20)): it is not a number`
		if err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	})
}
