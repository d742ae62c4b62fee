package hq_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/hq"
)

func TestCommand_DecodesBooleans(t *testing.T) {
	for text, want := range map[string]bool{
		`true`: true, `false`: false, `null`: false,
		`"true"`: true, `"false"`: false, `"True"`: true, `"FALSE"`: false, `" true "`: true, `""`: false,
		`1`: true, `0`: false, `"1"`: true, `"0"`: false,
	} {
		var data struct {
			Backfill hq.LenientBool `json:"backfill"`
		}
		m := hq.Command{Action: "import", Data: json.RawMessage(`{"backfill":` + text + `}`)}
		if err := m.Decode(&data); err != nil || bool(data.Backfill) != want {
			t.Errorf("%s: %v, %v", text, data.Backfill, err)
		}
	}
}

func TestCommand_RefusesOtherBooleans(t *testing.T) {
	for _, text := range []string{`"hunter2"`, `2`, `-1`, `1.5`, `"t"`, `"yes"`, `[true]`, `{"true":true}`} {
		var data struct {
			Backfill hq.LenientBool `json:"backfill"`
		}
		m := hq.Command{Action: "import", Data: json.RawMessage(`{"backfill":` + text + `}`)}
		err := m.Decode(&data)
		if err == nil || err.Error() != `the data of "import": backfill should be true or false` ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, %v", text, data.Backfill, err)
		}
	}
}
