package cli_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cli"
	"github.com/shopmonkeyus/eds/internal/localhq"
)

// TestMain is also the worker of servers that tests start, because that is the
// program that runs.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		os.Exit(cli.Run(cli.System()))
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

func TestVersionIsAloneOnItsLine(t *testing.T) {
	out, _, code := eds(t, nil, "version")
	if code != 0 || strings.Count(out, "\n") != 1 || strings.ContainsAny(strings.TrimSuffix(out, "\n"), " v\n") && !strings.Contains(out, "dev") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestWrongUsageSaysWhatWasMeantAndEndsWithThree(t *testing.T) {
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
		`name the entries to drop`:             {"dlq", "drop", "--data-dir", dir},
		`there is no api key`:                  {"import", "--data-dir", dir, "--url", "file://x"},
		`the api key is not one`:               {"import", "--data-dir", dir, "--url", "file://x", "--api-key", "SECRET"},
		`this is not an enrolment code`:        {"enroll", "--data-dir", dir, "X123"},
		`want a time like 2026-01-31T00:00:00`: {"dlq", "list", "--data-dir", dir, "--since", "never"},
	} {
		out, stderr, code := eds(t, nil, args...)
		if code != 3 || !strings.Contains(stderr, want) || strings.Contains(out+stderr, "SECRET") {
			t.Errorf("eds %v: exit code %d, want 3 and %q\n%s%s", args, code, want, out, stderr)
		}
	}
}

func TestHelpDescribesEveryDestination(t *testing.T) {
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

func TestAnEmptyDeadLetterQueueSaysSo(t *testing.T) {
	out, _, code := eds(t, nil, "dlq", "list", "--data-dir", t.TempDir())
	if code != 0 || out != "The dead-letter queue is empty.\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func startHQ(t *testing.T) *localhq.HQ {
	t.Helper()
	h, err := localhq.Start(t.Context(), localhq.Options{DataDir: t.TempDir(), Customers: 5, Seed: 3})
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

func TestEnrollKeepsTheKeyForItsOwnerAlone(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, exit := eds(t, nil, "enroll", "--data-dir", dir, "--api-url", h.APIURL(), code); exit != 0 || !strings.Contains(out, "Enrolled as server ") {
		t.Fatalf("exit code %d\n%s%s", exit, out, stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "config.toml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("config.toml: %v, %v", info.Mode(), err)
	}
	if _, stderr, exit := eds(t, nil, "enroll", "--data-dir", dir, "--api-url", h.APIURL(), code); exit != 1 || !strings.Contains(stderr, "the code is unknown, or was used already") {
		t.Errorf("a second time: exit code %d\n%s", exit, stderr)
	}
	out, stderr, exit := eds(t, nil, "import", "--data-dir", dir, "--url", "file://"+t.TempDir(), "--validate-only")
	if exit != 0 || !strings.Contains(out, "The key is accepted and the destination works.") {
		t.Errorf("import with the key: exit code %d\n%s%s", exit, out, stderr)
	}
}

func TestImportRefusesBeforeAnythingElse(t *testing.T) {
	h := startHQ(t)
	good := h.APIKey(localhq.KeyOptions{ServerID: "s"})
	blocked := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key, url string
		code     int
		want     string
	}{
		"expired key":               {h.APIKey(localhq.KeyOptions{ServerID: "s", Life: -time.Hour}), "file://" + t.TempDir(), 3, "the api key has expired"},
		"refused key":               {good[:len(good)-4] + "AAAA", "file://" + t.TempDir(), 3, "hq refuses the api key"},
		"no destination":            {good, "", 3, "there is no destination"},
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

func TestImportAsksForConfirmationBeforeItReplaces(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(localhq.KeyOptions{ServerID: "s"})}
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

func TestAPortThatIsTakenIsTold(t *testing.T) {
	h := startHQ(t)
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	port := taken.URL[strings.LastIndexByte(taken.URL, ':')+1:]
	t.Setenv("SM_APIKEY", h.APIKey(localhq.KeyOptions{ServerID: "s"})) // which the worker inherits
	_, stderr, code := eds(t, map[string]string{"SM_APIKEY": os.Getenv("SM_APIKEY")},
		"server", "--data-dir", t.TempDir(), "--url", "file://"+t.TempDir(), "--host", "127.0.0.1", "--port", port)
	if code != 1 || !strings.Contains(stderr, "another program has it") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

func TestAWrongDestinationEndsAServerWithThree(t *testing.T) {
	h := startHQ(t)
	t.Setenv("SM_APIKEY", h.APIKey(localhq.KeyOptions{ServerID: "s"})) // which the worker inherits
	env := map[string]string{"SM_APIKEY": os.Getenv("SM_APIKEY")}
	blocked := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"postgras://h/db", "sqlite://" + blocked + "/x.db"} {
		if _, stderr, code := eds(t, env, "server", "--data-dir", t.TempDir(), "--server", h.NATSURL(), "--port", "0", "--url", url); code != 3 {
			t.Errorf("%s: exit code %d, want 3\n%s", url, code, stderr)
		}
	}
}

func TestFlagsOfEveryCommandMayStandBeforeIt(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"-v", "--log-label", "x", "version"}, {"version", "-s"}, {"publickey", "-d", dir}, {"-d", dir, "dlq", "-t", "list"}, {"help", "-v"}, {"completion", "bash", "-d", dir}} {
		if out, stderr, code := eds(t, nil, args...); code != 0 {
			t.Errorf("eds %v: exit code %d\n%s%s", args, code, out, stderr)
		}
	}
	if _, stderr, code := eds(t, nil, "-d", filepath.Join(dir, "server"), "server"); code != 3 || !strings.Contains(stderr, "eds enroll --data-dir "+filepath.Join(dir, "server")+" CODE") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
