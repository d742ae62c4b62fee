package value_test

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/value"
)

// TestParseInt_ReadsAnySpelling compares ParseInt with arithmetic of package math/big.
func TestParseInt_ReadsAnySpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,21})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "text")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatal("not a number")
		}
		got, err := value.ParseInt(nil, []byte(text))
		switch {
		case !exact.IsInt():
			if err != value.ErrNotInteger {
				t.Fatalf("%s: %d, %v", text, got, err)
			}
		case !exact.Num().IsInt64():
			if err != value.ErrRange {
				t.Fatalf("%s: %d, %v", text, got, err)
			}
		case err != nil || got != exact.Num().Int64():
			t.Fatalf("%s: %d, %v", text, got, err)
		}
	})
}

// TestParseFloat_ReportsExactness: any spelling of a float's shortest form is exact. A different
// number that rounds to the same float is not exact.
func TestParseFloat_ReportsExactness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		short := strconv.FormatFloat(f, 'e', -1, 64)
		for _, text := range []string{short, strconv.FormatFloat(f, 'f', -1, 64), strings.Replace(short, "e", "000e", 1)} {
			if !strings.Contains(text, ".") && strings.Contains(text, "000e") {
				continue // without a decimal point, added zeros change the number
			}
			got, exact, err := value.ParseFloat(nil, []byte(text), 64)
			if got != f || !exact || err != nil {
				t.Fatalf("%s: %v, %v, %v", text, got, exact, err)
			}
		}
		mantissa, exponent, _ := strings.Cut(short, "e")
		if strings.Contains(mantissa, ".") && len(mantissa) > 16 {
			text := mantissa + "00001e" + exponent
			if got, exact, err := value.ParseFloat(nil, []byte(text), 64); exact || err != nil || math.Abs(got-f) > math.Abs(f)*1e-15 {
				t.Fatalf("%s: %v, %v, %v", text, got, exact, err)
			}
		}
	})
}

// The numbers are written with scale decimal places.
func TestDecimal_RoundsHalfAwayFromZero(t *testing.T) {
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
		d, exact := d.Round(c.scale)
		got := ""
		if d.Point <= c.precision-c.scale || len(d.Digits) == 0 {
			got = string(d.AppendText(nil, c.scale))
		}
		if got != c.want || got != "" && exact != c.exact {
			t.Errorf("%s as DECIMAL(%d, %d): %q, exact %v; want %q, exact %v", c.raw, c.precision, c.scale, got, exact, c.want, c.exact)
		}
	}
}

func TestParseUint(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "-0": 0, "1e3": 1000, "12.0": 12, "18446744073709551615": math.MaxUint64} {
		if got, err := value.ParseUint(nil, []byte(text)); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"-1": value.ErrRange, "18446744073709551616": value.ErrRange, "99999999999999999999": value.ErrRange, "1e99": value.ErrRange,
		"0.5": value.ErrNotInteger, "x": value.ErrNotNumber,
	} {
		if got, err := value.ParseUint(nil, []byte(text)); !errors.Is(err, want) {
			t.Errorf("%s: %d, %v; want %v", text, got, err, want)
		}
	}
}
