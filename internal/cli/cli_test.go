package cli_test

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cli"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/state"
)

// TestMain is also the worker of servers that tests start, because that is the
// program that runs.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		p := cli.System()
		p.OrphanLimit, _ = time.ParseDuration(os.Getenv(orphanLimitVariable)) // else the usual one
		os.Exit(cli.Run(p))
	}
	os.Exit(m.Run())
}

// terminal is what both this process and the workers that it starts print on.
type terminal struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// eds runs the command line in this process.
func eds(t *testing.T, env map[string]string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var out, errs terminal
	code = cli.Run(cli.Process{
		Args: args, Stdin: null, Stdout: &out, Stderr: &errs,
		Lookup: func(name string) (string, bool) { value, ok := env[name]; return value, ok },
	})
	return out.String(), errs.String(), code
}

func TestVersion_PrintsOneLine(t *testing.T) {
	out, _, code := eds(t, nil, "version")
	if code != 0 || strings.Count(out, "\n") != 1 ||
		strings.ContainsAny(strings.TrimSuffix(out, "\n"), " v\n") && !strings.Contains(out, "dev") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestUsage_SuggestsAndExitsWithThree(t *testing.T) {
	dir := t.TempDir()
	for want, args := range map[string][]string{
		`did you mean "eds server"?`:           {"sever"},
		`did you mean "--data-dir"?`:           {"server", "--data-dri", dir},
		`did you mean "--companyIds"?`:         {"import", "--companyids", "x"},
		`takes no arguments, but got "now"`:    {"version", "now"},
		`did you mean "eds upgrade"?`:          {"upgarde"},
		`publickey takes no arguments`:         {"publickey", "x"},
		`unknown command "eds dlq sho"`:        {"help", "dlq", "sho"},
		`run: eds server help sqlite`:          {"help", "sqlite"},
		`needs one argument, the code`:         {"enroll"},
		`did you mean "postgres"?`:             {"server", "help", "postgras"},
		`--renew-interval: `:                   {"server", "--data-dir", dir, "--renew-interval", "1ms"},
		`--timeOffset: `:                       {"import", "--data-dir", dir, "--timeOffset", "yesterday"},
		`--only: its value is empty`:           {"import", "--data-dir", dir, "--only", ""},
		`--companyIds: its value is empty`:     {"verify", "--data-dir", dir, "--companyIds", ","},
		`--locationIds: its value is empty`:    {"import", "--data-dir", dir, "--locationIds="},
		`give the ids of the entries to drop`:  {"dlq", "drop", "--data-dir", dir},
		`there is no api key`:                  {"import", "--data-dir", dir, "--url", "file://x"},
		`the api key is malformed`:             {"import", "--data-dir", dir, "--url", "file://x", "--api-key", "SECRET"},
		`this is not an enrolment code`:        {"enroll", "--data-dir", dir, "X123"},
		`want a time like 2026-01-31T00:00:00`: {"dlq", "list", "--data-dir", dir, "--since", "never"},
	} {
		out, stderr, code := eds(t, nil, args...)
		if code != 3 || !strings.Contains(stderr, want) || strings.Contains(out+stderr, "SECRET") {
			t.Errorf("eds %v: exit code %d, want 3 and %q\n%s%s", args, code, want, out, stderr)
		}
	}
}

func TestHelp_DescribesEveryDestination(t *testing.T) {
	list, _, code := eds(t, nil, "server", "help")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, name := range []string{"file", "postgres", "sqlite"} {
		if !strings.Contains(list, "\n  "+name+" ") {
			t.Errorf("%s is not listed:\n%s", name, list)
		}
		one, _, code := eds(t, nil, "server", "help", name)
		if code != 0 || !strings.Contains(one, "\nURL\n  "+name+"://") || !strings.Contains(one, "\nOptions") {
			t.Errorf("help %s: exit code %d\n%s", name, code, one)
		}
	}
}

// dataDir returns a new data directory.
func dataDir(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDeadLetters_ReportAnEmptyQueue(t *testing.T) {
	out, _, code := eds(t, nil, "dlq", "list", "--data-dir", dataDir(t))
	if code != 0 || out != "The dead-letter queue is empty.\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func startHQ(t *testing.T) *devhq.HQ {
	t.Helper()
	h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Customers: 5, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestEnroll_StoresTheKeyForItsOwnerOnly(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, exit := eds(t, nil, "enroll", "--data-dir", dir, "--api-url", h.APIURL(), code); exit != 0 ||
		!strings.Contains(out, "Enrolled as server ") {
		t.Fatalf("exit code %d\n%s%s", exit, out, stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "config.toml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("config.toml: %v, %v", info.Mode(), err)
	}
	if _, stderr, exit := eds(t, nil, "enroll", "--data-dir", dir, "--api-url", h.APIURL(), code); exit != 1 ||
		!strings.Contains(stderr, "the code is unknown or was used already") {
		t.Errorf("a second time: exit code %d\n%s", exit, stderr)
	}
	out, stderr, exit := eds(t, nil, "import", "--data-dir", dir, "--url", "file://"+t.TempDir(), "--validate-only")
	if exit != 0 || !strings.Contains(out, "The key is accepted and the destination works.") {
		t.Errorf("import with the key: exit code %d\n%s%s", exit, out, stderr)
	}
}

// nowhere returns the path of a directory that cannot be created.
func nowhere(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Symlink(filepath.Join(t.TempDir(), "none", "data"), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEnroll_KeepsTheCodeIfTheKeyCannotBeKept(t *testing.T) {
	h := startHQ(t)
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	nowhere := nowhere(t)
	if _, stderr, exit := eds(t, nil, "enroll", "--data-dir", nowhere, "--api-url", h.APIURL(), code); exit != 1 ||
		!strings.Contains(stderr, "no code was used: check that this user may write to "+nowhere) {
		t.Errorf("exit code %d\n%s", exit, stderr)
	}
	if _, stderr, exit := eds(t, nil, "enroll", "--data-dir", t.TempDir(), "--api-url", h.APIURL(), code); exit != 0 {
		t.Errorf("the code is spent: exit code %d\n%s", exit, stderr)
	}
}

func TestImport_RefusesBeforeAnythingElse(t *testing.T) {
	h := startHQ(t)
	good := h.APIKey(devhq.KeyOptions{ServerID: "s"})
	blocked := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key, url string
		code     int
		want     string
	}{
		"expired key": {
			h.APIKey(devhq.KeyOptions{ServerID: "s", Life: -time.Hour}), "file://" + t.TempDir(), 3,
			"the api key has expired",
		},
		"refused key":               {good[:len(good)-4] + "AAAA", "file://" + t.TempDir(), 3, "hq refuses the api key"},
		"no destination":            {good, "", 3, "no destination is set"},
		"unknown scheme":            {good, "postgras://h/db", 3, `did you mean "postgres"?`},
		"unknown option":            {good, "file:///tmp?formt=ndjson", 3, `did you mean "format"?`},
		"unset placeholder":         {good, "postgres://u:${NOPE}@h/db", 3, `"NOPE", which is not set`},
		"a directory that is none":  {good, "file://" + blocked, 3, "a file"},
		"a database that is not up": {good, "postgres://u:SECRET@127.0.0.1:1/db", 3, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"import", "--data-dir", t.TempDir(), "--validate-only", "--url", c.url}
			out, stderr, code := eds(t, map[string]string{"SM_APIKEY": c.key}, args...)
			if code != c.code || strings.Contains(out+stderr, "SECRET") || strings.Contains(out+stderr, c.key) {
				t.Errorf("exit code %d, want %d\n%s%s", code, c.code, out, stderr)
			}
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			if last := lines[len(lines)-1]; !strings.Contains(last, c.want) {
				t.Errorf("the last line is %q, want %q in it", last, c.want)
			}
		})
	}
}

// tree returns the paths below a directory, with the content of files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = "directory"
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestImport_LooksWithoutATrace: a dry run and a validation leave everything as it is,
// before there is anything and after an import.
func TestImport_LooksWithoutATrace(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	for _, url := range []string{
		"sqlite://" + filepath.Join(dir, "a", "shop.db"), "file://" + filepath.Join(dir, "b", "changes"),
		"file://" + filepath.Join(dir, "c") + "?format=ndjson",
	} {
		data := filepath.Join(dir, "data", url[:4])
		for _, after := range []bool{false, true} {
			if after {
				if _, stderr, code := eds(t, env, "import", "--data-dir", data, "--url", url, "--no-confirm"); code != 0 {
					t.Fatalf("exit code %d\n%s", code, stderr)
				}
			}
			before := tree(t, dir)
			for _, c := range []struct {
				want string
				args []string
			}{
				{"An import would load 16 tables", []string{"--dry-run"}},
				{"An import would load 1 tables", []string{"--dry-run", "--only", "order", "--download-dir", filepath.Join(dir, "files")}},
				{"An import would make the tables of 16 tables", []string{"--dry-run", "--schema-only"}},
				{"The key is accepted and the destination works.", []string{"--validate-only"}},
			} {
				out, stderr, code := eds(t, env, append([]string{"import", "--data-dir", data, "--url", url, "--verbose"}, c.args...)...)
				if code != 0 || !strings.Contains(out, c.want) {
					t.Errorf("%s %v: exit code %d\n%s%s", url, c.args, code, out, stderr)
				}
				if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
					t.Errorf("%s %v leaves a trace: %.1000s", url, c.args, diff)
				}
			}
		}
	}
}

func TestImport_RefusesADirectoryWithoutExportFiles(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	destination := "file://" + filepath.Join(dir, "changes")
	args := []string{"import", "--data-dir", filepath.Join(dir, "data"), "--url", destination, "--no-confirm"}
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := eds(t, env, append(args, "--dir", files)...)
	if code != 3 || !strings.Contains(stderr, "directory "+files+": there are no export files in it") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	out, stderr, code := eds(t, env, append(args, "--download-dir", files)...)
	if code != 0 || !strings.Contains(out, "The downloaded files are in "+files) {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	if out, stderr, code = eds(t, env, append(args, "--dir", files)...); code != 0 || strings.Contains(out, "downloaded") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestImport_TellsTablesThatTheExportLacks(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	files := filepath.Join(dir, "files")
	args := []string{
		"import", "--data-dir", filepath.Join(dir, "data"), "--url", "file://" + filepath.Join(dir, "changes"),
		"--no-confirm",
	}
	if _, stderr, code := eds(t, env, append(args, "--download-dir", files)...); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	orders, err := filepath.Glob(filepath.Join(files, "*-order-*"))
	if err != nil || len(orders) == 0 {
		t.Fatal(orders, err)
	}
	for _, name := range append(orders, filepath.Join(files, "export.json")) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, code := eds(t, env, append(args, "--dir", files, "--dry-run")...)
	if code != 0 || !strings.Contains(out, "would load 15 tables into") ||
		!strings.Contains(out, "  order  (not in the export; it stays unchanged)\n") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	out, stderr, code = eds(t, env, append(args, "--dir", files)...)
	row := regexp.MustCompile(`(?m)^ +order +0 +0 +0 +not in the export$`)
	if code != 0 || !row.MatchString(out) || !strings.Contains(out, " rows of 15 tables in ") ||
		!strings.Contains(out, "1 table is not in the export; it stays unchanged.") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestImport_PromptsBeforeItReplaces(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	url := "sqlite://" + filepath.Join(t.TempDir(), "shop.db")
	dir := t.TempDir()
	if _, stderr, code := eds(t, env, "import", "--data-dir", dir, "--url", url); code != 3 || !strings.Contains(stderr, "--no-confirm") {
		t.Errorf("without a terminal: exit code %d\n%s", code, stderr)
	}
	plan, stderr, code := eds(t, env, "import", "--data-dir", dir, "--url", url, "--dry-run")
	if code != 0 || !strings.Contains(plan, "Nothing was changed.") || !strings.Contains(plan, "\n  customer") {
		t.Errorf("dry run: exit code %d\n%s%s", code, plan, stderr)
	}
	out, stderr, code := eds(t, env, "import", "--data-dir", dir, "--url", url, "--no-confirm", "--only", "customer,order")
	if code != 0 || !strings.Contains(out, "of 2 tables in") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestServer_ReportsATakenPort(t *testing.T) {
	h := startHQ(t)
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	port := taken.URL[strings.LastIndexByte(taken.URL, ':')+1:]
	t.Setenv("SM_APIKEY", h.APIKey(devhq.KeyOptions{ServerID: "s"})) // which the worker inherits
	_, stderr, code := eds(t, map[string]string{"SM_APIKEY": os.Getenv("SM_APIKEY")},
		"server", "--data-dir", t.TempDir(), "--url", "file://"+t.TempDir(), "--host", "127.0.0.1", "--port", port)
	if code != 1 || !strings.Contains(stderr, "another program uses it") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

func TestServer_ExitsWithThreeForAWrongDestination(t *testing.T) {
	h := startHQ(t)
	t.Setenv("SM_APIKEY", h.APIKey(devhq.KeyOptions{ServerID: "s"})) // which the worker inherits
	env := map[string]string{"SM_APIKEY": os.Getenv("SM_APIKEY")}
	blocked := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"postgras://h/db", "sqlite://" + blocked + "/x.db"} {
		if _, stderr, code := eds(
			t, env, "server", "--data-dir", t.TempDir(), "--server", h.NATSURL(), "--port", "0", "--url", url,
		); code != 3 {
			t.Errorf("%s: exit code %d, want 3\n%s", url, code, stderr)
		}
	}
}

func TestFlags_MayPrecedeTheCommand(t *testing.T) {
	dir := dataDir(t)
	for _, args := range [][]string{
		{"-v", "--log-label", "x", "version"},
		{"version", "-s"},
		{"publickey", "-d", dir},
		{"-d", dir, "dlq", "-t", "list"},
		{"help", "-v"},
		{"completion", "bash", "-d", dir},
	} {
		if out, stderr, code := eds(t, nil, args...); code != 0 {
			t.Errorf("eds %v: exit code %d\n%s%s", args, code, out, stderr)
		}
	}
	if _, stderr, code := eds(t, nil, "-d", filepath.Join(dir, "server"), "server"); code != 3 ||
		!strings.Contains(stderr, "eds enroll --data-dir "+filepath.Join(dir, "server")+" CODE") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// TestServer_HidesTheFlagsOfTheReferenceServersParent looks where flags are shown.
func TestServer_HidesTheFlagsOfTheReferenceServersParent(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"server", "--help"},
		{"help", "server"},
		{"help", "server", "--json"},
		{"man", dir},
		{"completion", "bash"},
		{"__complete", "server", "--"},
		{"server", "--wraper"},
		{"server", "--parnt"},
		{"server", "--log-file-snk"},
	} {
		out, errs, _ := eds(t, nil, args...)
		for _, flag := range []string{"--wrapper", "--parent", "--log-file-sink"} {
			if strings.Contains(out+errs, flag) {
				t.Errorf("eds %s shows %s:\n%s%s", strings.Join(args, " "), flag, out, errs)
			}
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("the pages are %v, %v", pages, err)
	}
	for _, page := range pages {
		if text, err := os.ReadFile(page); err != nil || strings.Contains(string(text), "wrapper") ||
			strings.Contains(string(text), `log\-file\-sink`) {
			t.Errorf("%s: %v, or it shows a flag of that process", page, err)
		}
	}
}

func TestServer_ExitsOneUnderTheReferenceServersParent(t *testing.T) {
	for _, args := range [][]string{
		{"server", "--bogus", "--wrapper", "--parent=8765"},
		{"server", "--data-dir", t.TempDir(), "--wrapper", "--parent=8765", "--log-file-sink"}, // not enrolled
		{"server", "--maxAckPending", "0", "--wrapper=true", "--parent", "8765", "--log-file-sink=eds.log"},
	} {
		if _, errs, code := eds(t, nil, args...); code != 1 || strings.Contains(errs, "unknown flag: --log") {
			t.Errorf("eds %s ended with %d: %s", strings.Join(args, " "), code, errs)
		}
	}
}
