package snowflake_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

// verbs returns the first words of statements.
func verbs(statements []string) []string {
	var out []string
	for _, s := range statements {
		out = append(out, strings.Join(strings.Fields(s)[:min(3, len(strings.Fields(s)))], " "))
	}
	return out
}

// warm returns a sink that already knows its tables, and the number of statements sent so far.
func warm(t *testing.T, s *script) (sink.Sink, *peer.Server, int) {
	t.Helper()
	s.table("customer", "id TEXT", "name TEXT", "visits NUMBER")
	server := serve(t, s)
	opened := mustOpen(t, address(server))
	if err := opened.Apply(t.Context(), batch(t, customers(t), 1, `{"id":"0"}`)); err != nil {
		t.Fatal(err)
	}
	return opened, server, len(server.Statements())
}

func TestWrite_SendsFewRowsAsOneParameter(t *testing.T) {
	s := newScript()
	opened, server, before := warm(t, s)
	if err := opened.Apply(t.Context(), batch(t, customers(t), 2, `{"id":"1","name":"it's","visits":9007199254740993}`,
		`{"id":"2"}`)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"BEGIN TRANSACTION", `MERGE INTO "customer"`, `UPDATE "_eds_checkpoint" SET`, "COMMIT"},
		verbs(server.Statements()[before:])); diff != "" {
		t.Errorf("a batch is these statements, and none about the catalogue: %s", diff)
	}
	if diff := cmp.Diff([]string{`{"o":"u","c0":"1","c1":"it's","c2":"9007199254740993"}`, `{"o":"u","c0":"2"}`},
		s.lines()[1:]); diff != "" {
		t.Error(diff)
	}
}

func many(n int) []string {
	images := make([]string, n)
	for i := range images {
		images[i] = fmt.Sprintf(`{"id":"%06d","name":"%s"}`, i, strings.Repeat("x", 100))
	}
	return images
}

func TestWrite_SendsManyRowsAsAFile(t *testing.T) {
	s := newScript()
	opened, server, before := warm(t, s)
	if err := opened.Apply(t.Context(), batch(t, customers(t), 2, many(5000)...)); err != nil {
		t.Fatal(err)
	}
	got := slices.Compact(verbs(server.Statements()[before:])) // the driver requests an upload address twice
	if diff := cmp.Diff([]string{
		"CREATE TEMPORARY STAGE", `PUT 'file:///eds/1.json.gz' '@"EDS_STAGE"'`, "BEGIN TRANSACTION",
		`MERGE INTO "customer"`, `UPDATE "_eds_checkpoint" SET`, "COMMIT", `REMOVE @"EDS_STAGE"/1.json.gz`,
	}, got); diff != "" {
		t.Error(diff)
	}
	if n := len(s.lines()); n != 5001 {
		t.Errorf("%d rows arrived, want 5001", n)
	}
	if n := server.Files(); n != 0 {
		t.Errorf("%d files are left on the stage", n)
	}
}

func TestWrite_WaitsForLongStatements(t *testing.T) {
	opened, server, _ := warm(t, newScript())
	server.Slow()
	if err := opened.Apply(t.Context(), batch(t, customers(t), 2, `{"id":"1"}`)); err != nil {
		t.Error(err)
	}
}

func TestWrite_NoticesUnwrittenRows(t *testing.T) {
	for name, rows := range map[string][]string{"of a parameter": many(2), "of a file": many(5000)} {
		t.Run(name, func(t *testing.T) {
			opened, server, before := warm(t, newScriptThat("MERGE INTO \"customer\"", 2))
			err := opened.Apply(t.Context(), batch(t, customers(t), 2, rows[1:]...))
			if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "did not write as many rows") {
				t.Errorf("want a transient error about the count, got %v", err)
			}
			if statements := verbs(server.Statements()[before:]); slices.Contains(statements, "COMMIT") ||
				!slices.Contains(statements, "ROLLBACK") {
				t.Errorf("the transaction was not rolled back: %q", statements)
			}
			if n := server.Files(); n != 0 {
				t.Errorf("%d files are left on the stage", n)
			}
		})
	}
}

// newScriptThat returns a script that reports one written row for each of the first n-1 statements
// that start with the prefix, and no row for later ones.
func newScriptThat(prefix string, n int) *script {
	s := newScript()
	times := 0
	s.on(prefix, func(peer.Query) (*peer.Result, error) {
		times++
		count := "1"
		if times >= n {
			count = "0"
		}
		return named([]string{"number of rows inserted", "number of rows updated"}, count, "0"), nil
	})
	return s
}

