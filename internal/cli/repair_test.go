package cli_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// shop is an imported SQLite database.
type shop struct {
	t   *testing.T
	env map[string]string
	url string
	db  *sql.DB
}

func newShop(t *testing.T) *shop {
	t.Helper()
	h := startHQ(t)
	file := filepath.Join(t.TempDir(), "shop.db")
	s := &shop{t: t, env: map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}, url: "sqlite://" + file}
	if _, stderr, code := s.eds(t.TempDir(), "import", "--no-confirm"); code != 0 {
		t.Fatalf("import: exit code %d\n%s", code, stderr)
	}
	var err error
	if s.db, err = sql.Open("sqlite", file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close() })
	return s
}

func (s *shop) eds(dataDir string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return eds(s.t, s.env, append(args, "--data-dir", dataDir, "--url", s.url)...)
}

// damage changes a customer, deletes a vendor, and adds a location.
func (s *shop) damage() {
	s.t.Helper()
	for _, statement := range []string{
		`UPDATE customer SET "updatedDate" = '2001-02-03T04:05:06Z' WHERE id = (SELECT min(id) FROM customer)`,
		`DELETE FROM vendor WHERE id = (SELECT min(id) FROM vendor)`,
		`CREATE TEMP TABLE added AS SELECT * FROM location LIMIT 1; UPDATE added SET id = 'added'; INSERT INTO ` +
			`location SELECT * FROM added; DROP TABLE added`,
	} {
		if _, err := s.db.Exec(statement); err != nil {
			s.t.Fatal(err)
		}
	}
}

var imported = regexp.MustCompile(`(?m)^ *(\w+) .* done *$`)

// tablesImported returns the tables that a report of an import names.
func tablesImported(out string) (tables []string) {
	for _, m := range imported.FindAllStringSubmatch(out, -1) {
		tables = append(tables, m[1])
	}
	return tables
}

func TestVerify_RepairsTablesThatDiffer(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.damage()
	out, stderr, code := s.eds(t.TempDir(), "verify", "--repair", "--no-confirm")
	if diff := cmp.Diff([]string{"customer", "location", "vendor"}, tablesImported(out)); diff != "" {
		t.Errorf("the tables that were imported: %s", diff)
	}
	found, rest, _ := strings.Cut(out, "3 of ")
	if code != 0 || !strings.Contains(found, "1 extra: added") ||
		!regexp.MustCompile(`\nAll \d+ rows of \d+ tables are equal\.\n$`).MatchString(rest) {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
	if out, stderr, code := s.eds(t.TempDir(), "verify"); code != 0 {
		t.Errorf("afterwards: exit code %d\n%s%s", code, out, stderr)
	}
	if out, stderr, code := s.eds(t.TempDir(), "verify", "--repair", "--no-confirm"); code != 0 || tablesImported(out) != nil {
		t.Errorf("a second repair: exit code %d\n%s%s", code, out, stderr)
	}
}

func TestVerify_RepairsOnlyTheGivenTables(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.damage()
	stdout, stderr, code := s.eds(t.TempDir(), "verify", "--repair", "--no-confirm", "--json", "--only", "vendor,user")
	var reports []struct {
		Table   string
		Missing int
	}
	if err := json.Unmarshal([]byte(stdout), &reports); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if len(reports) != 2 || reports[0].Table != "user" || reports[1].Table != "vendor" || reports[1].Missing != 0 {
		t.Errorf("the reports are %+v", reports)
	}
	if diff := cmp.Diff([]string{"vendor"}, tablesImported(stderr)); diff != "" {
		t.Errorf("the tables that were imported: %s", diff)
	}
	if _, _, code := s.eds(t.TempDir(), "verify", "--only", "customer"); code != 1 {
		t.Errorf("customer was repaired: exit code %d", code)
	}
}

// TestVerify_RepairAsksTheRunningServer has a server that says it imported, and did not.
func TestVerify_RepairAsksTheRunningServer(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.damage()
	done := []snapshot.TableReport{{Table: "customer", Rows: 5}, {Table: "location", Rows: 1}}
	refused := snapshot.TableReport{Table: "vendor", Err: errors.New("the database refuses it")}
	all := append(done, refused)
	for name, test := range map[string]struct {
		server operated
		code   int
		says   string
		again  bool // the tables are compared again
	}{
		"done": {operated{outcome: snapshot.Report{Tables: done, Elapsed: time.Second}}, 1, "3 of 3 tables differ", true},
		"a table fails": {
			operated{outcome: snapshot.Report{Tables: all, Elapsed: time.Second}, failure: &snapshot.TablesError{Failed: all[2:], Of: 3}},
			1, "eds: 1 of 3 tables were not imported: vendor: the database refuses it\n", true,
		},
		"one is under way": {
			operated{refusal: errors.New("an import is under way already")},
			1, "eds: an import is under way already\n",
			false,
		},
		"other destination": {
			operated{refusal: &server.OtherDestinationError{Destination: "postgres://h/db"}},
			3,
			"which is not the destination of --url", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := s.eds(
				operate(t, &test.server), "verify", "--repair", "--no-confirm", "--only", "customer,location,vendor",
			)
			if code != test.code || !strings.Contains(stdout+stderr, test.says) {
				t.Errorf("exit code %d, want %d and %q\n%s%s", code, test.code, test.says, stdout, stderr)
			}
			if again := strings.Count(stdout, "3 of 3 tables differ") == 2; again != test.again {
				t.Errorf("compared again: %v\n%s", again, stdout)
			}
			want := snapshot.Options{Only: []string{"customer", "location", "vendor"}, Parallel: 4}
			if diff := cmp.Diff(want, test.server.options); diff != "" || test.server.identity == "" {
				t.Errorf("identity %q: %s", test.server.identity, diff)
			}
		})
	}
}

