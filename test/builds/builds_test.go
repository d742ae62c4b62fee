// Package builds_test checks the small builds of the program: one driver, and no HQ for
// development unless it is asked for.
//
//	go build -tags use_custom_driver,use_postgres
package builds_test

import (
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	module  = "github.com/shopmonkeyus/eds"
	drivers = module + "/internal/drivers"
)

// root is the relative path of the main package.
const root = "../.."

// run runs a command in the root directory and returns its output.
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

// links returns the names of the drivers that have a build tag. The tag is use_ and the name.
func links(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "internal/drivers/builtin_*.go"))
	if err != nil || len(files) < 3 {
		t.Fatalf("list the files that link drivers: %v, %v", files, err)
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "builtin_"), ".go")
	}
	return names
}

// build lists the packages of the program with some build tags.
type build struct {
	packages map[string][]string // import path -> dependencies, direct and indirect
	files    map[string]string   // import path -> Go files; packages of this module only
}

func newBuild(t *testing.T, tags string) build {
	t.Helper()
	b := build{make(map[string][]string), make(map[string]string)}
	list := run(t, "go", "list", "-deps", "-tags", tags, "-f", `{{.ImportPath}}|{{join .Deps " "}}|{{join .GoFiles " "}}`, ".")
	for line := range strings.Lines(list) {
		path, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		deps, files, _ := strings.Cut(rest, "|")
		b.packages[path] = strings.Fields(deps)
		if path == module || strings.HasPrefix(path, module+"/") {
			b.files[path] = files
		}
	}
	return b
}

// destinations returns the names of the destinations that the build tags select. It builds and
// runs a program that prints them.
func destinations(t *testing.T, tags string) []string {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(t.TempDir(), "destinations"))
	if err != nil {
		t.Fatal(err)
	}
	// Build with the race detector, because then most packages are in the build cache from the
	// tests.
	run(t, "go", "build", "-race", "-ldflags", "-s -w -linkmode=internal", "-tags", tags, "-o", program, "./test/builds/destinations")
	return strings.Fields(run(t, program))
}

// libraries maps the path prefixes of large dependencies to the driver that needs the dependency.
var libraries = map[string]string{
	"github.com/jackc/pgx/":         "postgres",
	"modernc.org/sqlite":            "sqlite",
	"github.com/go-sql-driver/":     "mysql",
	"github.com/microsoft/":         "sqlserver",
	"github.com/snowflakedb/":       "snowflake",
	"github.com/twmb/franz-go":      "kafka",
	"github.com/Azure/azure-sdk":    "eventhub",
	"github.com/aws/aws-sdk-go-v2/": "s3",
}

// shared holds the libraries of one driver that another driver's client needs, too, by that other
// driver.
var shared = map[string]map[string]bool{
	"kafka":     {"github.com/aws/aws-sdk-go-v2/": true},                                     // for credentials of Amazon MSK
	"snowflake": {"github.com/aws/aws-sdk-go-v2/": true, "github.com/Azure/azure-sdk": true}, // for stages in S3 or Azure
	"sqlserver": {"github.com/Azure/azure-sdk": true},                                        // for Entra ID
}

// helpers maps packages below internal/drivers that are not drivers to the drivers that use them.
var helpers = map[string][]string{"awscredentials": {"kafka", "s3"}}

func TestCustomBuild_HoldsOneDriver(t *testing.T) {
	bare := newBuild(t, "use_custom_driver")
	for p := range bare.packages {
		if strings.HasPrefix(p, drivers+"/") {
			t.Errorf("the build without drivers holds %s", p)
		}
	}
	var all []string
	for _, link := range links(t) {
		tags := "use_custom_driver,use_" + link
		with := newBuild(t, tags)
		for p, files := range bare.files {
			if p != drivers && with.files[p] != files {
				t.Errorf("%s has other files with the tags %s; only package drivers may depend on a driver's tag", p, tags)
			}
		}
		checkPackages(t, link, bare, with)
		names := destinations(t, tags)
		if len(names) == 0 {
			t.Errorf("the build with %s has no destination", tags)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	if diff := cmp.Diff(destinations(t, ""), all); diff != "" {
		t.Errorf("destinations of the full build (-) and of the builds with one driver together (+)\n%s", diff)
	}
}

func TestCustomBuild_HoldsDevHQOnlyWithItsTag(t *testing.T) {
	for tags, want := range map[string]bool{
		"":                               true,
		"use_custom_driver,use_postgres": false,
		"use_custom_driver,use_postgres,use_devhq": true,
	} {
		packages := newBuild(t, tags).packages
		for _, p := range []string{module + "/internal/devhq", "github.com/nats-io/nats-server/v2/server"} {
			if _, got := packages[p]; got != want {
				t.Errorf("the build with the tags %q holds %s: %v, want %v", tags, p, got, want)
			}
		}
	}
}

// checkPackages checks the packages of the build with, which links only the driver link. Each must
// be a package of the build bare, which links no driver, or a dependency of that driver.
func checkPackages(t *testing.T, link string, bare, with build) {
	t.Helper()
	allowed, hasDriver, found := maps.Clone(bare.packages), false, make(map[string]bool)
	for p, deps := range with.packages {
		name, ok := strings.CutPrefix(p, drivers+"/")
		if !ok {
			continue
		}
		hasDriver = true
		if name, _, _ = strings.Cut(name, "/"); name != link && !slices.Contains(helpers[name], link) {
			t.Errorf("the build with %s alone holds %s", link, p)
		}
		for _, d := range append(deps, p) {
			allowed[d] = nil
		}
	}
	if !hasDriver {
		t.Errorf("the build with %s alone holds no driver", link)
	}
	for p := range with.packages {
		if _, ok := allowed[p]; !ok {
			t.Errorf("the build with %s alone holds %s, which neither the program nor the driver imports", link, p)
		}
		for prefix, owner := range libraries {
			switch {
			case !strings.HasPrefix(p, prefix):
			case owner == link:
				found[prefix] = true
			case !shared[link][prefix]:
				t.Errorf("the build with %s alone holds %s", link, p)
			}
		}
	}
	for prefix, owner := range libraries {
		if owner == link && !found[prefix] {
			t.Errorf("the build with %s alone does not hold %s: update the table libraries", link, prefix)
		}
	}
}
