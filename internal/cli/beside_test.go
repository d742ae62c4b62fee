package cli_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// operated is a server, as its operator sees it. It records its requests.
type operated struct {
	report  server.Report
	refusal error // of imports
	outcome snapshot.Report
	failure error // of the import

	id, identity string
	options      snapshot.Options
	canceled     string
	verified     reconciler.Verification
}

func (o *operated) Report() server.Report { return o.report }

func (o *operated) RequestImport(id, identity string, options snapshot.Options) error {
	o.id, o.identity, o.options = id, identity, options
	return o.refusal
}

func (o *operated) WatchImport(
	_ context.Context, id string, observe func(snapshot.TableProgress, snapshot.Totals),
) (snapshot.Report, error) {
	if id != "7" && id != o.id {
		return snapshot.Report{}, errors.New("this server knows no import")
	}
	observe(
		snapshot.TableProgress{Table: "order", Phase: snapshot.Done, Rows: 5},
		snapshot.Totals{Tables: 1, Done: 1, Rows: 5, Bytes: 2048, TotalBytes: 2048},
	)
	return o.outcome, o.failure
}

func (o *operated) CancelImport(id string) error {
	o.canceled = id
	return nil
}

func (o *operated) Verified(_ string, v reconciler.Verification) error {
	o.verified = v
	return nil
}

func (o *operated) AcceptGap(id, table string) ([]string, error) {
	switch {
	case id != "8f5b3f":
		return nil, errors.New(`there is no gap "` + id + `"; the gaps are 8f5b3f (table order)`)
	case table != "":
		return []string{table}, nil
	}
	return []string{"order", "part"}, nil
}

// operate answers for the server of a data directory until the test ends.
func operate(t *testing.T, o *operated) (dataDir string) {
	t.Helper()
	dataDir = t.TempDir()
	t.Cleanup(start(t, dataDir, o))
	return dataDir
}

