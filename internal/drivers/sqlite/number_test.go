package sqlite

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// The expected result is the result of encoding/json.
func TestAppendFloat_WritesJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		got := appendFloat([]byte("x"), f)[1:]
		if err := rawjson.Valid(got); err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("%s, want %s", got, want)
		}
	})
}
