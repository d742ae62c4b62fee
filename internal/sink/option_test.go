package sink_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var testOptions = []sink.Option{
	{Name: "schema"},
	{
		Name: "mode", Type: sink.Choice{Values: []string{"true", "false", "Strict"}, Synonyms: map[string]string{"1": "true"}},
		Default: "false",
	},
	{Name: "gzip", Type: sink.Bool{}, Default: "true"},
	{Name: "rows", Type: sink.Int{Min: 1, Max: 100}, Default: "7"},
	{Name: "most", Type: sink.Int{Min: 1}},
	{Name: "partitions", Type: sink.Int{Min: 1, Max: 9, None: -1}, Default: "-1"},
	{
		Name: "timeout", Type: sink.Duration{Min: time.Second, Max: time.Hour, Unit: time.Second}, Default: "30s",
		Aliases: []string{"clientTimeout"},
	},
	{Name: "age", Type: sink.Duration{Min: time.Second}},
	{Name: "bytes", Type: sink.Size{}},
	{Name: "file", Type: sink.FilePath{}},
	{Name: "password", Type: sink.SecretText{}},
}

// values holds the options of a URL, read with each method of sink.Values.
type values struct {
	Schema, Mode string
	Gzip         bool
	Rows, Most   int
	Timeout, Age time.Duration
	Bytes        int64
	Password     string
	TimeoutGiven bool
	SchemasOfAll []string
}

func TestParseOptions_ReturnsValuesOrDefaults(t *testing.T) {
	defaults := values{Mode: "false", Gzip: true, Rows: 7, Timeout: 30 * time.Second}
	with := func(change func(v *values)) values {
		v := defaults
		change(&v)
		return v
	}
	for query, want := range map[string]values{
		"":                         defaults,
		"mode=&rows=&gzip=&bytes=": defaults,
		"schema=a&schema=b":        with(func(v *values) { v.Schema, v.SchemasOfAll = "a", []string{"a", "b"} }),
		"schema=&schema=b":         with(func(v *values) { v.Schema, v.SchemasOfAll = "b", []string{"b"} }),
		"mode=1":                   with(func(v *values) { v.Mode = "true" }),
		"mode=strict":              with(func(v *values) { v.Mode = "Strict" }),
		"gzip=0":                   with(func(v *values) { v.Gzip = false }),
		"rows=100&most=1000000":    with(func(v *values) { v.Rows, v.Most = 100, 1_000_000 }),
		"timeout=2m":               with(func(v *values) { v.Timeout, v.TimeoutGiven = 2*time.Minute, true }),
		"clientTimeout=90":         with(func(v *values) { v.Timeout, v.TimeoutGiven = 90*time.Second, true }),
		"age=48h":                  with(func(v *values) { v.Age = 48 * time.Hour }),
		"bytes=64M":                with(func(v *values) { v.Bytes = 64 << 20 }),
		"password=a%20b":           with(func(v *values) { v.Password = "a b" }),
	} {
		v, err := sink.ParseOptions(&url.URL{Scheme: "db", RawQuery: query}, testOptions)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		got := values{
			Schema: v.Text("schema"), Mode: v.Text("mode"), Gzip: v.Bool("gzip"), Rows: v.Int("rows"), Most: v.Int("most"),
			Timeout: v.Duration("timeout"), Age: v.Duration("age"), Bytes: v.Size("bytes"), Password: v.Text("password"),
			TimeoutGiven: v.Given("timeout"), SchemasOfAll: v.All("schema"),
		}
		if want.SchemasOfAll == nil && want.Schema == "" {
			got.SchemasOfAll = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
}

func TestParseOptions_NamesTheOptionButNotItsValue(t *testing.T) {
	for query, want := range map[string]string{
		"mode=SECRET":      "option mode should be true, false or Strict",
		"gzip=SECRET":      "option gzip should be true or false",
		"rows=0":           "option rows should be a number from 1 to 100",
		"rows=SECRET":      "option rows should be a number from 1 to 100",
		"most=0":           "option most should be a number, 1 at least",
		"partitions=0":     "option partitions should be a number from 1 to 9, or -1",
		"timeout=500ms":    "option timeout should be a duration like 500ms, 30s or 5m, from 1s to 1h0m0s, or a number of seconds",
		"clientTimeout=0":  "option timeout should be a duration like 500ms, 30s or 5m, from 1s to 1h0m0s, or a number of seconds",
		"age=3":            "option age should be a duration like 500ms, 30s or 5m, 1s at least",
		"bytes=2048g":      "option bytes should be a number of bytes like 64m, 1 at least and 1024g at most",
		"shema=SECRET":     `the db url has an unknown option "shema"; did you mean "schema"?`,
		"zzzzzzzzz=SECRET": `the db url has an unknown option "zzzzzzzzz"; known options are schema, mode,`,
		"SECRET":           "the db url has an option without a name or a value; write & in values as %26",
	} {
		_, err := sink.ParseOptions(&url.URL{Scheme: "db", RawQuery: query}, testOptions)
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "SECRET") || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: %v: %v, want %s", query, fault.Of(err), err, want)
		}
	}
}

func TestValues_ReadFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"": "", file: "text"} {
		v, err := sink.ParseOptions(&url.URL{RawQuery: url.Values{"file": {path}}.Encode()}, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := v.File("file"); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

func TestValues_PanicForUndeclaredOptions(t *testing.T) {
	v, err := sink.ParseOptions(&url.URL{RawQuery: "rows=1"}, testOptions)
	if err != nil {
		t.Fatal(err)
	}
	for what, read := range map[string]func(){
		"undeclared": func() { v.Text("nonsuch") }, "another type": func() { v.Bool("rows") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			read()
		}()
	}
}