// start answers for the server of a data directory until stop is called.
func start(t *testing.T, dataDir string, h control.Handler) (stop func()) {
	t.Helper()
	listener, err := control.Listen(t.Context(), dataDir)
	if err != nil {
		t.Error(err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, listener, h) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestImport_AsksTheRunningServer(t *testing.T) {
	o := &operated{
		report: server.Report{PID: 7, Destination: "postgres://h/db"},
		outcome: snapshot.Report{
			Tables: []snapshot.TableReport{{Table: "order", Rows: 5, Files: 1, Bytes: 2048}}, Rows: 5, Elapsed: time.Second,
		},
	}
	dir := operate(t, o)
	stdout, stderr, code := eds(
		t, nil, "import", "--data-dir", dir, "--no-confirm", "--only", "order,part", "--companyIds", "c", "--no-delete",
		"--allow-empty", "--strict", "--single", "--timeOffset", "2026-11-01T00:00:00Z",
	)
	want := snapshot.Options{
		Only: []string{"order", "part"}, CompanyIDs: []string{"c"}, TimeOffset: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		NoDelete: true, AllowEmpty: true, Strict: true, Parallel: 1,
	}
	if diff := cmp.Diff(want, o.options); diff != "" || o.identity != "" {
		t.Errorf("destination %q: %s", o.identity, diff)
	}
	table := "  table  rows  files  bytes  result\n  order     5      1   2048    done\n\n5 rows of 1 table in 1s, 5 rows/s.\n"
	if diff := cmp.Diff(table, stdout); diff != "" || code != 0 {
		t.Errorf("exit code %d: %s", code, diff)
	}
	if line := "import: 1 of 1 tables, 5 rows, 2.0 KiB of 2.0 KiB"; !strings.Contains(stderr, line) {
		t.Errorf("the progress lacks %q:\n%s", line, stderr)
	}
	again, _, code := eds(t, nil, "import", "--data-dir", dir, "--watch", "7")
	if diff := cmp.Diff(stdout, again); diff != "" || code != 0 {
		t.Errorf("exit code %d: %s", code, diff)
	}
	if stdout, stderr, code := eds(t, nil, "import", "--data-dir", dir, "--cancel", "7"); code != 0 || o.canceled != "7" ||
		!strings.Contains(stdout, "Import 7 is canceled.") {
		t.Errorf("exit code %d, canceled %q\n%s%s", code, o.canceled, stdout, stderr)
	}
}

// crashing is a server that is stopped while it imports.
type crashing struct {
	*operated
	watched chan struct{}
}

func (c *crashing) WatchImport(ctx context.Context, _ string, _ func(snapshot.TableProgress, snapshot.Totals)) (snapshot.Report, error) {
	close(c.watched)
	<-ctx.Done()
	return snapshot.Report{}, ctx.Err()
}

func TestImport_GoesOnWatchingAServerThatHasCrashed(t *testing.T) {
	o := &operated{
		report:  server.Report{PID: 7},
		outcome: snapshot.Report{Tables: []snapshot.TableReport{{Table: "order", Rows: 5}}, Rows: 5},
	}
	crashes := &crashing{o, make(chan struct{})}
	dir := t.TempDir()
	stop := start(t, dir, crashes)
	again := make(chan func(), 1)
	go func() {
		<-crashes.watched
		stop()
		again <- start(t, dir, o)
	}()
	stdout, stderr, code := eds(t, nil, "import", "--data-dir", dir, "--no-confirm")
	(<-again)()
	if code != 0 || !strings.Contains(stdout, "5 rows of 1 table") || !strings.Contains(stderr, "waiting for it") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
}

// aborting is a server that crashes over the first request for an import.
type aborting struct {
	*operated
	ids []string
}

func (a *aborting) RequestImport(id, identity string, o snapshot.Options) error {
	if a.ids = append(a.ids, id); len(a.ids) == 1 {
		panic(http.ErrAbortHandler)
	}
	return a.operated.RequestImport(id, identity, o)
}

func TestImport_AsksAgainForTheSameImport(t *testing.T) {
	a := &aborting{
		operated: &operated{
			report:  server.Report{PID: 7},
			outcome: snapshot.Report{Tables: []snapshot.TableReport{{Table: "order", Rows: 5}}, Rows: 5},
		},
	}
	dir := t.TempDir()
	defer start(t, dir, a)()
	stdout, stderr, code := eds(t, nil, "import", "--data-dir", dir, "--no-confirm")
	if code != 0 || len(a.ids) != 2 || a.ids[0] != a.ids[1] || !strings.Contains(stdout, "5 rows of 1 table") {
		t.Errorf("exit code %d, imports %q\n%s\n%s", code, a.ids, stdout, stderr)
	}
}

func TestImport_BesideAServerFailsWithTheSameExitCodes(t *testing.T) {
	kept := snapshot.TableReport{Table: "part", Err: errors.New("the database refuses it")}
	for name, test := range map[string]struct {
		server operated
		args   []string
		code   int
		says   string
	}{
		"a table fails": {
			operated{
				outcome: snapshot.Report{Tables: []snapshot.TableReport{kept}},
				failure: &snapshot.TablesError{Failed: []snapshot.TableReport{kept}, Of: 2},
			},
			nil, 1, "eds: 1 of 2 tables were not imported: part: the database refuses it\n",
		},
		"the probe fails": {operated{failure: &snapshot.ProbeError{Err: errors.New("no access")}}, nil, 3, "no access"},
		"one is under way": {
			operated{refusal: errors.New("an import is under way already")}, nil, 1, "eds: an import is under way already\n",
		},
		"other destination": {
			operated{refusal: &server.OtherDestinationError{Destination: "postgres://h/db"}},
			[]string{"--url", "sqlite:///x.db"},
			3, "writes to postgres://h/db, which is not the destination of --url",
		},
		"unknown import":   {operated{}, []string{"--watch", "8"}, 1, "eds: this server knows no import\n"},
		"dry run":          {operated{}, []string{"--dry-run"}, 3, "--dry-run cannot be used while a server (pid 7) runs"},
		"validate only":    {operated{}, []string{"--validate-only"}, 3, "--validate-only cannot be used while"},
		"job":              {operated{}, []string{"--job-id", "j"}, 3, "--job-id cannot be used while"},
		"directory":        {operated{}, []string{"--dir", "/x"}, 3, "--dir cannot be used while"},
		"downloads":        {operated{}, []string{"--download-dir", "/x"}, 3, "--download-dir cannot be used while"},
		"no clean-up":      {operated{}, []string{"--no-cleanup"}, 3, "--no-cleanup cannot be used while"},
		"watch and cancel": {operated{}, []string{"--watch", "7", "--cancel", "7"}, 3, "leave one out"},
		"watch and only":   {operated{}, []string{"--watch", "7", "--only", "order"}, 3, "--only is for a new import"},
	} {
		t.Run(name, func(t *testing.T) {
			test.server.report.PID = 7
			dir := operate(t, &test.server)
			_, stderr, code := eds(t, nil, append([]string{"import", "--data-dir", dir, "--no-confirm"}, test.args...)...)
			if code != test.code || !strings.Contains(stderr, test.says) {
				t.Errorf("exit code %d, want %d and %q\n%s", code, test.code, test.says, stderr)
			}
		})
	}
}

func TestImport_TellsTheServerWhichDestinationIsMeant(t *testing.T) {
	o := new(operated)
	dir := operate(t, o)
	if _, stderr, code := eds(t, nil, "import", "--data-dir", dir, "--no-confirm", "--url", "postgres://me:SECRET@h/db"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	if o.identity == "" || strings.Contains(o.identity, "SECRET") {
		t.Errorf("the identity is %q", o.identity)
	}
}

func TestImport_BesideAServerAsksFirst(t *testing.T) {
	o := &operated{report: server.Report{Destination: "postgres://h/db"}}
	dir := operate(t, o)
	for want, args := range map[string][]string{
		"this replaces all rows of all tables in postgres://h/db; there is no terminal for a prompt": nil,
		"this replaces all rows of the given companies of the tables order in " +
			"postgres://h/db": {"--companyIds", "c", "--only", "order"},
		"this writes over rows of all tables in postgres://h/db; there is no terminal for a prompt": {"--no-delete"},
	} {
		_, stderr, code := eds(t, nil, append([]string{"import", "--data-dir", dir}, args...)...)
		if code != 3 || !strings.Contains(stderr, want) {
			t.Errorf("exit code %d, want 3 and %q\n%s", code, want, stderr)
		}
	}
	if diff := cmp.Diff(snapshot.Options{}, o.options); diff != "" {
		t.Errorf("the server was asked: %s", diff)
	}
}

func TestImport_WatchesOnlyARunningServer(t *testing.T) {
	for _, flag := range []string{"--watch", "--cancel"} {
		if _, stderr, code := eds(t, nil, "import", "--data-dir", t.TempDir(), flag, "7"); code != 1 ||
			!strings.Contains(stderr, "no server answers with the data directory") {
			t.Errorf("%s: exit code %d\n%s", flag, code, stderr)
		}
	}
}

func TestAcceptGap_AcceptsTablesOfTheGap(t *testing.T) {
	dir := operate(t, new(operated))
	for _, test := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"8f5b3f"}, 0, "order: incomplete, accepted\npart: incomplete, accepted\n", ""},
		{[]string{"8f5b3f", "--table", "part"}, 0, "part: incomplete, accepted\n", ""},
		{[]string{"x"}, 1, "", "eds: there is no gap \"x\"; the gaps are 8f5b3f (table order)\n"},
		{nil, 3, "", "eds: eds accept-gap needs one argument, the id of a gap; see: eds status\n"},
		{[]string{""}, 3, "", "eds: eds accept-gap needs one argument, the id of a gap; see: eds status\n"},
		{[]string{"8f5b3f", "--table="}, 3, "", "eds: --table: its value is empty; leave the flag out to accept all tables of the gap\n"},
	} {
		stdout, stderr, code := eds(t, nil, append([]string{"accept-gap", "--data-dir", dir}, test.args...)...)
		if stdout != test.stdout || stderr != test.stderr || code != test.code {
			t.Errorf("%q: exit code %d\n%s%s", test.args, code, stdout, stderr)
		}
	}
}