func TestVerify_TellsTheRunningServerWhatIsEqual(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	notified := func(args ...string) reconciler.Verification {
		var o operated
		s.eds(operate(t, &o), append([]string{"verify"}, args...)...)
		if o.verified.Began.IsZero() {
			t.Error("it does not say when it began")
		}
		o.verified.Began = time.Time{}
		return o.verified
	}
	if v := notified(); !v.All || !slices.Contains(v.Tables, "vendor") || !slices.Contains(v.Tables, "user") {
		t.Errorf("of equal tables: %+v", v)
	}
	if diff := cmp.Diff(reconciler.Verification{Tables: []string{"user"}}, notified("--only", "user")); diff != "" {
		t.Errorf("of one table: %s", diff)
	}
	s.damage()
	if v := notified(); v.All || slices.Contains(v.Tables, "vendor") || !slices.Contains(v.Tables, "user") {
		t.Errorf("of tables that differ: %+v", v)
	}
}

func TestVerify_RepairIsRefused(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	for want, args := range map[string][]string{
		"there is no terminal for a prompt, so pass --no-confirm to confirm that": {"--repair"},
		"--no-confirm is for --repair":                                            {"--no-confirm"},
		"keeps events, which cannot be compared or repaired": {
			"--repair", "--no-confirm", "--url", "file://" + t.TempDir(),
		},
	} {
		if out, stderr, code := eds(t, env, append([]string{"verify", "--data-dir", t.TempDir()}, args...)...); code != 3 ||
			!strings.Contains(stderr, want) {
			t.Errorf("%q: exit code %d, want 3 and %q\n%s%s", args, code, want, out, stderr)
		}
	}
}

// TestVerify_GoesOnWithoutATableThatCannotBeRead: the others are compared, and repaired.
func TestVerify_GoesOnWithoutATableThatCannotBeRead(t *testing.T) {
	t.Parallel()
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	file := filepath.Join(t.TempDir(), "shop.db")
	args := []string{"--data-dir", t.TempDir(), "--url", "sqlite://" + file}
	if _, stderr, code := eds(t, env, append([]string{"import", "--no-confirm"}, args...)...); code != 0 {
		t.Fatalf("import: exit code %d\n%s", code, stderr)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(
		`ALTER TABLE vendor RENAME TO vendors; CREATE VIEW vendor AS SELECT * FROM vendors; DROP TABLE part; DELETE FROM customer`,
	); err != nil {
		t.Fatal(err)
	}
	const view = `vendor: it was not compared: read the actual rows of "vendor": read vendor: table "vendor": a view ` +
		`has the name "vendor" in the database`
	stdout, stderr, code := eds(t, env, append([]string{"verify"}, args...)...)
	if code != 1 || !strings.Contains(stdout, view) || !strings.Contains(stdout, "part: 9 rows there, 0 here") ||
		!strings.Contains(stdout, "1 of 16 tables were not compared.") || !strings.Contains(stdout, "2 of 16 tables differ.") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
	stdout, stderr, code = eds(t, env, append([]string{"verify", "--repair", "--no-confirm"}, args...)...)
	if code != 1 || strings.Count(stdout, view) != 2 || !strings.HasSuffix(stdout, "\n1 of 16 tables were not compared.\n") ||
		!strings.Contains(stderr, "1 of 3 tables were not imported: vendor") {
		t.Errorf("with --repair: exit code %d\n%s%s", code, stdout, stderr)
	}
}
