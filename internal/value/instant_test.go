package value_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/value"
)

// written parses an instant and returns it in the form of AppendText.
func written(text string) (out []byte, cut bool, err error) {
	t, err := value.ParseInstant([]byte(text))
	if err != nil {
		return nil, false, err
	}
	out, err = t.AppendText(nil, 'T')
	return append(out, 'Z'), t.Cut, err
}

func TestParseInstant_ReturnsUTCWithMicroseconds(t *testing.T) {
	for text, want := range map[string]string{
		"2026-01-02T03:04:05Z":            "2026-01-02T03:04:05.000000Z",
		"2026-01-02T03:04:05.1Z":          "2026-01-02T03:04:05.100000Z",
		"2026-01-02T03:04:05.123456Z":     "2026-01-02T03:04:05.123456Z",
		"2026-01-02T03:04:05.1234560000Z": "2026-01-02T03:04:05.123456Z",
		"2026-01-02T03:04:05.123456789Z":  "2026-01-02T03:04:05.123456Z cut",
		"2026-01-02T03:04:05,5Z":          "2026-01-02T03:04:05.500000Z",
		"2026-01-02t03:04:05z":            "2026-01-02T03:04:05.000000Z",
		"2026-01-02 03:04:05":             "2026-01-02T03:04:05.000000Z",
		"2026-01-02 03:04:05.5 +05:45":    "2026-01-01T21:19:05.500000Z",
		"2026-01-02T03:04:05+0130":        "2026-01-02T01:34:05.000000Z",
		"2026-01-02T03:04:05-11":          "2026-01-02T14:04:05.000000Z",
		"2026-01-02T03:04":                "2026-01-02T03:04:00.000000Z",
		"2026-01-02":                      "2026-01-02T00:00:00.000000Z",
		"2024-02-29T24:00:00Z":            "2024-03-01T00:00:00.000000Z",
		"2016-12-31T23:59:60Z":            "2017-01-01T00:00:00.000000Z",
		"1969-12-31T23:59:59.999999Z":     "1969-12-31T23:59:59.999999Z",
		"0000-01-01T00:00:00Z":            "0000-01-01T00:00:00.000000Z",
		"0001-01-01T00:30:00+00:30":       "0001-01-01T00:00:00.000000Z",
		"9999-12-31T23:59:59.999999Z":     "9999-12-31T23:59:59.999999Z",
		"9999-12-31T23:59:59-00:01":       "error",
		"0000-01-01T00:00:00+00:01":       "error",
		"10000-01-01T00:00:00Z":           "error",
		"2026-02-29":                      "error",
		"2026-00-10":                      "error",
		"2026-13-01":                      "error",
		"2026-01-00":                      "error",
		"2026-01-32":                      "error",
		"2026-01-02T24:00:01Z":            "error",
		"2026-01-02T25:00:00Z":            "error",
		"2026-01-02T03:60:00Z":            "error",
		"2026-01-02T03:04:61Z":            "error",
		"2026-01-02T03:04:05.Z":           "error",
		"2026-01-02T03:04:05+1":           "error",
		"2026-01-02T03:04:05+24:00":       "error",
		"2026-01-02T03:04:05Zx":           "error",
		"2026-01-02T":                     "error",
		"2026-01-02x03:04:05Z":            "error",
		"2026-1-2":                        "error",
		"20260102":                        "error",
		"now":                             "error",
		"":                                "error",
		"2026-01-02T03:04:05.12345678901234567890123456789Z": "2026-01-02T03:04:05.123456Z cut",
	} {
		out, cut, err := written(text)
		got := string(out)
		if cut {
			got += " cut"
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// FuzzInstant compares ParseInstant with package time, if package time can parse the text.
func FuzzInstant(f *testing.F) {
	for _, s := range []string{"2026-01-02T03:04:05.123456Z", "2026-12-31T23:59:59+01:00", "2026-01-02", "0000-02-29T00:00:00-23:59"} {
		f.Add(s)
	}
	strict := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)
	f.Fuzz(func(t *testing.T, text string) {
		out, _, err := written(text)
		want, other := time.Parse(time.RFC3339Nano, text)
		want = want.UTC()
		inRange := want.Year() >= 0 && want.Year() <= 9999
		switch {
		case err != nil && other == nil && inRange && strict.MatchString(text):
			t.Fatalf("%q: %v, package time reads %v", text, err, want)
		case err != nil:
			return
		case other == nil && string(out) != want.Truncate(time.Microsecond).Format("2006-01-02T15:04:05.000000Z"):
			t.Fatalf("%q: %s, package time reads %v", text, out, want)
		}
		if again, cut, err := written(string(out)); string(again) != string(out) || cut || err != nil {
			t.Fatalf("%q: %s reads as %s, %v", text, out, again, err)
		}
	})
}

func TestInstant_TruncatesTowardsThePast(t *testing.T) {
	for _, c := range []struct {
		text   string
		digits int
		want   string
		cut    bool
	}{
		{"2026-01-02T03:04:05.123456Z", 6, "2026-01-02T03:04:05.123456Z", false},
		{"2026-01-02T03:04:05.123456Z", 3, "2026-01-02T03:04:05.123000Z", true},
		{"2026-01-02T03:04:05.123Z", 3, "2026-01-02T03:04:05.123000Z", false},
		{"2026-01-02T03:04:05.999999Z", 0, "2026-01-02T03:04:05.000000Z", true},
		{"1969-12-31T00:00:00.5+01:00", 0, "1969-12-30T23:00:00.000000Z", true},
	} {
		parsed, err := value.ParseInstant([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		kept := parsed.Truncate(c.digits)
		if text, err := kept.AppendText(nil, 'T'); string(text)+"Z" != c.want || kept.Cut != c.cut || err != nil {
			t.Errorf("%s to %d digits: %sZ, cut %v, %v; want %s", c.text, c.digits, text, kept.Cut, err, c.want)
		}
	}
}
