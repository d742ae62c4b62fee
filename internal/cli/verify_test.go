package cli_test

import (
	"database/sql"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

func TestVerify_NamesRowsThatDiffer(t *testing.T) {
	t.Parallel()
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	file := filepath.Join(t.TempDir(), "shop.db")
	args := []string{"--data-dir", t.TempDir(), "--url", "sqlite://" + file}
	if _, stderr, code := eds(t, env, append([]string{"import", "--no-confirm"}, args...)...); code != 0 {
		t.Fatalf("import: exit code %d\n%s", code, stderr)
	}
	out, stderr, code := eds(t, env, append([]string{"verify"}, args...)...)
	if code != 0 || !strings.Contains(out, "tables are equal.") {
		t.Errorf("after an import: exit code %d\n%s%s", code, out, stderr)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var gone, changed string
	if err := db.QueryRow(`DELETE FROM vendor WHERE id = (SELECT min(id) FROM vendor) RETURNING id`).Scan(&gone); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRow(
		`UPDATE customer SET "updatedDate" = '2001-02-03T04:05:06Z' WHERE id = (SELECT min(id) FROM customer) RETURNING id`,
	).Scan(&changed); err != nil {
		t.Fatal(err)
	}
	out, stderr, code = eds(t, env, append([]string{"verify", "--only", "vendor,customer"}, args...)...)
	if code != 1 || !strings.Contains(out, "1 missing: "+gone) || !strings.Contains(out, "1 different: "+changed+" (updatedDate)") ||
		strings.Count(stderr, "comparing the rows that differ again") != 1 {
		t.Errorf("after a change: exit code %d\n%s%s", code, out, stderr)
	}
	out, _, code = eds(t, env, append([]string{"verify", "--json", "--only", "vendor"}, args...)...)
	var reports []struct {
		Table   string
		Missing int
	}
	if err := json.Unmarshal([]byte(out), &reports); err != nil || code != 1 || len(reports) != 1 || reports[0].Missing != 1 {
		t.Errorf("as JSON: exit code %d, %v\n%s", code, err, out)
	}
}

// TestImport_KeepsTablesWithoutRowsInTheExport: the others are imported, and the exit
// code and the report say which is not.
func TestImport_KeepsTablesWithoutRowsInTheExport(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	file := filepath.Join(t.TempDir(), "shop.db")
	args := []string{"import", "--no-confirm", "--data-dir", t.TempDir(), "--url", "sqlite://" + file}
	if _, stderr, code := eds(t, env, args...); code != 0 {
		t.Fatalf("import: exit code %d\n%s", code, stderr)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	count := func(table string) (n int) {
		t.Helper()
		if err := db.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if _, err := db.Exec(`UPDATE "order" SET "locationId" = 'nowhere'`); err != nil {
		t.Fatal(err)
	}
	before := count(`"order"`)
	args = append(args, "--locationIds", "nowhere", "--only", "order,company")
	out, stderr, code := eds(t, env, args...)
	if code != 1 || !regexp.MustCompile(`(?m)^ *order .* kept *$`).MatchString(out) ||
		!strings.Contains(stderr, "eds import --only order --allow-empty") {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	if n := count(`"order"`); n != before || n == 0 {
		t.Errorf("%d orders of %d are left", n, before)
	}
	if out, stderr, code = eds(t, env, append(args, "--allow-empty")...); code != 0 || count(`"order"`) != 0 {
		t.Errorf("with --allow-empty: exit code %d, %d orders\n%s%s", code, count(`"order"`), out, stderr)
	}
}

func TestDoctor_PrintsRemedies(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	dir := t.TempDir()
	out, _, code := eds(t, nil, "doctor", "--data-dir", dir)
	if code != 1 || !strings.Contains(out, "-> run: eds enroll CODE") {
		t.Errorf("without a key: exit code %d\n%s", code, out)
	}
	out, stderr, code := eds(
		t, env, "doctor", "--data-dir", dir, "--server", h.NATSURL(), "--url",
		"sqlite://"+filepath.Join(t.TempDir(), "shop.db"),
	)
	if code != 0 || strings.Count(out, "\n") != 9 || strings.Count(out, "ok ") != 9 {
		t.Errorf("where all is well: exit code %d\n%s%s", code, out, stderr)
	}
	out, _, code = eds(
		t, env, "doctor", "--data-dir", dir, "--server", "nats://127.0.0.1:1", "--url", "sqlite:///dev/null/shop.db",
		"--json",
	)
	var checks []struct{ Name, Result, Do string }
	if err := json.Unmarshal([]byte(out), &checks); err != nil || code != 1 {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	failed := make(map[string]bool)
	for _, c := range checks {
		if c.Result == "failed" {
			failed[c.Name] = c.Do != ""
		}
	}
	if len(failed) != 2 || !failed["NATS"] || !failed["destination"] {
		t.Errorf("what fails is %v, of %v", failed, checks)
	}
	sessions, err := h.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		if s.Ended.IsZero() || s.Errored {
			t.Errorf("the session %+v is left", s)
		}
	}
}

func TestStatus_ReportsThatNoServerRuns(t *testing.T) {
	if _, stderr, code := eds(t, nil, "status", "--data-dir", t.TempDir()); code != 1 || !strings.Contains(stderr, "no server answers") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := eds(t, map[string]string{"PORT": "1"}, "health"); code != 1 ||
		!strings.Contains(stderr, "query the health of the server at") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

func TestHealth_RefusesOtherPrograms(t *testing.T) {
	for body, want := range map[string]int{`{"status":"ok","reasons":[]}`: 0, "<html>It works!</html>": 1, `{}`: 1} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		port := server.URL[strings.LastIndexByte(server.URL, ':')+1:]
		if out, stderr, code := eds(t, nil, "health", "--host", "127.0.0.1", "--port", port); code != want {
			t.Errorf("%s: exit code %d, want %d\n%s%s", body, code, want, out, stderr)
		}
		server.Close()
	}
}

func TestServer_SaysHowToEnrol(t *testing.T) {
	if _, stderr, code := eds(t, nil, "server", "--data-dir", t.TempDir()); code != 3 ||
		!strings.Contains(stderr, "eds enroll --data-dir") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}