func TestWrite_CountsGuardedRowsOfAFileBeforeTheMerge(t *testing.T) {
	s := newScript()
	s.table("customer", "id TEXT", "name TEXT", "visits NUMBER", "_eds_op TEXT", "_eds_version TEXT", "_eds_synced_at TIMESTAMP_TZ")
	server := serve(t, s)
	opened := mustOpen(t, address(server, "metadata=true"))
	if err := opened.Apply(t.Context(), batch(t, customers(t), 2, many(5000)...)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(verbs(server.Statements()), "SELECT COUNT(*) FROM") {
		t.Errorf("nothing counts the rows: %q", verbs(server.Statements()))
	}
	s.on("SELECT COUNT(*)", func(peer.Query) (*peer.Result, error) { return named([]string{"COUNT(*)"}, "4999"), nil })
	if err := opened.Apply(t.Context(), batch(t, customers(t), 3, many(5000)...)); err == nil ||
		!strings.Contains(err.Error(), "4999 of 5000") {
		t.Errorf("want an error about the count, got %v", err)
	}
}

func TestCheckpoint_MovedIsFatal(t *testing.T) {
	s := newScript()
	opened, _, _ := warm(t, s)
	s.on("UPDATE \"_eds_checkpoint\"", func(peer.Query) (*peer.Result, error) {
		return named([]string{"number of rows updated"}, "0"), nil
	})
	err := opened.Apply(t.Context(), batch(t, customers(t), 2, `{"id":"1"}`))
	if !errors.As(err, new(*sink.WriterError)) || fault.Of(err) != fault.Fatal {
		t.Errorf("want a fatal *sink.WriterError, got %v", err)
	}
}

func TestLoad_CountsRows(t *testing.T) {
	s := newScript()
	opened, _, _ := warm(t, s)
	s.on("COPY", func(peer.Query) (*peer.Result, error) { return named([]string{"file", "rows_loaded"}, "f", "1"), nil })
	l, err := opened.BeginLoad(t.Context(), "job", customers(t), sink.Replace, sink.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	b := batch(t, customers(t), 1, many(2)...)
	_, err = l.LoadFile(t.Context(), "file", func(yield func(*change.Row, error) bool) {
		for i := range b.Sets[0].Upserts {
			if !yield(&b.Sets[0].Upserts[i], nil) {
				return
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("want an error about the count, got %v", err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTables_FindsUpperCaseNames(t *testing.T) {
	s := newScript()
	s.table("CUSTOMER", "ID TEXT", "NAME TEXT", "VISITS NUMBER")
	server := serve(t, s)
	opened := mustOpen(t, address(server))
	if err := opened.Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1","name":"x"}`)); err != nil {
		t.Fatal(err)
	}
	for _, sql := range server.Statements() {
		if strings.HasPrefix(sql, "MERGE") && strings.Contains(sql, `"customer"`) ||
			strings.Contains(sql, `CREATE TABLE IF NOT EXISTS "customer"`) {
			t.Errorf("the table was not found: %s", sql)
		}
	}
	if !slices.ContainsFunc(server.Statements(), func(sql string) bool {
		return strings.HasPrefix(sql, `MERGE INTO "CUSTOMER" AS t`) && strings.Contains(sql, `"NAME" = s."c1"`)
	}) {
		t.Errorf("no merge into CUSTOMER: %q", verbs(server.Statements()))
	}
}

func TestTables_FinishesInterruptedWidenings(t *testing.T) {
	s := newScript()
	s.table("customer", "id TEXT", "_eds_wide_s_name TEXT", "visits NUMBER", "_eds_wide_n_visits NUMBER")
	server := serve(t, s)
	s.on("ALTER TABLE", func(peer.Query) (*peer.Result, error) {
		for i := range s.columns {
			if s.columns[i][1] == "_eds_wide_s_name" {
				s.columns[i][1] = "name"
			}
		}
		return row("ok"), nil
	})
	if err := mustOpen(t, address(server)).Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1","name":"x","visits":1}`)); err != nil {
		t.Fatal(err)
	}
	var altered []string
	for _, sql := range server.Statements() {
		if strings.HasPrefix(sql, "ALTER") {
			altered = append(altered, sql)
		}
	}
	if diff := cmp.Diff([]string{`ALTER TABLE "customer" RENAME COLUMN "_eds_wide_s_name" TO "name"`}, altered); diff != "" {
		t.Error(diff)
	}
}

func TestBusyService_IsRetriedAfterTheTimeItAsks(t *testing.T) {
	opened, server, _ := warm(t, newScript())
	b := batch(t, customers(t), 2, `{"id":"1"}`)
	for asked, want := range map[string]time.Duration{
		"7": 7 * time.Second, "60000": 10 * time.Minute, "2147483647": 10 * time.Minute,
		"Fri, 31 Dec 9999 23:59:59 GMT": 10 * time.Minute, "-1": 0,
	} {
		server.Busy(asked)
		for range 2 { // with a session, and without
			err := opened.Apply(t.Context(), b)
			if err == nil || fault.Of(err) != fault.Transient || fault.RetryAfter(err) != want ||
				!strings.Contains(err.Error(), "HTTP status 503") {
				t.Errorf("%s: want a transient error for %v, got %v, %v", asked, want, err, fault.RetryAfter(err))
			}
		}
	}
	server.Busy("")
	if err := opened.Apply(t.Context(), b); err != nil {
		t.Error(err)
	}
}
