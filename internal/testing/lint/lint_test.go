package lint_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/testing/lint"
)

// root is the path of the module's root, relative to this package.
const root = "../../.."

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

func TestModule_ImportsPointOneWay(t *testing.T) {
	packages, err := lint.Packages(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 10 {
		t.Fatalf("only %d packages were found", len(packages))
	}
	report(t, lint.CheckImports(lint.Module, packages, lint.House()))
}

// moduleFiles returns all parsed files of the module.
func moduleFiles(t *testing.T) []lint.File {
	t.Helper()
	files, err := lint.Files(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 30 {
		t.Fatalf("only %d files were found", len(files))
	}
	return files
}

func TestModule_OnlyCommandLineTouchesProcess(t *testing.T) {
	report(t, lint.CheckProcess(moduleFiles(t)))
}

func TestModule_OnlyMainExits(t *testing.T) { report(t, lint.CheckExits(moduleFiles(t))) }

func TestModule_NeverSleeps(t *testing.T) { report(t, lint.CheckSleeps(moduleFiles(t))) }

func TestModule_NamesPackagesClearly(t *testing.T) { report(t, lint.CheckNames(moduleFiles(t))) }

func TestModule_OnlyDriversHaveInit(t *testing.T) { report(t, lint.CheckInits(moduleFiles(t))) }

func TestModule_PromisesNothing(t *testing.T) { report(t, lint.CheckPromises(moduleFiles(t))) }

func TestModule_SkipsNoTest(t *testing.T) { report(t, lint.CheckSkips(moduleFiles(t))) }

func TestModule_PackageVariablesAreConstant(t *testing.T) {
	report(t, lint.CheckGlobals(moduleFiles(t)))
}

func TestModule_TextsReferToNothingReadersLack(t *testing.T) {
	problems, err := lint.CheckTexts(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

// The tests below check that each check can fail.

// module writes files to a new directory and returns the directory.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
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

func TestCheckImports_EnforcesRules(t *testing.T) {
	dir := module(t, map[string]string{
		"go.mod":                      "module example.com/m\n\ngo 1.26\n",
		"internal/ground/x.go":        "package ground\n\nimport _ \"example.com/m/internal/top\"\n",
		"internal/top/x.go":           "package top\n\nimport _ \"database/sql\"\n",
		"internal/list/x.go":          "package list\n\nimport _ \"example.com/m/internal/list/a\"\n",
		"internal/list/a/x.go":        "package a\n",
		"internal/through/x.go":       "package through\n\nimport _ \"example.com/m/internal/list\"\n",
		"internal/directly/x.go":      "package directly\n\nimport _ \"example.com/m/internal/list/a\"\n",
		"internal/directly/x_test.go": "package directly\n\nimport _ \"example.com/m/internal/top\"\n",
		"internal/homeless/x.go":      "package homeless\n",
	})
	rules := []lint.Rule{
		{Package: "ground", Only: []string{}, Never: []string{"database/..."}},
		{Package: "list/...", Only: []string{"list/+"}, Never: []string{"top"}},
		{Package: "through", NeverDirectly: []string{"list/+", "top"}},
		{Package: "directly", NeverDirectly: []string{"list/+", "top"}},
		{Package: "top"},
	}
	packages, err := lint.Packages(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"directly may not itself import list/a",
		"ground may not import top",
		"ground may not depend on database/sql",
		"ground may not depend on database/sql/driver",
		"homeless has no place among the import rules: give it one in internal/testing/lint",
	}
	if diff := cmp.Diff(want, lint.CheckImports("example.com/m", packages, rules)); diff != "" {
		t.Error(diff)
	}
}

func TestPackages_ReportsUnloadablePackages(t *testing.T) {
	dir := module(t, map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.26\n",
		"x.go":   "package m\n\nimport _ \"example.com/m/internal/none\"\n",
	})
	packages, err := lint.Packages(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	got := lint.CheckImports("example.com/m", packages, nil)
	if len(got) != 1 || !strings.HasPrefix(got[0], "example.com/m can't be loaded: ") {
		t.Errorf("got %q", got)
	}
}

func TestHouse_RulesAreReachable(t *testing.T) {
	// A rule has no effect if an earlier rule matches the same packages.
	for i, r := range lint.House() {
		probe := lint.Package{
			ImportPath: lint.Module + "/internal/" + r.Package, Imports: []string{lint.Module + "/internal/nowhere"},
			Deps: []string{"testing"},
		}
		before := lint.CheckImports(lint.Module, []lint.Package{probe}, lint.House()[:i])
		if len(before) != 1 || before[0] != r.Package+" has no place among the import rules: give it one in internal/testing/lint" {
			t.Errorf("%s is matched by an earlier rule: %v", r.Package, before)
		}
	}
}

func TestHouse_RefusesForbiddenImports(t *testing.T) {
	for from, to := range map[string]string{
		"rawjson":          "cdc",
		"cdc":              "change",
		"schema":           "cdc",
		"change":           "sink",
		"sink":             "sink/sqlsink",
		"sink/sqlsink":     "drivers/postgres",
		"sink/encode":      "drivers/file",
		"drivers/postgres": "drivers",
		"pipeline":         "drivers/postgres",
		"snapshot":         "drivers",
		"source/jetstream": "server",
		"server":           "cli",
		"devhq":            "drivers/sqlite",
		"devhq/shop":       "cli",
		"supervisor":       "github.com/nats-io/nats.go",
		"telemetry":        "config",
		"config":           "telemetry",
		"state":            "drivers",
		"cli":              "testing/peers",
		"hq":               "pipeline",
	} {
		path := to
		if to != "github.com/nats-io/nats.go" {
			path = lint.Module + "/internal/" + to
		}
		p := lint.Package{ImportPath: lint.Module + "/internal/" + from, Imports: []string{path}, Deps: []string{path}}
		if len(lint.CheckImports(lint.Module, []lint.Package{p}, lint.House())) == 0 {
			t.Errorf("%s may import %s", from, to)
		}
	}
}

// parse returns the parsed files of a fixture.
func parse(t *testing.T, texts map[string]string) []lint.File {
	t.Helper()
	fixture := fstest.MapFS{}
	for name, text := range texts {
		fixture[name] = &fstest.MapFile{Data: []byte(text)}
	}
	files, err := lint.Files(fixture)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCheckProcess_FindsUses(t *testing.T) {
	const bad = "package p\n\nimport (\n\t\"fmt\"\n\tsystem \"os\"\n)\n\nfunc f() {\n\t_ = system.Args\n\t" +
		"system.Getenv(\"X\")\n\tfmt.Println()\n\tprintln()\n\t" +
		"fmt.Fprintln(system.Stdout)\n\tfmt.Sprintln()\n\tsystem.ReadFile(\"x\")\n}\n"
	got := lint.CheckProcess(parse(t, map[string]string{
		"internal/a/a.go": bad, "internal/a/a_test.go": bad, "internal/a/atest/a.go": bad, "internal/cli/a.go": bad,
		"test/bench/main.go":       bad,
		"internal/a/testdata/a.go": bad, "internal/b/b.go": "package b\n\nfunc f(fmt interface{ Println() }) { fmt.Println() }\n",
		"internal/a/tagged_windows.go": "//go:build never\n\npackage p\n\nimport \"os\"\n\nvar x = os.Environ()\n",
	}))
	want := []string{
		"internal/a/a.go:10: only internal/cli may use os.Getenv",
		"internal/a/a.go:11: only internal/cli may use fmt.Println",
		"internal/a/a.go:12: only internal/cli may print",
		"internal/a/a.go:13: only internal/cli may use os.Stdout",
		"internal/a/a.go:9: only internal/cli may use os.Args",
		"internal/a/tagged_windows.go:7: only internal/cli may use os.Environ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckExits_FindsExits(t *testing.T) {
	const bad = "package p\n\nimport (\n\t\"log\"\n\t\"os\"\n\t\"syscall\"\n)\n\nfunc f() " +
		"{\n\tos.Exit(1)\n\tlog.Fatalf(\"x\")\n\tlog.Panicln()\n\tsyscall.Exit(1)\n\tlog.Print()\n}\n"
	got := lint.CheckExits(parse(t, map[string]string{
		"internal/cli/a.go": bad, "main.go": "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }\n",
		"a_test.go": "package main\n\nimport \"os\"\n\nfunc f() { os.Exit(1) }\n",
		"other.go":  "package main\n\nimport \"os\"\n\nfunc f() { os.Exit(1) }\n",
	}))
	want := []string{
		"internal/cli/a.go:10: only main.go may call os.Exit",
		"internal/cli/a.go:13: only main.go may end the process",
		"internal/cli/a.go:11: log.Fatalf ends the process; return an error",
		"internal/cli/a.go:12: log.Panicln ends the process; return an error",
		"other.go:5: only main.go may call os.Exit",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckSleeps_FindsSleeps(t *testing.T) {
	const bad = "package p\n\nimport \"time\"\n\nfunc f() { time.Sleep(1) }\n"
	got := lint.CheckSleeps(parse(t, map[string]string{
		"a/a.go": bad, "a/a_test.go": bad, "a/b.go": "package p\n\nimport \"time\"\n\nfunc g() { time.After(1) }\n",
		"a/bubble_test.go": "package p\n\nimport (\n\t_ \"testing/synctest\"\n\t\"time\"\n)\n\nfunc f() { time.Sleep(1) }\n",
	}))
	want := []string{"a/a.go:5: nothing sleeps; wait for the condition", "a/a_test.go:5: nothing sleeps; wait for the condition"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckNames_FindsVagueNames(t *testing.T) {
	got := lint.CheckNames(parse(t, map[string]string{
		"a/x.go": "package util", "a/y.go": "package util",
		"b/x_test.go": "package helpers_test", "c/x.go": "package utility",
	}))
	want := []string{"a: a package named util says nothing of what it is", "b: a package named helpers says nothing of what it is"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckInits_FindsInits(t *testing.T) {
	const text = "package p\n\nfunc init() {}\n\ntype t struct{}\n\nfunc (t) init() {}\n"
	got := lint.CheckInits(parse(t, map[string]string{
		"internal/drivers/builtin_x.go": text, "internal/drivers/x.go": text,
		"internal/a/builtin_x.go": text,
	}))
	want := []string{
		"internal/a/builtin_x.go:3: only builtin_<driver>.go has an init",
		"internal/drivers/x.go:3: only builtin_<driver>.go has an init",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckPromises_FindsPromises(t *testing.T) {
	const promise = "TO" + "DO"
	got := lint.CheckPromises(parse(t, map[string]string{"a.go": "package p\n\n// f does it. " + promise +
		": all of it.\nfunc f() {\n\t/* FIX" + "ME */\n}\n\n// TODOS and \\uXXXX are none.\nconst x = \"" + promise + "\"\n"}))
	want := []string{"a.go:3: a " + promise + "; do it, or leave it out", "a.go:5: a FIX" + "ME; do it, or leave it out"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckSkips_FindsSkips(t *testing.T) {
	const text = "package p\n\nfunc TestX(t *T) {\n\tt.Skip()\n\tfunc() { t.SkipNow() " +
		"}()\n\tother.Skip()\n\tt.Fatal()\n}\n\nfunc FuzzX(f *F) { f.Fuzz(func(t *T) { t.Skip() }) }\n"
	got := lint.CheckSkips(parse(t, map[string]string{"a_test.go": text, "a.go": text}))
	want := []string{"a_test.go:4: a test that skips itself proves nothing", "a_test.go:5: a test that skips itself proves nothing"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckGlobals_FindsChangedGlobals(t *testing.T) {
	got := lint.CheckGlobals(parse(t, map[string]string{
		"p/a.go": `package p

import (
	"regexp"
	"sync"
	"sync/atomic"
)

var (
	count   int
	table   = map[string]int{"a": 1}
	list    []int
	mu      sync.Mutex
	number  atomic.Int64
	pointer = new(sync.Once)
	queue   = make(chan int)
	generic atomic.Pointer[int]
	pool    sync.Pool
	pattern = regexp.MustCompile("x")
	lazy    = sync.OnceValue(func() int { return 1 })
	_       error = nil
)

func f() {
	count++
	table["b"] = 2
	list = append(list, 1)
	delete(table, "a")
	_ = pattern.MatchString("x") && lazy() == 1 && table["a"] == 1
	for count = range 3 {
	}
	p := &list
	_ = p
}

func shadows(count int, list []int) (table map[string]int) {
	count++
	list[0] = 1
	table = nil
	pattern := 1
	pattern++
	return
}
`,
		"p/b.go":                        "package p\n\nfunc g() { elsewhere.x[1].y, count = 1, 2 }\n",
		"p/c.go":                        "package p\n\nvar elsewhere struct{ x []struct{ y int } }\n",
		"p/a_test.go":                   "package p\n\nvar inTest int\n\nfunc h() { inTest++ }\n",
		"q/a.go":                        "package q\n\nfunc f(count int) { count++; list := 1; list++ }\n",
		"internal/drivers/drivers.go":   "package drivers\n\nvar builtin []int\n",
		"internal/drivers/builtin_x.go": "package drivers\n\nfunc init() { builtin = append(builtin, 1) }\n",
	}))
	want := []string{
		"p/a.go:13: the package-level variable mu is a sync.Mutex, mutable state",
		"p/a.go:14: the package-level variable number is a atomic.Int64, mutable state",
		"p/a.go:15: the package-level variable pointer is a sync.Once, mutable state",
		"p/a.go:16: the package-level variable queue is a channel, mutable state",
		"p/a.go:17: the package-level variable generic is a atomic.Pointer, mutable state",
		"p/a.go:25: it changes the package-level variable count",
		"p/a.go:26: it changes the package-level variable table",
		"p/a.go:27: it changes the package-level variable list",
		"p/a.go:28: it changes the package-level variable table",
		"p/a.go:30: it changes the package-level variable count",
		"p/a.go:32: it changes the package-level variable list",
		"p/b.go:3: it changes the package-level variable count",
		"p/b.go:3: it changes the package-level variable elsewhere",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCheckTexts_FindsReferencesToWorkplace(t *testing.T) {
	const place = "sha" + "red"
	fixture := fstest.MapFS{}
	for name, text := range map[string]string{
		"a.md":       "see the design\nin ../" + place + "/design.md\n",
		"b.go":       "// " + place + "/peers has facts\n",
		"Makefile":   "cp /work" + "/main/x y\n",
		"good.md":    "a shared/exclusive lock, a shared buffer, ../sharedness, network/mainframe\n",
		".git/x":     "../" + place + "/design.md",
		"binary.bin": "\x00../" + place + "/design.md",
	} {
		fixture[name] = &fstest.MapFile{Data: []byte(text), Mode: fs.FileMode(0o644)}
	}
	got, err := lint.CheckTexts(fixture)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Makefile:1: it refers to /work" + "/main, which its readers do not have",
		"a.md:2: it refers to ../" + place + "/design, which its readers do not have",
		"b.go:1: it refers to " + place + "/peers, which its readers do not have",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
