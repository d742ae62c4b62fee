package value_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/value"
)

func TestBoolean_ReadsAnySpelling(t *testing.T) {
	for raw, want := range map[string]bool{
		`true`: true, `"t"`: true, `1`: true, `"true"`: true, `false`: false, `"f"`: false, `0`: false,
		`"0"`: false,
	} {
		if got, err := value.Boolean([]byte(raw)); got != want || err != nil {
			t.Errorf("Boolean(%s) = %v, %v; want %v", raw, got, err, want)
		}
	}
	for _, raw := range []string{`2`, `"yes"`, `""`, `{}`, `"TRUE"`, `1.0`} {
		if _, err := value.Boolean([]byte(raw)); err == nil {
			t.Errorf("Boolean(%s) is one", raw)
		}
	}
}

func TestNumber_ReturnsItsText(t *testing.T) {
	for raw, want := range map[string]string{`1`: "1", `-0.50`: "-0.50", `"12e3"`: "12e3", `9223372036854775808`: "9223372036854775808"} {
		if got, err := value.Number([]byte(raw), false); string(got) != want || err != nil {
			t.Errorf("Number(%s) = %q, %v; want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{`true`, `""`, `"1 "`, `"\"1\""`, `"true"`, `[1]`, `{}`, `"-"`} {
		if got, err := value.Number([]byte(raw), false); !errors.Is(err, value.ErrNotNumber) {
			t.Errorf("Number(%s) = %q, %v; want %v", raw, got, err, value.ErrNotNumber)
		}
	}
	for raw, want := range map[string]string{`true`: "1", `false`: "0", `7`: "7"} {
		if got, err := value.Number([]byte(raw), true); string(got) != want || err != nil {
			t.Errorf("Number(%s) of a truth value = %q, %v; want %q", raw, got, err, want)
		}
	}
}

func TestNumbers_VisitsEveryNumber(t *testing.T) {
	var got []string
	err := value.Numbers([]byte(`{"1":[-1.5e+3,{"a\"2":0}],"b":"3","c":[true,null,4]}`), func(number []byte) error {
		got = append(got, string(number))
		return nil
	})
	if want := []string{"-1.5e+3", "0", "4"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the numbers are %v, %v; want %v", got, err, want)
	}
	wrong := errors.New("wrong")
	if err := value.Numbers([]byte(`[1,2]`), func([]byte) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the error of a number is %v", err)
	}
}

func TestDigitBuffer_ReusesMemory(t *testing.T) {
	var buffer value.DigitBuffer
	long := []byte(strings.Repeat("9", 5000))
	for range 2 {
		if got := buffer.For(long); len(got) != 0 || cap(got) < len(long) {
			t.Fatalf("memory for %d digits: length %d, capacity %d", len(long), len(got), cap(got))
		}
	}
	if n := testing.AllocsPerRun(100, func() { buffer.For(long) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}
