package e2e_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// put writes rows into a table of the destination.
func (w *world) put(table string, images ...string) {
	w.t.Helper()
	sinktest.Apply(w.t, w.open(), sinktest.NewChanges(w.t, 0).Put(w.tables()[table], images...).Batch())
}

// has reports whether a table of the destination has a row with the id.
func (w *world) has(table, id string) bool {
	w.t.Helper()
	rows := sinktest.Rows(w.t, w.open().Reader, w.tables()[table])
	return slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(row, fmt.Sprintf(`id=%q`, id)) })
}

// TestImport_ReplacesOnlyRowsOfTheGivenCompanies imports one company with the command, and then by
// a request of HQ to a server that is limited to it.
func TestImport_ReplacesOnlyRowsOfTheGivenCompanies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{})
	companies := w.hq.Shop().Companies()
	ghost := func(id, company string) string { return fmt.Sprintf(`{"id":%q,"companyId":%q}`, id, company) }
	w.imports()
	w.put("customer", ghost("ghost-of-0", companies[0]), ghost("ghost-of-1", companies[1]))
	w.imports("--companyIds", companies[0])
	if w.has("customer", "ghost-of-0") || !w.has("customer", "ghost-of-1") {
		t.Error("an import of one company has kept its row, or removed that of another")
	}

	w.put("customer", ghost("ghost-of-0", companies[0]))
	p := w.serve("--companyIds", companies[0])
	session := w.session(p, "")
	w.notify(session, "import", map[string]any{"backfill": true})
	want(t, w.received(p, session, "import-response", 1), "success", true)
	p.stop()
	if w.has("customer", "ghost-of-0") || !w.has("customer", "ghost-of-1") {
		t.Errorf("an import of one company that hq ordered has kept its row, or removed that of another\n%s", p.output())
	}
	w.imports()
	w.equal()
}

// TestImport_LeavesForeignTablesAloneIfHQRequestsIt finds a table of another tool, which the
// operator then gives to eds.
func TestImport_LeavesForeignTablesAloneIfHQRequestsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", devhq.Options{})
	p := w.serve()
	session := w.session(p, "")
	w.url = sqlite(t)
	theirs := sinktest.Table(t, "customer", 1, "id string", "remark string")
	sinktest.Apply(t, w.open(), sinktest.NewChanges(t, 0).Put(theirs, `{"id":"theirs","remark":"kept"}`).Batch())
	want(t, w.ask(p, session, "configure", map[string]any{"url": w.url, "backfill": true}), "success", true)
	for i, backfill := range []bool{false, true} {
		w.notify(session, "import", map[string]any{"backfill": backfill})
		answer := w.received(p, session, "import-response", i+1)
		want(t, answer, "success", false)
		if message, _ := answer["message"].(string); !strings.Contains(message, "eds import --only customer") ||
			strings.Contains(message, "vehicle") {
			t.Errorf("the import is refused with %v", answer)
		}
	}
	if got := sinktest.Rows(t, w.open().Reader, theirs); !slices.Equal(got, []string{`id="theirs" remark="kept"`}) {
		t.Errorf("the foreign table has the rows %q", got)
	}
	if err := w.open().Adopter.Adopt(t.Context(), w.tables()["customer"]); !errors.Is(err, sink.ErrForeign) {
		t.Errorf("the foreign table was given columns: %v", err)
	}
	if rows := sinktest.Rows(t, w.open().Reader, w.tables()["vehicle"]); len(rows) == 0 {
		t.Error("the other tables were not imported")
	}
	p.stop()
	w.imports("--only", "customer")
	w.equal()
	p = w.serve()
	session = w.session(p, session)
	w.notify(session, "import", map[string]any{"backfill": true})
	want(t, w.received(p, session, "import-response", 1), "success", true)
	p.stop()
	w.equal()
}

// TestImport_TwoAtOnce imports the same tables from two data directories.
func TestImport_TwoAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{})
	var both []*exec.Cmd
	var outputs [2]strings.Builder
	for i := range outputs {
		cmd := exec.CommandContext(t.Context(), program, "import", "--data-dir", t.TempDir(), "--url", w.url, "--no-confirm")
		cmd.Env, cmd.Stdout, cmd.Stderr = w.env(), &outputs[i], &outputs[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		both = append(both, cmd)
	}
	for i, cmd := range both {
		if err := cmd.Wait(); err != nil {
			t.Errorf("import %d: %v\n%s", i, err, outputs[i].String())
		}
	}
	w.equal()
}
