package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// valueCase is a test case: a value for a column of a real type. The field want is the text of the
// value at the server, or "" if the row is poison.
type valueCase struct {
	real, source string
	raw          string
	want         string
	rule         string // the rule that adjusts the value, or ""
}

var values = []valueCase{
	{real: "text", source: "string", raw: `"plain"`, want: "plain"},
	{real: "text", source: "string", raw: `""`, want: ``},
	{real: "text", source: "string", raw: `null`, want: `NULL`},
	{real: "text", source: "string", raw: `"O'Neil \"q\" $$tag$$ \\ ; DROP TABLE t --"`, want: `O'Neil "q" $$tag$$ \ ; DROP TABLE t --`},
	{real: "text", source: "string", raw: `"tab\tline\nreturn\r\b\f\/\u00e9\ud83d\ude00"`, want: "tab\tline\nreturn\r\b\f/é😀"},
	{real: "text", source: "string", raw: `"2024-02-30T99:00:00Z"`, want: "2024-02-30T99:00:00Z"},
	{real: "text", source: "string", raw: `"a\u0000b"`, want: "a\ufffdb", rule: "postgres_nul"},
	{real: "text", source: "string", raw: `"a\ud800b"`, want: "a\ufffdb", rule: "postgres_surrogate"},
	{real: "text", source: "string", raw: `"a\ud800\u0041"`, want: "a\ufffdA", rule: "postgres_surrogate"},
	{real: "text", source: "string", raw: `"\udc00\ud800"`, want: "\ufffd\ufffd", rule: "postgres_surrogate"},
	{real: "text", source: "string", raw: "\"a\xff\\nb\"", want: "a\ufffd\nb", rule: "postgres_utf8"},
	{real: "text", source: "string", raw: "\"a\xffb\"", want: "a\ufffdb", rule: "postgres_utf8"},
	{real: "text", source: "string", raw: `12.50`, want: "12.50"},
	{real: "text", source: "string", raw: `true`, want: "true"},
	{real: "text", source: "object", raw: `{"a": [1, "\u0000"]}`, want: `{"a": [1, "\u0000"]}`},
	{real: "text", source: "string", raw: `"NULL"`, want: "NULL "},
	{real: "varchar(3)", source: "string", raw: `"日本語"`, want: "日本語"},
	{real: "varchar(3)", source: "string", raw: `"four"`},
	{real: "varchar(3)", source: "string", raw: `"ab   "`},
	{real: "char(4)", source: "string", raw: `"ab"`, want: "ab"},
	{real: "char(4)", source: "string", raw: `"abcde"`},
	{real: "citext", source: "string", raw: `"MiXed"`, want: "MiXed"},
	{real: "bit(4)", source: "string", raw: `"0101"`, want: "0101"},
	{real: "bit(4)", source: "string", raw: `"01011"`},
	{real: "mood", source: "enum", raw: `"happy"`, want: "happy"},
	{real: "mood", source: "enum", raw: `"angry"`},
	{real: "shortname", source: "string", raw: `"abc"`, want: "abc"},
	{real: "shortname", source: "string", raw: `"abcdef"`},
	{real: "positive", source: "integer", raw: `7`, want: "7"},
	{real: "positive", source: "integer", raw: `-7`},

	{real: "bigint", source: "integer", raw: `9223372036854775807`, want: "9223372036854775807"},
	{real: "bigint", source: "integer", raw: `-9223372036854775808`, want: "-9223372036854775808"},
	{real: "bigint", source: "integer", raw: `9223372036854775808`},
	{real: "bigint", source: "integer", raw: `123456789012345678901234567890`},
	{real: "bigint", source: "integer", raw: `9007199254740993`, want: "9007199254740993"},
	{real: "bigint", source: "integer", raw: `12.0`, want: "12"},
	{real: "bigint", source: "integer", raw: `1e3`, want: "1000"},
	{real: "bigint", source: "integer", raw: `-0`, want: "0"},
	{real: "bigint", source: "integer", raw: `-0.0e5`, want: "0"},
	{real: "bigint", source: "integer", raw: `12.5`},
	{real: "bigint", source: "integer", raw: `1e400`},
	{real: "bigint", source: "integer", raw: `"42"`, want: "42"},
	{real: "bigint", source: "integer", raw: `""`},
	{real: "bigint", source: "integer", raw: `"4 2"`},
	{real: "bigint", source: "integer", raw: `"\"1\""`},
	{real: "bigint", source: "boolean", raw: `true`, want: "1"},
	{real: "bigint", source: "integer", raw: `{}`},
	{real: "integer", source: "integer", raw: `2147483647`, want: "2147483647"},
	{real: "integer", source: "integer", raw: `2147483648`},
	{real: "smallint", source: "integer", raw: `-32768`, want: "-32768"},
	{real: "smallint", source: "integer", raw: `32768`},

	{real: "double precision", source: "number", raw: `0.1`, want: "0.1"},
	{real: "double precision", source: "number", raw: `12345678.12345679`, want: "12345678.12345679"},
	{real: "double precision", source: "number", raw: `0.30000000000000004`, want: "0.30000000000000004"},
	{real: "double precision", source: "number", raw: `1.7976931348623157e308`, want: "1.7976931348623157e+308"},
	{real: "double precision", source: "number", raw: `5e-324`, want: "5e-324"},
	{real: "double precision", source: "number", raw: `1e400`},
	{real: "double precision", source: "number", raw: `1e-400`, want: "0", rule: "postgres_float_precision"},
	{real: "double precision", source: "number", raw: `-0`, want: "-0"},
	{real: "double precision", source: "number", raw: `9007199254740993`, want: "9.007199254740992e+15", rule: "postgres_float_precision"},
	{real: "double precision", source: "number", raw: `0.10000000000000000000`, want: "0.1"},
	{
		real: "double precision", source: "number", raw: `3.14159265358979323846`, want: "3.141592653589793",
		rule: "postgres_float_precision",
	},
	{real: "double precision", source: "number", raw: `100000000000000000000`, want: "1e+20"},
	{real: "double precision", source: "number", raw: `"NaN"`, want: "NaN"},
	{real: "double precision", source: "number", raw: `"1.5"`, want: "1.5"},
	{real: "double precision", source: "number", raw: `""`},
	{real: "double precision", source: "number", raw: `"one"`},
	{real: "real", source: "number", raw: `1.5`, want: "1.5"},
	{real: "real", source: "number", raw: `1.23456789`, want: "1.2345679", rule: "postgres_float_precision"},
	{real: "real", source: "number", raw: `1e39`},

	{real: "numeric", source: "number", raw: `123456789012345678901234567890.123456789`, want: "123456789012345678901234567890.123456789"},
	{real: "numeric", source: "number", raw: `-0.00012`, want: "-0.00012"},
	{real: "numeric", source: "number", raw: `1.50`, want: "1.50"},
	{real: "numeric", source: "number", raw: `1e20`, want: "100000000000000000000"},
	{real: "numeric", source: "number", raw: `1.5e-7`, want: "0.00000015"},
	{real: "numeric", source: "number", raw: `10000`, want: "10000"},
	{real: "numeric", source: "number", raw: `100010000`, want: "100010000"},
	{real: "numeric", source: "number", raw: `0.00`, want: "0.00"},
	{real: "numeric", source: "number", raw: `1e200000`},
	{real: "numeric", source: "number", raw: `1e-20000`},
	{real: "numeric", source: "number", raw: `"Infinity"`, want: "Infinity"},
	{real: "numeric(6,2)", source: "number", raw: `1234.50`, want: "1234.50"},
	{real: "numeric(6,2)", source: "number", raw: `1234.500`, want: "1234.50"},
	{real: "numeric(6,2)", source: "number", raw: `12.345`, want: "12.35", rule: "postgres_numeric_scale"},
	{real: "numeric(6,2)", source: "number", raw: `12345.6`},

	{real: "boolean", source: "boolean", raw: `true`, want: "true"},
	{real: "boolean", source: "boolean", raw: `"false"`, want: "false"},
	{real: "boolean", source: "boolean", raw: `1`, want: "true"},
	{real: "boolean", source: "boolean", raw: `""`},
	{real: "boolean", source: "boolean", raw: `2`},
	{real: "boolean", source: "boolean", raw: `"yes"`},

	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05Z"`, want: "2024-01-02 03:04:05+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05.123456Z"`, want: "2024-01-02 03:04:05.123456+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05.123456000Z"`, want: "2024-01-02 03:04:05.123456+00"},
	{
		real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05.1234567Z"`, want: "2024-01-02 03:04:05.123456+00",
		rule: "postgres_time_precision",
	},
	{real: "timestamptz", source: "date-time", raw: `"1969-12-31T23:59:59.999999Z"`, want: "1969-12-31 23:59:59.999999+00"},
	{real: "timestamptz", source: "date-time", raw: `"2038-01-19T03:14:08+00:00"`, want: "2038-01-19 03:14:08+00"},
	{real: "timestamptz", source: "date-time", raw: `"0001-01-01T00:00:00Z"`, want: "0001-01-01 00:00:00+00"},
	{real: "timestamptz", source: "date-time", raw: `"0000-12-31T00:00:00Z"`, want: "0001-12-31 00:00:00+00 BC"},
	{real: "timestamptz", source: "date-time", raw: `"9999-12-31T23:59:59.999999Z"`, want: "9999-12-31 23:59:59.999999+00"},
	{real: "timestamptz", source: "date-time", raw: `"+294276-12-31T23:59:59.999999Z"`, want: "294276-12-31 23:59:59.999999+00"},
	{real: "timestamptz", source: "date-time", raw: `"+294277-01-01T00:00:00Z"`},
	{real: "timestamptz", source: "date-time", raw: `"-004713-11-24T00:00:00Z"`, want: "4714-11-24 00:00:00+00 BC"},
	{real: "timestamptz", source: "date-time", raw: `"-004713-11-23T23:59:59Z"`},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05+05:30"`, want: "2024-01-01 21:34:05+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02 03:04:05-0800"`, want: "2024-01-02 11:04:05+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04"`, want: "2024-01-02 03:04:00+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02"`, want: "2024-01-02 00:00:00+00"},
	{real: "timestamptz", source: "date-time", raw: `"2016-12-31T23:59:60Z"`, want: "2017-01-01 00:00:00+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T24:00:00Z"`, want: "2024-01-03 00:00:00+00"},
	{real: "timestamptz", source: "date-time", raw: `"2024-02-30T00:00:00Z"`},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T25:00:00Z"`},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05.Z"`},
	{real: "timestamptz", source: "date-time", raw: `"2024-01-02T03:04:05Zx"`},
	{real: "timestamptz", source: "date-time", raw: `""`},
	{real: "timestamptz", source: "date-time", raw: `1704164645000`},
	{
		real: "timestamptz(3)", source: "date-time", raw: `"2024-01-02T03:04:05.123987Z"`, want: "2024-01-02 03:04:05.123+00",
		rule: "postgres_time_precision",
	},
	{
		real: "timestamptz(3)", source: "date-time", raw: `"1969-01-02T03:04:05.123987Z"`, want: "1969-01-02 03:04:05.123+00",
		rule: "postgres_time_precision",
	},
	{real: "timestamptz(0)", source: "date-time", raw: `"1969-01-02T03:04:05Z"`, want: "1969-01-02 03:04:05+00"},
	{real: "timestamp", source: "date-time", raw: `"2024-01-02T03:04:05+05:30"`, want: "2024-01-01 21:34:05"},
	{real: "date", source: "date-time", raw: `"2024-01-02"`, want: "2024-01-02"},
	{real: "date", source: "date-time", raw: `"2024-01-02T23:30:00-01:00"`, want: "2024-01-03", rule: "postgres_date_only"},
	{real: "date", source: "date-time", raw: `"2024-01-02T00:00:00Z"`, want: "2024-01-02"},
	{real: "time", source: "string", raw: `"03:04:05"`, want: "03:04:05"},
	{real: "time", source: "string", raw: `"27:04:05"`},
	{real: "interval", source: "string", raw: `"1 day 02:00:00"`, want: "1 day 02:00:00"},
	{real: "inet", source: "string", raw: `"10.0.0.1"`, want: "10.0.0.1/32"},
	{real: "money", source: "number", raw: `12.5`, want: "$12.50"},

	{real: "jsonb", source: "object", raw: `{"b":1,"a":[true,null,"x"]}`, want: `{"a": [true, null, "x"], "b": 1}`},
	{real: "jsonb", source: "object", raw: `"scalar"`, want: `"scalar"`},
	{real: "jsonb", source: "object", raw: `12`, want: `12`},
	{real: "jsonb", source: "object", raw: `12345678901234567890.10`, want: `12345678901234567890.10`},
	{
		real: "jsonb", source: "object", raw: `{"a":"\u0000","\u0000":"\ud800x","p":"\ud83d\ude00","q":"\\u0000"}`,
		want: `{"a": "` + "\ufffd" + `", "p": "😀", "q": "\\u0000", "` + "\ufffd" + `": "` + "\ufffd" + `x"}`,
		rule: "postgres_nul postgres_surrogate",
	},
	{real: "jsonb", source: "object", raw: "{\"a\":\"\xff\"}", want: "{\"a\": \"\ufffd\"}", rule: "postgres_utf8"},
	{real: "jsonb", source: "object", raw: `1e999999`},
	{real: "jsonb", source: "array", raw: `[]`, want: `[]`},
	{real: "json", source: "object", raw: `{"b":1,  "a":"\u0000"}`, want: `{"b":1,  "a":"` + "\ufffd" + `"}`, rule: "postgres_nul"},
	{real: "uuid", source: "string", raw: `"123e4567-E89B-12d3-a456-426614174000"`, want: "123e4567-e89b-12d3-a456-426614174000"},
	{real: "uuid", source: "string", raw: `"123e4567-e89b-12d3-a456-42661417400"`},
	{real: "uuid", source: "string", raw: `"zzze4567-e89b-12d3-a456-426614174000"`},
	{real: "uuid", source: "string", raw: `""`},
	{real: "bytea", source: "string", raw: `"\\x00ff"`, want: `\x00ff`},
	{real: "bytea", source: "string", raw: `"\\xzz"`, want: `\x5c787a7a`},
	{real: "bytea", source: "string", raw: `"é"`, want: `\xc3a9`},
	{real: "text[]", source: "array", raw: `["a","b,\"c\\",null,1,true,{"x":1},""]`, want: `{a,"b,\"c\\",NULL,1,true,"{\"x\":1}",""}`},
	{real: "text[]", source: "array", raw: `[]`, want: `{}`},
	{real: "int[]", source: "array", raw: `[[1,2],[3,4]]`, want: `{{1,2},{3,4}}`},
	{real: "int[]", source: "array", raw: `["x"]`},
}

