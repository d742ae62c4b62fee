package sqlserver

import (
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// FuzzValue: whatever JSON a value is, it is encoded as what the driver binds for
// the type and as what the type holds, or refused as poison.
func FuzzValue(f *testing.F) {
	for _, s := range []string{`"a\u0000\ud83d\ude00"`, `-12.50e3`, `[1,["x",null]]`, `{"a":1e400}`, `"2024-02-29T24:00:00.1234567+05:30"`, `true`, "\"\xff\"", `"0x0g"`, `"blank "`, `0.00499`, `-0.0`, `999999999.995`} {
		f.Add([]byte(s))
	}
	var columns []column
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
		native := real("c", c.base, c.length, c.precision, c.scale, "").Native.(*attribute)
		columns = append(columns, column{attribute: *native, Adjuster: sqlsink.Adjuster{Table: "t", Source: "c", Text: textRules}})
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

// checkHeld checks that the column's type holds v.
func checkHeld(t *testing.T, c *column, v any) {
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

func TestDecimalsAreRoundedHalfAwayFromZero(t *testing.T) {
	for _, c := range []struct {
		raw              string
		precision, scale int
		want             string
		exact            bool
	}{
		{"0", 5, 2, "0.00", true},
		{"-0.0", 5, 2, "0.00", true},
		{"1.5", 5, 2, "1.50", true},
		{"-1.5", 5, 0, "-2", false},
		{"1.005", 5, 2, "1.01", false},
		{"1.00499999", 5, 2, "1.00", false},
		{"999.994", 5, 2, "999.99", false},
		{"999.995", 5, 2, "", false},
		{"1000", 5, 2, "", false},
		{"0.001", 5, 2, "0.00", false},
		{"-0.001", 5, 2, "0.00", false},
		{"0.005", 5, 2, "0.01", false},
		{"0.0000001", 5, 2, "0.00", false},
		{"12e2", 5, 0, "1200", true},
		{"1e99999", 38, 0, "", false},
		{"1e-99999", 38, 18, "0.000000000000000000", false},
		{"0.99999", 5, 5, "0.99999", true},
		{"0.999995", 5, 5, "", false},
		{"9223372036854775807", 38, 18, "9223372036854775807.000000000000000000", true},
		{"9.9", 3, 0, "10", false},
	} {
		d, err := value.ParseDecimal(nil, []byte(c.raw))
		if err != nil {
			t.Fatal(err)
		}
		got, exact, err := spell(d, c.precision, c.scale)
		if got != c.want || exact != c.exact || (err != nil) != (c.want == "") {
			t.Errorf("%s as DECIMAL(%d, %d): %q, exact %v, %v; want %q, exact %v", c.raw, c.precision, c.scale, got, exact, err, c.want, c.exact)
		}
	}
}
