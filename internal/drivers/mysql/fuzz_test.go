package mysql

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// FuzzField: any JSON value is either refused as poison or becomes one field of a line that decodes
// to the value's text.
func FuzzField(f *testing.F) {
	for _, s := range []string{
		`"a\u0000\ud83d\ude00\\N\t\n"`, `-12.50e3`, `[1,["x",null,"\\\n"]]`, `{"a":1e400}`,
		`"2024-02-29T24:00:00.1234567+05:30"`, `true`, "\"\xff\"", `"\\x0g"`, "{\n\"a\":\t1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if rawjson.Valid(raw) != nil || rawjson.SkipSpace(raw, 0) != 0 {
			return
		}
		end, err := rawjson.Skip(raw, 0)
		if err != nil {
			t.Fatal(err)
		}
		raw = raw[:end]
		for _, c := range everyColumn() {
			text, refused := c.append([]byte("before"), raw)
			line, err := c.appendField([]byte("before\t"), raw)
			if (err == nil) != (refused == nil) {
				t.Fatalf("%s: as a field %v, as a parameter %v", c.Type, err, refused)
			}
			if err != nil {
				if fault.Of(err) != fault.Poison || string(text) != "before" || string(line) != "before\t" {
					t.Fatalf("%s: %v of class %v, %q, %q", c.Type, err, fault.Of(err), text, line)
				}
				continue
			}
			field := line[len("before\t"):]
			if bytes.ContainsAny(field, "\t\n\x00") || !utf8.Valid(field) || string(field) == `\N` {
				t.Fatalf("%s: %q is not one field", c.Type, field)
			}
			if got, want := unescape(field), text[len("before"):]; !bytes.Equal(got, want) {
				t.Fatalf("%s: the field reads as %q, the parameter as %q", c.Type, got, want)
			}
		}
	})
}

// everyColumn returns a column of every kind.
func everyColumn() []*columnEncoder {
	var all []*columnEncoder
	add := func(a attribute, json bool) {
		of := schema.String
		if json {
			of = schema.Object
		}
		all = append(all, testColumn(a, of, nil))
	}
	add(attribute{kind: kindOther, data: "geometry"}, false)
	add(attribute{kind: kindText, data: "longtext", length: 1 << 30}, false)
	add(attribute{kind: kindText, data: "longtext", length: 1 << 30}, true)
	add(attribute{kind: kindText, data: "varchar", length: 20, charset: "utf8mb3"}, false)
	add(attribute{kind: kindText, data: "char", length: 5}, false)
	add(attribute{kind: kindTruth, data: "tinyint"}, false)
	add(attribute{kind: kindBit, data: "bit", whole: 7}, false)
	for data := range bits {
		add(attribute{kind: kindInt, data: data}, false)
		add(attribute{kind: kindInt, data: data, unsigned: true}, false)
	}
	add(attribute{kind: kindFloat, data: "float"}, false)
	add(attribute{kind: kindDouble, data: "double"}, false)
	add(attribute{kind: kindDecimal, data: "decimal", whole: 4, scale: 2}, false)
	for precision := range 7 {
		add(attribute{kind: kindDateTime, data: "datetime", precision: precision}, false)
	}
	add(attribute{kind: kindTimestamp, data: "timestamp", precision: 3}, false)
	add(attribute{kind: kindDate, data: "date"}, false)
	add(attribute{kind: kindJSON, data: "json"}, true)
	add(attribute{kind: kindBytes, data: "varbinary", length: 100}, false)
	return all
}

// unescape decodes a field as LOAD DATA does.
func unescape(field []byte) []byte {
	out := []byte{}
	for i := 0; i < len(field); i++ {
		c := field[i]
		if c == '\\' {
			i++
			c = map[byte]byte{'n': '\n', 't': '\t', '0': 0, '\\': '\\'}[field[i]]
		}
		out = append(out, c)
	}
	return out
}
