package config_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/config"
)

const written = `# made by hand
token = "eyJ.key"   # HQ's
server_id = "s1"

url = "postgres://u:p@h/db"
keep_logs = false
colour = "blue"

# things of another program
[other]
token = "not ours"
list = [1, 2]
`

func diffFiles(want, got config.File) string {
	return cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.File{}))
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), config.FileName)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReadFile_ReadsAllKeys(t *testing.T) {
	got, warnings, err := config.ReadFile(write(t, written, 0o600))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	want := config.File{
		Token: config.NewSecret("eyJ.key"), ServerID: "s1", URL: config.NewSecret("postgres://u:p@h/db"),
		UpdateStrategy: config.Standard,
	}
	if diff := diffFiles(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadFile_OfNoFileIsEmpty(t *testing.T) {
	got, warnings, err := config.ReadFile(filepath.Join(t.TempDir(), "none"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if diff := diffFiles(config.File{}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadFile_WarnsIfOthersCanReadTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // has no such permissions
	}
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o400: 0, 0o640: 1, 0o604: 1} {
		path := write(t, written, mode)
		_, warnings, err := config.ReadFile(path)
		if err != nil || len(warnings) != want {
			t.Errorf("%v: %v, %v", mode, warnings, err)
		}
		if want == 1 && !strings.Contains(warnings[0], "chmod 600 "+path) {
			t.Error(warnings)
		}
	}
}

func TestReadFile_NamesTheLineOfAnErrorAndNoValue(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no quotes":     {"# x\ntoken = SECRET\n", "line 2 is not valid TOML"},
		"open quote":    {"server_id = \"a\"\nurl = \"SECRET\nkeep_logs = true", "line 2 is not valid TOML"},
		"bare secret":   {"SECRET", "line 1 is not valid TOML"},
		"secret as key": {"SECRET = = 1", "line 1 is not valid TOML"},
		"twice":         {"token = \"SECRET\"\ntoken = \"SECRET\"", "line 2 is not valid TOML"},
		"number":        {"\ntoken = 7", "line 2: the value of token must be text"},
		"table":         {"[url]\nSECRET = 1", "the value of url must be text"},
		"not a heal":    {"url = \"u\"\nheal = \"SECRET\"", `line 2: heal: want "tables", "all" or "off"`},
		"not a boolean": {"keep_logs = \"SECRET\"", "line 1: the value of keep_logs must be true or false"},
		"not a strategy": {
			"\n\n update_strategy = \"SECRET\"",
			`line 3: update_strategy: the update strategy must be "standard" or "after"`,
		},
	} {
		path := write(t, c.text, 0o600)
		_, _, err := config.ReadFile(path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) ||
			strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v, want one with %q", name, err, c.want)
		}
	}
}

func TestParseFile_TakesABooleanAsText(t *testing.T) {
	f, err := config.ParseFile(`keep_logs = "true"`)
	if err != nil || !f.KeepLogs {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestUpdate_KeepsUnknownKeysAndComments(t *testing.T) {
	for name, c := range map[string]struct {
		before string
		change func(*config.File)
		after  string
	}{
		"nothing": {written, func(*config.File) {}, written},
		"a changed line": {
			written, func(f *config.File) { f.URL = config.NewSecret(`file:///a"b\c`) },
			strings.Replace(written, `"postgres://u:p@h/db"`, `"file:///a\"b\\c"`, 1),
		},
		"a removed line": {
			written, func(f *config.File) { f.ServerID = "" },
			strings.Replace(written, "server_id = \"s1\"\n", "", 1),
		},
		"an added line": {
			written, func(f *config.File) { f.UpdateStrategy = config.After },
			strings.Replace(written, "colour = \"blue\"\n", "colour = \"blue\"\nupdate_strategy = \"after\"\n", 1),
		},
		"a new file": {
			"", func(f *config.File) {
				*f = config.File{
					Token: config.NewSecret("t"), ServerID: "s", URL: config.NewSecret("u://"),
					UpdateStrategy: config.Standard, KeepLogs: true,
				}
			},
			"token = \"t\"\nserver_id = \"s\"\nurl = \"u://\"\nkeep_logs = true\n",
		},
		"no final line break": {"colour = 1", func(f *config.File) { f.ServerID = "s" }, "colour = 1\nserver_id = \"s\"\n"},
		"a value of many lines": {
			"colour = 1\nurl = \"\"\"\nfile:///a\"\"\"\n", func(f *config.File) { f.URL = config.NewSecret("file:///b") },
			"colour = 1\nurl = \"file:///b\"\n",
		},
		"a quoted key":    {"\"token\" = 'a'\n", func(f *config.File) { f.Token = config.NewSecret("b") }, "token = \"b\"\n"},
		"a known default": {"keep_logs = true\n", func(f *config.File) { f.KeepLogs = false }, "keep_logs = false\n"},
	} {
		path := write(t, c.before, 0o644)
		if err := config.Update(path, c.change); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.after, read(t, path)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		f, _, err := config.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		again := f
		c.change(&again)
		if diff := diffFiles(again, f); diff != "" {
			t.Errorf("%s: it reads back otherwise: %s", name, diff)
		}
	}
}

func TestWrite_LeavesNoOtherFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "data")
	path := filepath.Join(dir, config.FileName)
	if err := (config.File{ServerID: "s"}).Write(path); err != nil {
		t.Fatal(err)
	}
	// A directory in the file's place can't be replaced.
	blocked := filepath.Join(dir, "blocked")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (config.File{ServerID: "s"}).Write(blocked); err == nil {
		t.Error("a directory was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"blocked", config.FileName}, names); diff != "" {
		t.Error(diff)
	}
}

func TestWrite_KeepsALink(t *testing.T) {
	target := write(t, written, 0o600)
	link := filepath.Join(t.TempDir(), config.FileName)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := config.Update(link, func(f *config.File) { f.ServerID = "s2" }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Replace(written, `"s1"`, `"s2"`, 1), read(t, target)); diff != "" {
		t.Error(diff)
	}
	if got, err := os.Readlink(link); err != nil || got != target {
		t.Errorf("%s, %v", got, err)
	}
}

func TestReserve_LeavesTheFileAsItIs(t *testing.T) {
	path := write(t, written, 0o600)
	r, err := config.Reserve(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(written, read(t, path)); diff != "" {
		t.Error(diff)
	}
	r.Release()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if r, err = config.Reserve(path); err != nil {
		t.Fatal(err)
	}
	if err := r.Update(func(f *config.File) { f.ServerID = "s2" }); err != nil {
		t.Fatal(err)
	}
	r.Release()
	if diff := cmp.Diff(strings.Replace(written, `"s1"`, `"s2"`, 1), read(t, path)); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestReserve_NeedsAFileThatCanBeReplaced(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.Symlink(filepath.Join(dir, "none", "data"), broken); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Reserve(filepath.Join(broken, config.FileName)); err == nil {
		t.Error("a file where none can be made was reserved")
	}
	if r, err := config.Reserve(filepath.Join(dir, "data", config.FileName)); err != nil {
		t.Error(err)
	} else {
		r.Release()
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "data")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func FuzzFileRoundTrip(f *testing.F) {
	f.Add(written, "token", "url")
	f.Add("url = '''\n[x'''\n", "a\"\n", "\x00")
	f.Add("[token]\n", "", "")
	f.Fuzz(func(t *testing.T, text, token, url string) {
		file, err := config.ParseFile(text)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), config.FileName)
		file.Token, file.URL = config.NewSecret(token), config.NewSecret(url)
		if err := file.Write(path); err != nil {
			return // invalid UTF-8 is no TOML
		}
		back, _, err := config.ReadFile(path)
		if err != nil {
			t.Fatalf("it does not read back: %v", err)
		}
		file.Token, file.URL = config.NewSecret(strings.TrimSpace(token)), config.NewSecret(strings.TrimSpace(url))
		if diff := diffFiles(file, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestParseFile_RequireTLS(t *testing.T) {
	for text, want := range map[string]string{
		"": "unset", "require_tls = true": "true", "require_tls = false": "false",
		`require_tls = "true"`: "true",
	} {
		f, err := config.ParseFile(text)
		got := "unset"
		if f.RequireTLS != nil {
			got = strconv.FormatBool(*f.RequireTLS)
		}
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	if _, err := config.ParseFile("require_tls = \"yes\""); err == nil {
		t.Error("a value that is neither true nor false is accepted")
	}
}

// TestUpdate_KeepsRequireTLS: HQ configures a destination.
func TestUpdate_KeepsRequireTLS(t *testing.T) {
	path := write(t, "require_tls = true # by the operator\n", 0o600)
	if err := config.Update(path, func(f *config.File) { f.URL = config.NewSecret("file:///x\nrequire_tls = false") }); err != nil {
		t.Fatal(err)
	}
	f, _, err := config.ReadFile(path)
	if err != nil || f.RequireTLS == nil || !*f.RequireTLS || !strings.Contains(read(t, path), "require_tls = true # by the operator\n") {
		t.Errorf("%v, %q", err, read(t, path))
	}
}

// TestParseFile_Heal: only the operator writes these values.
func TestParseFile_Heal(t *testing.T) {
	no := false
	path := write(t, "heal = \"off\"\nbackfill_new_tables = false\n", 0o600)
	f, _, err := config.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.File{UpdateStrategy: config.Standard, Heal: config.HealOff, BackfillNewTables: &no}, f,
		cmpopts.IgnoreUnexported(config.File{}, config.Secret{})); diff != "" {
		t.Error(diff)
	}
}
