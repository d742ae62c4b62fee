// Package builds_test builds the program with each of its drivers alone, as users
// do who want a small binary:
//
//	go build -tags use_custom_driver,use_postgres
package builds_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/shopmonkeyus/eds"

// root is the directory of the main package, from here.
const root = "../.."

// run runs a command in the root and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	cmd.Stderr = new(strings.Builder)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, cmd.Stderr)
	}
	return string(out)
}

// links returns the drivers by the names that build tags give them.
func links(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "internal/drivers/builtin_*.go"))
	if err != nil || len(files) < 3 {
		t.Fatalf("files that link drivers: %v, %v", files, err)
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "builtin_"), ".go")
	}
	return names
}

// dependencies returns the packages that one is made of, with build tags.
func dependencies(t *testing.T, tags, path string) map[string]bool {
	t.Helper()
	set := make(map[string]bool)
	for _, p := range strings.Fields(run(t, "go", "list", "-deps", "-tags", tags, path)) {
		set[p] = true
	}
	return set
}

// drivers builds the program and returns the names of the destinations that it
// says it has.
func drivers(t *testing.T, tags string) []string {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(t.TempDir(), "eds"))
	if err != nil {
		t.Fatal(err)
	}
	// With the race detector, because the tests have built most packages so.
	run(t, "go", "build", "-race", "-ldflags", "-s -w -linkmode=internal", "-tags", tags, "-o", program, ".")
	var names []string
	for line := range strings.Lines(run(t, program, "server", "help")) {
		if strings.HasPrefix(line, "  ") {
			names = append(names, strings.Fields(line)[0])
		}
	}
	for _, name := range names {
		if text := run(t, program, "server", "help", name); !strings.Contains(text, name) {
			t.Errorf("the help of %s does not name it:\n%s", name, text)
		}
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestABuildWithOneDriverHoldsNoOther(t *testing.T) {
	bare := dependencies(t, "use_custom_driver", ".")
	for p := range bare {
		if strings.HasPrefix(p, module+"/internal/drivers/") {
			t.Errorf("a build without drivers holds %s", p)
		}
	}
	var all []string
	for _, link := range links(t) {
		tags := "use_custom_driver,use_" + link
		with := dependencies(t, tags, ".")
		var own []string // the driver's own packages
		for p := range with {
			if strings.HasPrefix(p, module+"/internal/drivers/") {
				own = append(own, p)
			}
		}
		if len(own) == 0 {
			t.Errorf("a build with %s holds no driver", tags)
		}
		allowed := make(map[string]bool)
		for _, p := range own {
			if name := strings.Split(strings.TrimPrefix(p, module+"/internal/drivers/"), "/")[0]; name != link {
				t.Errorf("a build with %s holds %s", tags, p)
			}
			for d := range dependencies(t, tags, p) {
				allowed[d] = true
			}
		}
		for p := range with {
			if !bare[p] && !allowed[p] {
				t.Errorf("a build with %s holds %s, which neither the program nor the driver asks for", tags, p)
			}
		}
		names := drivers(t, tags)
		if len(names) == 0 {
			t.Errorf("a build with %s has no destination", tags)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	every := drivers(t, "")
	slices.Sort(every)
	if diff := cmp.Diff(every, all); diff != "" {
		t.Errorf("destinations of the whole program, and of the builds with one driver (-whole +one each)\n%s", diff)
	}
}

// TestWhatOneDriverNeedsIsInNoOtherBuild names the client libraries, which are
// what makes a binary large.
func TestWhatOneDriverNeedsIsInNoOtherBuild(t *testing.T) {
	libraries := map[string]string{ // by the driver that may hold it
		"github.com/jackc/pgx/":         "postgres",
		"modernc.org/sqlite":            "sqlite",
		"github.com/go-sql-driver/":     "mysql",
		"github.com/microsoft/":         "sqlserver",
		"github.com/snowflakedb/":       "snowflake",
		"github.com/twmb/franz-go":      "kafka",
		"github.com/Azure/azure-sdk":    "eventhub",
		"github.com/aws/aws-sdk-go-v2/": "s3",
	}
	found := make(map[string]bool)
	for _, link := range links(t) {
		for p := range dependencies(t, "use_custom_driver,use_"+link, ".") {
			for prefix, owner := range libraries {
				if !strings.HasPrefix(p, prefix) {
					continue
				}
				if owner == link {
					found[link] = true
				} else if !shared[link][prefix] {
					t.Errorf("a build with %s alone holds %s", link, p)
				}
			}
		}
	}
	for _, link := range links(t) {
		if !found[link] && slices.Contains([]string{"postgres", "sqlite", "mysql", "sqlserver", "snowflake", "s3", "kafka", "eventhub"}, link) {
			t.Errorf("the build with %s does not hold its own client library: is the table above still right?", link)
		}
	}
}

// shared are libraries of one destination that the client of another needs.
var shared = map[string]map[string]bool{
	"kafka":     {"github.com/aws/aws-sdk-go-v2/": true},                                     // credentials for Amazon MSK
	"snowflake": {"github.com/aws/aws-sdk-go-v2/": true, "github.com/Azure/azure-sdk": true}, // its stages lie there
	"sqlserver": {"github.com/Azure/azure-sdk": true},                                        // Entra ID
}
