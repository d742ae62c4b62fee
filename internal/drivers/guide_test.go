package drivers_test

import (
	"encoding/json"
	"go/format"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// guidePart matches a code block of the guide that is the content of a file.
var guidePart = regexp.MustCompile("(?ms)^<!-- (\\w+\\.go) -->\n```go\n(.*?)^```$")

// TestGuide_DriverPassesTheConformanceSuite compiles the destination of docs/adding-a-destination.md
// and runs its tests.
func TestGuide_DriverPassesTheConformanceSuite(t *testing.T) {
	text, err := os.ReadFile("../../docs/adding-a-destination.md")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, part := range guidePart.FindAllStringSubmatch(string(text), -1) {
		if files[part[1]] != "" {
			files[part[1]] += "\n"
		}
		files[part[1]] += part[2]
	}
	if diff := cmp.Diff([]string{"clickhouse.go", "clickhouse_test.go"}, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Fatal(diff)
	}
	// The overlay adds the files to the module as a package, without writing to the module's
	// directory.
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	temp := t.TempDir()
	for name, code := range files {
		formatted, err := format.Source([]byte(code))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(string(formatted), code); diff != "" {
			t.Errorf("%s is not formatted: %s", name, diff)
		}
		path, err := filepath.Abs(filepath.Join("clickhouse", name))
		if err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = filepath.Join(temp, name)
		if err := os.WriteFile(overlay.Replace[path], []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(temp, "overlay.json"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(temp, "clickhouse.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off",
		"-overlay", filepath.Join(temp, "overlay.json"), "-o", binary, "./clickhouse")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile the guide: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), binary)
	run.Dir = temp
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("run the guide's tests: %v\n%s", err, out)
	}
}
