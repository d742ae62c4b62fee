package value_test

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/value"
)

// TestIntegersOfAnySpelling compares with arithmetic of any size.
func TestIntegersOfAnySpelling(t *testing.T) {
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

// TestFloatsTellWhetherTheyAreExact: a float's shortest form, however spelt, is;
// what reads as the same float and is another number is not.
func TestFloatsTellWhetherTheyAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		short := strconv.FormatFloat(f, 'e', -1, 64)
		for _, text := range []string{short, strconv.FormatFloat(f, 'f', -1, 64), strings.Replace(short, "e", "000e", 1)} {
			if !strings.Contains(text, ".") && strings.Contains(text, "000e") {
				continue // more zeros without a dot are another number
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