const valueTypes = `CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE DOMAIN shortname AS varchar(5); CREATE DOMAIN positive AS integer CHECK (VALUE > 0)`

func TestApply_StoresValuesUnchangedOrRefusesThem(t *testing.T) {
	d := open(t)
	d.exec(valueTypes)
	for _, rows := range []int{1, 70} { // by arrays, and by COPY
		for i, c := range values {
			t.Run(fmt.Sprintf("%d rows/%s/%s", rows, c.real, c.raw), func(t *testing.T) {
				d.T = t
				name := fmt.Sprintf("value_%d_%d", rows, i)
				// A view keeps the type as it is.
				d.exec(fmt.Sprintf(`CREATE TABLE %[1]s (id text PRIMARY KEY, v %[2]s); CREATE VIEW seen_%[1]s AS SELECT * FROM %[1]s`,
					name, c.real))
				h := sinktest.NewChanges(t, 0)
				source := sinktest.Table(t, name, 1, "id string", "v "+c.source)
				for r := range rows {
					h.Put(source, fmt.Sprintf(`{"id":"%d","v":%s}`, r, c.raw))
				}
				clear(d.Adjusted)
				err := d.Apply(t.Context(), h.Batch())
				if c.want == "" && c.raw != `""` || c.want == "" && c.real != "text" {
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
				want := make([]string, rows)
				for r := range want {
					want[r] = strings.TrimSuffix(c.want, " ")
				}
				sinktest.Equal(t, want, d.query("SELECT v::text FROM "+name))
				rules := make(map[string]int)
				for _, rule := range strings.Fields(c.rule) {
					rules[rule] = rows
				}
				d.WantAdjusted(rules)
			})
		}
	}
}

func TestApply_ErrorsNameTheColumnNotTheValue(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, "id string", "n integer")
	err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(order, `{"id":"1","n":"secret"}`).Batch())
	want := `apply the batch: value of order.n (bigint): it is not a number`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
