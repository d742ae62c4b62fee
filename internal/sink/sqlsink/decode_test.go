package sqlsink_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// newDecoder returns the decoder for column c of table t, and a list to which each adjustment of
// a value appends the name of its rule.
func newDecoder(of schema.Type) (d sqlsink.ValueDecoder, adjusted *[]string) {
	rules := sqlsink.ValueRules{
		sqlsink.CutSecond: {Name: "cut"}, sqlsink.DropTime: {Name: "drop"}, sqlsink.ReplaceUTF8: {Name: "utf8"},
		sqlsink.RoundFloat: {Name: "float"}, sqlsink.RoundDecimal: {Name: "decimal"}, sqlsink.RoundJSON: {Name: "json"},
	}
	adjusted = new([]string)
	l := &sqlsink.Layout{Table: &schema.Table{Name: "t", Columns: []schema.Column{{Name: "c"}}}}
	t := &sqlsink.Target{Type: of, Real: &sqlsink.RealColumn{Name: "real", Type: "int4"}}
	return sqlsink.NewValueDecoder(l, t, rules, func(table, column, rule string) {
		*adjusted = append(*adjusted, table+"."+column+" "+rule)
	}), adjusted
}

func TestValueDecoder(t *testing.T) {
	type decode = func(d *sqlsink.ValueDecoder, raw []byte) (any, error)
	integer := func(bits int) decode {
		return func(d *sqlsink.ValueDecoder, raw []byte) (any, error) { return d.Int(raw, bits) }
	}
	unsigned := func(bits int) decode {
		return func(d *sqlsink.ValueDecoder, raw []byte) (any, error) { return d.Uint(raw, bits) }
	}
	float := func(bits int) decode {
		return func(d *sqlsink.ValueDecoder, raw []byte) (any, error) { return d.Float(raw, bits) }
	}
	fixed := func(d *sqlsink.ValueDecoder, raw []byte) (any, error) {
		n, err := d.Fixed(raw, 3, 2)
		return string(n.AppendText(nil, 0)), err
	}
	millis := func(d *sqlsink.ValueDecoder, raw []byte) (any, error) {
		at, err := d.Instant(raw, 3)
		return at.Micros, err
	}
	date := func(d *sqlsink.ValueDecoder, raw []byte) (any, error) {
		at, err := d.Date(raw)
		return at.Days, err
	}
	inJSON := func(d *sqlsink.ValueDecoder, raw []byte) (any, error) { return nil, d.JSONFloat(raw) }
	for _, c := range []struct {
		name   string
		of     schema.Type
		decode decode
		raw    string
		want   any
		rule   string
		err    error
	}{
		{"smallest byte", schema.Integer, integer(8), `-128`, int64(-128), "", nil},
		{"below the smallest byte", schema.Integer, integer(8), `-129`, nil, "", value.ErrRange},
		{"largest integer", schema.Integer, integer(64), `9223372036854775807`, int64(1<<63 - 1), "", nil},
		{"integer in a string", schema.Integer, integer(32), `"12"`, int64(12), "", nil},
		{"boolean as an integer", schema.Boolean, integer(8), `true`, int64(1), "", nil},
		{"boolean for an integer", schema.Integer, integer(8), `true`, nil, "", value.ErrNotNumber},
		{"largest unsigned byte", schema.Integer, unsigned(8), `255`, uint64(255), "", nil},
		{"above the largest unsigned byte", schema.Integer, unsigned(8), `256`, nil, "", value.ErrRange},
		{"largest unsigned integer", schema.Integer, unsigned(64), `18446744073709551615`, uint64(1<<64 - 1), "", nil},
		{"exact float", schema.Number, float(64), `0.1`, 0.1, "", nil},
		{"rounded float", schema.Number, float(32), `16777217`, float64(16777216), "float", nil},
		{"exact decimal", schema.Number, fixed, `999.99`, "999.99", "", nil},
		{"rounded decimal", schema.Number, fixed, `1.005`, "1.01", "decimal", nil},
		{"decimal rounded out of range", schema.Number, fixed, `999.995`, nil, "", value.ErrRange},
		{"milliseconds", schema.DateTime, millis, `"1970-01-01T00:00:01.5Z"`, int64(1_500_000), "", nil},
		{"cut instant", schema.DateTime, millis, `"1970-01-01T00:00:01.5009Z"`, int64(1_500_000), "cut", nil},
		{"no instant", schema.DateTime, millis, `1`, nil, "", value.ErrNotInstant},
		{"date", schema.DateTime, date, `"1970-01-02"`, int64(1), "", nil},
		{"instant for a date", schema.DateTime, date, `"1970-01-02T03:04:05Z"`, int64(1), "drop", nil},
		{"exact number in JSON", schema.Object, inJSON, `0.1`, nil, "", nil},
		{"rounded number in JSON", schema.Object, inJSON, `0.10000000000000000001`, nil, "json", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, adjusted := newDecoder(c.of)
			got, err := c.decode(&d, []byte(c.raw))
			if !errors.Is(err, c.err) || err == nil && got != c.want {
				t.Errorf("%v, %v; want %v, %v", got, err, c.want, c.err)
			}
			var want []string
			if c.rule != "" {
				want = []string{"t.c " + c.rule}
			}
			if diff := cmp.Diff(want, *adjusted); diff != "" {
				t.Errorf("adjusted (-want +got)\n%s", diff)
			}
			d.Key = true
			if _, err := c.decode(&d, []byte(c.raw)); c.rule != "" && !errors.Is(err, sqlsink.ErrKeyChanged) {
				t.Errorf("in a key: %v", err)
			}
		})
	}
}

func TestValueDecoder_CountsReplacedFlaws(t *testing.T) {
	d, adjusted := newDecoder(schema.String)
	if err := d.Replaced(value.UTF8 | value.NUL); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"t.c utf8"}, *adjusted); diff != "" { // there is no rule for NUL
		t.Error(diff)
	}
	d.Key = true
	if err := d.Replaced(value.UTF8); !errors.Is(err, sqlsink.ErrKeyChanged) {
		t.Errorf("in a key: %v", err)
	}
}

func TestValueDecoder_RefusesWithColumnAndType(t *testing.T) {
	d, _ := newDecoder(schema.Integer)
	err := d.Refuse(value.ErrRange)
	if want := fmt.Sprintf("value of t.c (int4): %v", value.ErrRange); err.Error() != want || fault.Of(err) != fault.Poison {
		t.Errorf("%v of class %v, want %s", err, fault.Of(err), want)
	}
}
