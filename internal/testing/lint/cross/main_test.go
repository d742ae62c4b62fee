package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write creates a module from files, which imports another module, and returns its directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/main\n\ngo 1.26\n\nrequire example.com/other v0.0.0\n\nreplace example.com/other " +
			"=> ./other\n",
		"main.go":        "package main\n\nimport \"example.com/other\"\n\nfunc main() { other.Do() }\n",
		"other/go.mod":   "module example.com/other\n\ngo 1.26\n",
		"other/other.go": "package other\n\nfunc Do() {}\n",
	} {
		if _, ok := files[name]; !ok {
			files[name] = text
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun_PassesProgramForEveryPlatform(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), write(t, map[string]string{}), []string{"."}, &out); err != nil {
		t.Error(err)
	}
	for _, p := range []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"} {
		if !strings.Contains(out.String(), p+": ") {
			t.Errorf("%s is not checked:\n%s", p, &out)
		}
	}
}

func TestRun_ReportsPlatformsThatDoNotCompile(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
		only  string // part of the names of the platforms that fail
	}{
		"a body of ours": {
			map[string]string{"a_windows.go": "package main\n\nfunc a() int { return \"\" }\n"},
			"a_windows.go:3:23: cannot use",
			"windows/",
		},
		"a body of others": {
			map[string]string{"other/a_darwin.go": "package other\n\nfunc a() { missing() }\n"},
			"a_darwin.go:3:12: undefined: missing",
			"darwin/",
		},
		"a function that a platform lacks": {
			map[string]string{
				"other/other.go": "package other\n", "other/a_linux.go": "package other\n\nfunc Do() {}\n",
				"other/a_darwin.go": "package other\n\nfunc Do() {}\n",
			},
			"undefined: other.Do", "windows/",
		},
		"a number that a processor lacks": {
			map[string]string{"other/a_arm64.go": "package other\n\nconst a int64 = 1 << 63\n"}, "overflows", "/arm64",
		},
		"syntax": {map[string]string{"a_linux_arm64.go": "package main\n\nfunc {\n"}, "a_linux_arm64.go", "linux/arm64"},
	} {
		err := run(t.Context(), write(t, c.files), []string{"."}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		for line := range strings.Lines(err.Error()) {
			if platform, _, _ := strings.Cut(line, ": "); strings.Count(platform, "/") == 1 && !strings.Contains(platform, c.only) {
				t.Errorf("%s: %s fails too", name, platform)
			}
		}
	}
}