func TestStatus_BeginsWithTablesThatAreNotComplete(t *testing.T) {
	hour := time.Now().Add(-time.Hour)
	gap := telemetry.TableHealth{
		State: "incomplete", Cause: "gap", Reason: "messages 5 to 9 are gone", Since: hour,
		Command: "eds import --only order", Gap: "8f5b3f",
	}
	accepted := gap
	accepted.Accepted, accepted.Gap = true, "aaaaaa"
	o := &operated{
		report: server.Report{Health: telemetry.Report{Status: telemetry.OK}, State: "running", Tables: map[string]server.TableReport{
			"order": {TableHealth: gap, Inserts: 3, LastApplied: hour},
			"part":  {TableHealth: accepted},
			"user": {
				TableHealth: telemetry.TableHealth{
					State: "behind", Cause: "importing", Reason: "an import is putting it in place", Since: hour,
				},
			},
			"invoice": {TableHealth: telemetry.TableHealth{State: "ok"}},
		}},
	}
	stdout, stderr, code := eds(t, nil, "status", "--data-dir", operate(t, o))
	want := `table  state                 since       reason                            command
order  incomplete            1h0m0s ago  messages 5 to 9 are gone          eds import --only order
part   incomplete, accepted  1h0m0s ago  messages 5 to 9 are gone          eds import --only order
user   behind                1h0m0s ago  an import is putting it in place  (none needed)
To accept gap 8f5b3f as it is: eds accept-gap 8f5b3f

`
	if got, _, _ := strings.Cut(stdout, "server "); code != 0 || cmp.Diff(want, got) != "" {
		t.Errorf("exit code %d: %s\n%s", code, cmp.Diff(want, got), stderr)
	}
	changed := "  table  inserts  updates  deletes  last applied\n  order        3        0        0    1h0m0s ago\n"
	if diff := cmp.Diff(changed, stdout[strings.LastIndex(stdout, "\n\n")+2:]); diff != "" {
		t.Error(diff)
	}
}
