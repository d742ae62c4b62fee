package sqlserver

import (
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// FuzzValue: any JSON value is either refused as poison, or encoded as a value that the driver can
// bind and the type can store.
func FuzzValue(f *testing.F) {
	for _, s := range []string{
		`"a\u0000\ud83d\ude00"`, `-12.50e3`, `[1,["x",null]]`, `{"a":1e400}`,
		`"2024-02-29T24:00:00.1234567+05:30"`, `true`, "\"\xff\"", `"0x0g"`, `"blank "`, `0.00499`, `-0.0`, `999999999.995`,
	} {
		f.Add([]byte(s))
	}
	var columns []columnEncoder
	for _, c := range []struct {
		base                     string
		length, precision, scale int
	}{
		{"nvarchar", 5, 0, 0},
		{"nvarchar", -1, 0, 0},
		{"varchar", 5, 0, 0},
		{"bit", 1, 0, 0},
		{"tinyint", 1, 0, 0},
		{"smallint", 2, 0, 0},
		{"int", 4, 0, 0},
		{"bigint", 8, 0, 0},
		{"real", 4, 0, 0},
		{"float", 8, 0, 0},
		{"decimal", 9, 12, 2},
		{"decimal", 9, 5, 5},
		{"decimal", 17, 38, 18},
		{"datetimeoffset", 10, 0, 6},
		{"datetime2", 8, 0, 0},
		{"datetime", 8, 0, 0},
		{"smalldatetime", 4, 0, 0},
		{"date", 3, 0, 0},
		{"varbinary", 5, 0, 0},
		{"xml", -1, 0, 0},
	} {
		real := real("c", c.base, c.length, c.precision, c.scale, "")
		l, target := sqlsink.Layout{Table: &schema.Table{Name: "t"}}, sqlsink.Target{Slot: -1, Real: &real}
		columns = append(columns, newColumnEncoder(&l, &target, nil))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if rawjson.Valid(raw) != nil || rawjson.SkipSpace(raw, 0) != 0 {
			return
		}
		end, err := rawjson.Skip(raw, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range columns {
			c := columns[i]
			for _, c.Key = range []bool{false, true} {
				v, err := c.value(raw[:end])
				if err != nil && fault.Of(err) != fault.Poison {
					t.Fatalf("%s: %v of class %v", c.spelling(), err, fault.Of(err))
				}
				if err == nil && v != nil {
					checkHeld(t, &c, v)
				}
			}
		}
	})
}

// checkHeld checks that the column's type can store v.
func checkHeld(t *testing.T, c *columnEncoder, v any) {
	t.Helper()
	ok := true
	switch v := v.(type) {
	case string:
		switch c.kind {
		case kindDecimal:
			whole, fraction, _ := strings.Cut(strings.TrimPrefix(v, "-"), ".")
			_, number := new(big.Rat).SetString(v)
			ok = number && len(fraction) == c.scale && len(strings.TrimLeft(whole, "0")) <= c.precision-c.scale
		case kindVarChar:
			ok = isASCII([]byte(v)) && len(v) <= c.length
		default:
			ok = utf8.ValidString(v) && (c.length < 0 || units([]byte(v)) <= c.length)
		}
		ok = ok && !(c.Key && strings.HasSuffix(v, " "))
	case time.Time:
		ok = !v.Before(c.earliest()) && v.Year() <= 9999 && v.Equal(v.Truncate(time.Microsecond)) && v.Location() == time.UTC
	case []byte:
		ok = len(v) <= c.length
	}
	if !ok {
		t.Fatalf("%s does not hold %q", c.spelling(), v)
	}
}
