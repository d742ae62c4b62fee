package sink_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestParseURL_ExpandsAndEscapesPlaceholders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("a b/c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { return "p@ss/w%rd", name == "PW" }
	for raw, want := range map[string]string{
		"postgres://u:${PW}@h/db":                "p@ss/w%rd",
		"postgres://u:${file:" + file + "}@h/db": "a b/c",
		"postgres://u:plain@h/db":                "plain",
	} {
		u, err := sink.ParseURL(raw, lookup)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := u.User.Password(); got != want || u.Host != "h" {
			t.Errorf("%s: password %q at host %q", raw, got, u.Host)
		}
	}
}

func TestParseURL_RejectsBadURLsWithoutSecrets(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, raw := range []string{
		"postgres://u:SECRET%zz@h/db", "postgres://u:SECRET@h:port/db", "SECRET", "", "postgres://u:${SECRET",
		"postgres://u:${NOPE}@h/SECRET",
		"postgres://SECRET{}@h/", "postgres://u:SECRET @h/\x00",
		"postgres://SECRET@h:0/db", "postgres://SECRET@h:65536/db", "postgres://SECRET@h:4815162342/db", "postgres://u:a${SECRET b}@h/db",
		"postgres://u:p@h/db?${SECRET}=1",
	} {
		_, err := sink.ParseURL(raw, none)
		if err == nil {
			t.Errorf("%q is no error", raw)
			continue
		}
		if fault.Of(err) != fault.Fatal || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v, class %v", raw, err, fault.Of(err))
		}
	}
}

func TestParseURL_RefusesAnUnreadableFile(t *testing.T) {
	_, err := sink.ParseURL("postgres://u:${file:/nope}@SECRET/", func(string) (string, bool) { return "", false })
	if fault.Of(err) != fault.Refused || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "/nope") {
		t.Errorf("%v, class %v", err, fault.Of(err))
	}
}

// TestSpelling_StaysAsRecorded checks the spellings that earlier versions recorded in data
// directories.
func TestSpelling_StaysAsRecorded(t *testing.T) {
	d := sink.Driver{Options: []sink.Option{{Name: "schema", Harmless: true}}}
	for raw, want := range map[string]string{
		"postgres://u:p@h:5432/db?sslmode=require": "postgres://h:5432/db",
		"postgres://other@h:5432/db/?schema=x&a=b": "postgres://h:5432/db?schema=x",
		"sqlite://shop.db?busy_timeout=1":          "sqlite://shop.db",
		"file:///var/data/":                        "file:///var/data",
		"kafka://b:9092?topic=a":                   "kafka://b:9092",
	} {
		if got := sink.Spelling(raw); got != want || sink.Spelling(sink.MaskURL(raw, d)) != want || sink.Spelling(want) != want {
			t.Errorf("Spelling(%s) = %s, want %s", raw, got, want)
		}
	}
}
