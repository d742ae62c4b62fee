package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// written is a file that buntdb 1.3.2 has written.
const written = "*3\r\n$3\r\nset\r\n$16\r\nregistry:order-1\r\n" +
	"$55\r\n{\"table\":\"order\",\"properties\":{\"id\":{\"type\":\"string\"}}}\r\n" +
	"*5\r\n$3\r\nset\r\n$19\r\nregistry:customer-1\r\n$20\r\n{\"table\":\"customer\"}\r\n$2\r\nae\r\n$10\r\n1795993282\r\n" +
	"*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$54\r\n[{\"Table\":\"order\",\"Timestamp\":\"2026-10-01T00:00:00Z\"}]\r\n" +
	"*2\r\n$3\r\ndel\r\n$16\r\nregistry:order-1\r\n" +
	"*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$120\r\n" +
	"[{\"Table\":\"order\",\"Timestamp\":\"2026-11-02T17:15:01.740597054Z\"}," +
	"{\"Table\":\"customer\",\"Timestamp\":\"2026-11-02T17:15:02Z\"}]\r\n"

// readAt is the time at which the tests read files.
var readAt = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

// parts returns a command of the log with the given parts.
func parts(all ...string) string {
	text := fmt.Sprintf("*%d\r\n", len(all))
	for _, part := range all {
		text += fmt.Sprintf("$%d\r\n%s\r\n", len(part), part)
	}
	return text
}

// export returns the value that records an import of the table at the given time.
func export(table, at string) string {
	return parts("set", exportKey, fmt.Sprintf(`[{"Table":%q,"Timestamp":%q}]`, table, at))
}

func TestReadReference_FindsTheLastImport(t *testing.T) {
	const october, november = "2026-10-01T00:00:00Z", "2026-11-01T00:00:00.000000001Z"
	cache := parts("set", "registry:order-1", strings.Repeat("x", 100_000))
	for name, c := range map[string]struct {
		text string
		want map[string]string
	}{
		"as written": {
			written, map[string]string{"order": "2026-11-02T17:15:01.740597054Z", "customer": "2026-11-02T17:15:02Z"},
		},
		"an empty file": {"", nil},
		"no import":     {cache, nil},
		"the last one": {
			export("order", october) + cache + export("order", november), map[string]string{"order": november},
		},
		"a deleted import": {export("order", october) + parts("del", exportKey), nil},
		"after a flush":    {export("order", october) + parts("flushdb") + cache, nil},
		"an import after a flush": {
			parts("flushdb") + parts("DEL", exportKey) + parts("SET", exportKey, `[]`) + export("order", october),
			map[string]string{"order": october},
		},
		"expires in seconds": {
			parts("set", exportKey, `[{"Table":"order","Timestamp":"`+october+`"}]`, "ex", "1"), map[string]string{"order": october},
		},
		"expires at a time": {
			parts("set", exportKey, `[{"Table":"order","Timestamp":"`+october+`"}]`, "ae", "1"), map[string]string{"order": october},
		},
		"zeros at the end": {export("order", october) + "\x00\x00\x00", map[string]string{"order": october}},
		"zeros between":    {"\x00" + export("order", october) + "\x00\x00" + cache, map[string]string{"order": october}},
		"other keys of the same length": {
			export("order", october) + parts("set", "table-import", "x") + parts("del", "table-import"),
			map[string]string{"order": october},
		},
		"a table twice": {
			parts("set", exportKey, `[{"Table":"order","Timestamp":"`+november+`"},{"Table":"order","Timestamp":"`+october+`"}]`),
			map[string]string{"order": october},
		},
		"no tables":                  {parts("set", exportKey, `null`), nil},
		"cut off after it":           {export("order", october) + cache[:50_000], map[string]string{"order": october}},
		"cut off in the next import": {export("order", october) + export("order", november)[:60], map[string]string{"order": october}},
		"cut off elsewhere":          {cache + cache[:100], nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readReference(strings.NewReader(c.text), readAt)
			if err != nil {
				t.Fatal(err)
			}
			var want map[string]time.Time
			for table, at := range c.want {
				if want == nil {
					want = make(map[string]time.Time)
				}
				if want[table], err = time.Parse(time.RFC3339Nano, at); err != nil {
					t.Fatal(err)
				}
			}
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadReference_RefusesDamagedFiles(t *testing.T) {
	whole := export("order", "2026-10-01T00:00:00Z")
	for name, c := range map[string]struct{ text, want string }{
		"another file":        {"SQLite format 3\x00", "it is not a log of commands"},
		"a broken command":    {whole + "*3\r\n$3\r\nset\r\n+OK\r\n", "it is not a log of commands"},
		"an unknown command":  {whole + parts("rename", "a", "b"), "it is not a log of commands"},
		"a set without value": {parts("set", exportKey), "it is not a log of commands"},
		"too many parts":      {"*6\r\n", "it is not a log of commands"},
		"no number of parts":  {"*\r\n", "it is not a log of commands"},
		"a negative length":   {"*3\r\n$-1\r\n", "it is not a log of commands"},
		"a monstrous length":  {"*3\r\n$99999999999999999999\r\n", "it is not a log of commands"},
		"a monstrous value": {
			"*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$1000000000\r\n", "the value of table-export has 1000000000 bytes",
		},
		"a line without end": {"*" + strings.Repeat("1", 1<<20), "it is not a log of commands"},
		"a wrong length": {
			"*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$2\r\n[{\r\n", "the value of table-export is not a list of tables and times",
		},
		"cut off at the start": {whole[:1], "it ends within a command"},
		"cut off in the key":   {whole[:20], "it ends within a command"},
		"cut off in the value": {whole[:60], "it ends within a command"},
		"not JSON":             {parts("set", exportKey, "order"), "the value of table-export is not a list of tables and times"},
		"no time":              {export("order", "yesterday"), "the value of table-export is not a list of tables and times"},
		"a missing time":       {parts("set", exportKey, `[{"Table":"order"}]`), "table order has no time"},
		"a time of zero":       {export("order", "0001-01-01T00:00:00Z"), "table order has no time"},
		"a time in the future": {
			export("order", "2027-01-01T00:00:00Z"),
			"the time of table order, 2027-01-01T00:00:00Z, is in the future: check the clock of this machine",
		},
		"a missing name": {export("", "2026-10-01T00:00:00Z"), `"" is not the name of a table`},
		"a hostile name": {export("../order", "2026-10-01T00:00:00Z"), `"../order" is not the name of a table`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readReference(strings.NewReader(c.text), readAt)
			if got != nil || err == nil || err.Error() != c.want {
				t.Errorf("got %v, %v, want the error %q", got, err, c.want)
			}
		})
	}
}

func FuzzReadReference(f *testing.F) {
	whole := export("order", "2026-10-01T00:00:00Z")
	for _, text := range []string{
		written, whole, whole[:40], whole + "\x00\x00", parts("flushdb") + parts("del", exportKey),
		parts("set", exportKey, "[]", "ex", "7"), "*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$16777217\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readReference(strings.NewReader(string(text)), readAt)
		if err != nil {
			return
		}
		for table, at := range got {
			if !tableName.MatchString(table) || at.Before(earliestImport) || at.After(readAt.Add(clockSkew)) {
				t.Errorf("%q at %v", table, at)
			}
		}
	})
}
