package sqlite

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(victimOf); path != "" {
		os.Exit(beVictim(path))
	}
	sinktest.Main(m)
}

func TestURL_NamesAFile(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"sqlite:///var/lib/eds/shop.db":      "/var/lib/eds/shop.db",
		"sqlite://shop.db":                   filepath.Join(here, "shop.db"),
		"sqlite://dir/shop.db":               filepath.Join(here, "dir/shop.db"),
		"sqlite://./shop.db":                 filepath.Join(here, "shop.db"),
		"sqlite://../Shop.DB":                filepath.Join(filepath.Dir(here), "Shop.DB"),
		"sqlite:shop.db":                     filepath.Join(here, "shop.db"),
		"sqlite:/shop.db":                    "/shop.db",
		"sqlite:///my%20files/a%3Fb%23c.db":  "/my files/a?b#c.db",
		"sqlite:///a/../b.db?delete=soft":    "/b.db",
		"sqlite://:memory:":                  "error",
		"sqlite://":                          "error",
		"sqlite:///":                         "error",
		"sqlite:///dir/":                     "error",
		"sqlite://user@shop.db":              "error",
		"sqlite:///a%00b":                    "error",
		"sqlite:///shop.db#fragment":         "error",
		"sqlite:///shop.db?busy_timeout=-1s": "error",
		"sqlite:///shop.db?busy_timeout=x":   "error",
		"sqlite:///shop.db?busy_timeout=2h":  "error",
		"sqlite:///shop.db?journal_mode=off": "error",
		"sqlite:///shop.db?synchronous=off":  "error",
	} {
		got := "error"
		if target, err := url.Parse(raw); err == nil {
			if d, _, err := parse(target, sink.Env{}); err == nil {
				got = d.path
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}

func TestOptions_HaveDefaults(t *testing.T) {
	type options struct {
		Timeout          time.Duration
		Mode, Synchronus string
	}
	for query, want := range map[string]options{
		"":                             {5 * time.Second, "wal", "full"},
		"busy_timeout=250":             {250 * time.Millisecond, "wal", "full"},
		"busy_timeout=2m":              {2 * time.Minute, "wal", "full"},
		"journal_mode=DELETE":          {5 * time.Second, "delete", "full"},
		"synchronous=normal":           {5 * time.Second, "wal", "normal"},
		"synchronous=&busy_timeout=0s": {0, "wal", "full"},
	} {
		d, _, err := parse(&url.URL{Scheme: "sqlite", Path: "/x.db", RawQuery: query}, sink.Env{})
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if diff := cmp.Diff(want, options{d.busyTimeout, d.journalMode, d.synchronous}); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
}

func TestForm_BuildsURL(t *testing.T) {
	for _, path := range []string{"/var/lib/eds/shop.db", "/with blank/ä?#%&;=+@:.db", "/c:/x.db", "/a//b"} {
		raw, wrong := buildURL(map[string]string{"Database": path})
		if wrong != nil {
			t.Errorf("%s: %v", path, wrong)
			continue
		}
		target, err := sink.ParseURL(raw, os.LookupEnv)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if got, err := pathOf(target); got != filepath.Clean(path) || err != nil {
			t.Errorf("%s: %s names %s, %v", path, raw, got, err)
		}
	}
	relative, _ := buildURL(map[string]string{"Database": "dir:1/shop.db"})
	if want := "sqlite://./dir:1/shop.db"; relative != want {
		t.Errorf("%s, want %s", relative, want)
	}
	for _, path := range []string{"", "  ", "/dir/", "a\x00b"} {
		if raw, wrong := buildURL(map[string]string{"Database": path}); len(wrong) != 1 || wrong[0].Field != "Database" || raw != "" {
			t.Errorf("%q: %s, %v", path, raw, wrong)
		}
	}
}

func TestOpen_ExplainsErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := write("notes.txt", strings.Repeat("this is not a database. ", 100))
	for raw, want := range map[string]string{
		"sqlite://" + text: "database file " + text + ": the file is not a SQLite database, or it is encrypted:" +
			" file is not a database (code 26)",
		"sqlite://" + dir:               dir + " is a directory, not a database file",
		"sqlite://" + text + "/shop.db": "find the directory of the database file: open " + text + ": not a directory",
		"sqlite://" + dir + "/x.db?timeout=1": `the sqlite url has an unknown option "timeout"; ` +
			`known options are busy_timeout, journal_mode, synchronous, metadata, delete`,
		"sqlite://" + dir + "/x.db?synchronos=x":  `the sqlite url has an unknown option "synchronos"; did you mean "synchronous"?`,
		"sqlite://" + dir + "/x.db?synchronous=x": `option synchronous should be full, extra or normal`,
		"sqlite://" + dir + "/x.db?delete=maybe":  `option delete should be hard or soft`,
	} {
		target, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, err = open(t.Context(), target, sink.Env{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", raw, err, want)
		}
		if got := fault.Of(err); got != fault.Fatal {
			t.Errorf("%s: the error is %v", raw, got)
		}
	}
}

func TestMigrate_CreatesTheFileAndItsDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "directories", "shop.db")
	s, err := open(t.Context(), &url.URL{Scheme: "sqlite", Path: path}, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.(sink.Migrator).Migrate(t.Context(), []*schema.Table{thing(t)}); err != nil {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	db := openAt(t, path)
	if diff := cmp.Diff([]string{"wal"}, lines(t, db, "PRAGMA journal_mode")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"thing"}, lines(t, db, "SELECT name FROM sqlite_schema WHERE type = 'table'")); diff != "" {
		t.Error(diff)
	}
}
