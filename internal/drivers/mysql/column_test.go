package mysql

import (
	"errors"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// TestColumn_KeepsToItsBounds covers columns that the server does not let eds widen.
func TestColumn_KeepsToItsBounds(t *testing.T) {
	for _, c := range []struct {
		attribute attribute
		raw, want string // want is "" if the value is refused
		rule      string
	}{
		{attribute{kind: kindInt, data: "tinyint"}, `127`, "127", ""},
		{attribute{kind: kindInt, data: "tinyint"}, `128`, "", ""},
		{attribute{kind: kindInt, data: "tinyint", unsigned: true}, `255`, "255", ""},
		{attribute{kind: kindInt, data: "tinyint", unsigned: true}, `-1`, "", ""},
		{attribute{kind: kindInt, data: "smallint"}, `-32768`, "-32768", ""},
		{attribute{kind: kindInt, data: "smallint"}, `32768`, "", ""},
		{attribute{kind: kindInt, data: "mediumint"}, `-8388608`, "-8388608", ""},
		{attribute{kind: kindInt, data: "mediumint"}, `8388608`, "", ""},
		{attribute{kind: kindInt, data: "int", unsigned: true}, `4294967295`, "4294967295", ""},
		{attribute{kind: kindInt, data: "int"}, `1e3`, "1000", ""},
		{attribute{kind: kindFloat, data: "float"}, `0.1`, "0.1", ""},
		{attribute{kind: kindFloat, data: "float"}, `0.123456789`, "0.12345679", "mysql_float_precision"},
		{attribute{kind: kindFloat, data: "float"}, `1e39`, "", ""},
		{attribute{kind: kindText, data: "varchar", length: 5}, `"äöü😀x"`, "äöü😀x", ""},
		{attribute{kind: kindText, data: "varchar", length: 5}, `"123456"`, "", ""},
		{attribute{kind: kindText, data: "char", length: 5}, `"ab  "`, "ab  ", "mysql_padding"},
		{attribute{kind: kindText, data: "tinytext", length: 255}, `"` + strings.Repeat("x", 256) + `"`, "", ""},
		{attribute{kind: kindText, data: "varchar", length: 20, charset: "utf8mb3"}, `"😀"`, "", ""},
	} {
		var rule string
		column := testColumn(c.attribute, schema.String, func(_, _, r string) { rule = r })
		text, err := column.append(nil, []byte(c.raw))
		refused := err != nil && fault.Of(err) == fault.Poison
		if string(text) != c.want || rule != c.rule || refused != (c.want == "") {
			t.Errorf("%s of %.30s: %q by rule %q, %v; want %q by rule %q", column.Type, c.raw, text, rule, err, c.want, c.rule)
		}
		column.Key = true
		if _, err := column.append(nil, []byte(c.raw)); c.rule != "" && !errors.Is(err, sqlsink.ErrKeyChanged) {
			t.Errorf("%s of %.30s in a key: %v", column.Type, c.raw, err)
		}
	}
}

// testColumn returns the encoder for column c of table t. The source's column has the given type.
func testColumn(a attribute, of schema.Type, adjusted func(table, column, rule string)) *columnEncoder {
	t := &sqlsink.Target{Slot: -1, Type: of, Real: &sqlsink.RealColumn{Name: "c", Type: a.data, Native: &a}}
	c := newColumnEncoder(&sqlsink.Layout{Table: &schema.Table{Name: "t"}}, t, true, adjusted)
	return &c
}

func TestName_StaysUniqueAndWithinBounds(t *testing.T) {
	d := &dialect{}
	seen := make(map[string]string)
	for _, name := range []string{
		"order", "Order_1", strings.Repeat("n", 64), strings.Repeat("n", 65), strings.Repeat("n", 65) + "1",
		strings.Repeat("日", 40), strings.Repeat("日", 60), strings.Repeat("日", 61),
		"a ", "a  ", "a\t", "a", "😀", "😁", "a\x00b", "a\ufffdb", "", " ", "\xff", "\xfe",
	} {
		made := d.Name(name)
		if other, taken := seen[made]; taken {
			t.Errorf("%q and %q are both %q", other, name, made)
		}
		seen[made] = name
		if n := len([]rune(made)); n == 0 || n > maxName || strings.TrimSpace(made) == "" || strings.HasSuffix(made, " ") {
			t.Errorf("%q becomes %q of %d characters", name, made, n)
		}
		if again := d.Name(made); again != made {
			t.Errorf("%q becomes %q, and that %q", name, made, again)
		}
	}
	for _, name := range []string{"order", "Order_1", strings.Repeat("n", 64), strings.Repeat("日", 40)} {
		if d.Name(name) != name {
			t.Errorf("%q is changed to %q", name, d.Name(name))
		}
	}
}

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "mysql", rules) }
