package postgres

import (
	"testing"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// FuzzValue: any JSON value is either encoded or refused as poison, and encoded text is valid in
// PostgreSQL.
func FuzzValue(f *testing.F) {
	for _, s := range []string{
		`"a\u0000\ud83d\ude00"`, `-12.50e3`, `[1,["x",null]]`, `{"a":1e400}`,
		`"2024-02-29T24:00:00.1234567+05:30"`, `true`, "\"\xff\"", `"\\x0g"`,
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
		for k := kindCast; k <= kindArray; k++ {
			c := testColumn(k)
			dst, err := c.append([]byte("before"), raw)
			if err != nil {
				if fault.Of(err) != fault.Poison || string(dst) != "before" {
					t.Fatalf("kind %d: %v of class %v, %q", k, err, fault.Of(err), dst)
				}
				continue
			}
			text := k == kindCast || k == kindText || k == kindJSON || k == kindArray
			if text && len(dst) > 10 && (!utf8.Valid(dst[10:]) || k == kindText && rawjson.IsString(raw) && containsNUL(dst[10:])) {
				t.Fatalf("kind %d: %q is not text", k, dst[10:])
			}
			if k == kindJSON && !rawjson.IsNull(raw) && rawjson.Valid(dst[10:]) != nil {
				t.Fatalf("%q is not json", dst[10:])
			}
		}
	})
}

func containsNUL(b []byte) bool {
	for _, c := range b {
		if c == 0 {
			return true
		}
	}
	return false
}
