package sinktest

import (
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// losesTables reports whether a check can remove tables and rows with SQL statements of the
// destination.
func losesTables(c features) bool { return c.inspects && c.sql }

func takesViews(c features) bool { return losesTables(c) && c.views }

var lostChecks = []property{
	{"a table that was imported and dropped is missing", losesTables, checkDropped},
	{"a change without a consumer does not make a dropped table", losesTables, checkDroppedWithoutConsumer},
	{"an import brings a dropped table back", losesTables, checkBroughtBack},
	{"a dropped table without a snapshot is made again", losesTables, checkDroppedUnrecorded},
	{"removed rows are noticed", losesTables, checkEmptied},
	{"a table imported without rows is no finding", losesTables, checkImportedEmpty},
	{"softly deleted rows count as rows", func(c features) bool { return losesTables(c) && c.softDelete }, checkSoftlyDeleted},
	{"a view in the place of a table", takesViews, checkView},
	{
		"a table without the key's columns is refused, the others are made", func(c features) bool { return c.inspects && c.foreign },
		checkLacksKey,
	},
}

// expectTableError checks that err is a sink.TableError about the table. The cause must be
// sink.ErrMissing if missing is true, and must be another error otherwise.
func (h *harness) expectTableError(err error, table string, missing bool) {
	h.Helper()
	refused := new(sink.TableError)
	if !errors.As(err, &refused) || refused.Table != table || fault.Of(err) != fault.Fatal || errors.Is(err, sink.ErrMissing) != missing {
		h.Errorf("want a fatal *sink.TableError of %q (missing: %v), got %v", table, missing, err)
	}
}

// expectFindings checks that Inspect returns the wanted findings.
func (h *harness) expectFindings(s sink.Sink, want ...sink.Finding) {
	h.Helper()
	got, err := s.(sink.Inspector).Inspect(h.ctx())
	if err != nil {
		h.Errorf("inspect: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.Errorf("the findings differ (-want +got): %s", diff)
	}
}

// imported imports the table, and returns the sink of a server that was started afterwards.
func (h *harness) imported(t *schema.Table, images ...string) sink.Sink {
	h.Helper()
	h.importSnapshot(t, "job", sink.LoadRecord{Clock: at(5)}, images...)
	return h.server(process("one"))
}

// expectMissing checks that s neither writes to the table nor creates it, and still writes to
// other tables.
func (h *harness) expectMissing(s sink.Sink, t *schema.Table) {
	h.Helper()
	before := h.model(t.Name).clone()
	for range 2 {
		h.expectTableError(h.try(s, h.delete(t, `{"id":"1"}`)), t.Name, true)
		h.expectTableError(h.try(s, h.update(t, `{"id":"1","name":"lost"}`)), t.Name, true)
	}
	h.models[t.Name] = before
	other := newTable(h, "other", "1", 1, column("id", schema.String))
	_, err := s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{t, other})
	h.expectTableError(err, t.Name, true)
	h.apply(s, h.insert(other, `{"id":"1"}`))
	h.expect(s, other)
}

func checkDropped(h *harness) {
	t := customers(h)
	s := h.imported(t, `{"id":"1","name":"imported"}`)
	h.apply(s, h.update(t, `{"id":"1","name":"later"}`))
	h.expect(s, t)
	h.expectFindings(s)
	h.sql("DROP TABLE customer")
	for _, s := range []sink.Sink{s, h.server(process("two"))} {
		h.resumeWriting(s)
		h.expectMissing(s, t)
		h.expectFindings(s, sink.Finding{Table: t.Name, Kind: sink.FoundAbsent})
		h.expectRows(s, t, newTableModel())
	}
}

func checkDroppedWithoutConsumer(h *harness) {
	t := customers(h)
	h.imported(t, `{"id":"1","name":"imported"}`)
	h.sql("DROP TABLE customer")
	s := h.open(importing)
	for range 2 {
		h.expectTableError(h.try(s, h.update(t, `{"id":"1","name":"replayed"}`)), t.Name, true)
	}
	h.expectFindings(s, sink.Finding{Table: t.Name, Kind: sink.FoundAbsent})
}

func checkBroughtBack(h *harness) {
	t := customers(h)
	s := h.imported(t, `{"id":"1","name":"imported"}`)
	h.sql("DROP TABLE customer")
	h.expectMissing(s, t)
	h.importSnapshot(t, "again", sink.LoadRecord{Clock: at(6)}, `{"id":"1","name":"again"}`)
	h.resumeWriting(s)
	h.expectFindings(s)
	h.apply(s, h.update(t, `{"id":"1","name":"later"}`))
	h.expect(s, t)
	h.sql("DROP TABLE customer")
	h.load(s, "by the server", t, sink.Replace, `{"id":"1","name":"third"}`)
	h.models[t.Name] = newTableModel()
	h.model(t.Name).load(h, t, `{"id":"1","name":"third"}`)
	h.apply(s, h.update(t, `{"id":"1","name":"last"}`))
	h.expect(s, t)
}

func checkDroppedUnrecorded(h *harness) {
	s, t, _ := h.written(process("one"))
	h.expectFindings(s)
	h.sql("DROP TABLE customer")
	h.models[t.Name] = newTableModel()
	h.apply(s, h.insert(t, `{"id":"2","name":"after"}`))
	h.expect(s, t)
	h.expectFindings(s)
}

func checkEmptied(h *harness) {
	t, other := customers(h), newTable(h, "other", "1", 1, column("id", schema.String))
	h.importSnapshot(other, "job", sink.LoadRecord{Clock: at(5)}, `{"id":"1"}`)
	s := h.imported(t, `{"id":"1"}`, `{"id":"2"}`)
	h.expectFindings(s)
	h.sql("DELETE FROM customer")
	h.models[t.Name] = newTableModel()
	h.expectFindings(s, sink.Finding{Table: t.Name, Kind: sink.FoundEmpty})
	h.apply(s, h.insert(t, `{"id":"3"}`))
	h.expect(s, t)
	h.expectFindings(s)
}

func checkImportedEmpty(h *harness) {
	t := customers(h)
	s := h.imported(t)
	h.expectFindings(s)
	h.apply(s, h.insert(t, `{"id":"1"}`))
	h.apply(s, h.delete(t, `{"id":"1"}`))
	h.expectFindings(s)
}

func checkSoftlyDeleted(h *harness) {
	h.url = h.option("delete=soft")
	t := customers(h)
	s := h.imported(t, `{"id":"1"}`)
	h.apply(s, h.delete(t, `{"id":"1"}`))
	h.expect(s, t)
	h.expectFindings(s)
}

func checkView(h *harness) {
	t, other := customers(h), newTable(h, "other", "1", 1, column("id", schema.String))
	s := h.imported(t, `{"id":"1"}`)
	h.apply(s, h.update(t, `{"id":"1","name":"later"}`)) // s has now read the table's description
	h.sql("DROP TABLE customer")
	h.sql("CREATE VIEW customer AS SELECT 'x' AS id, 'y' AS name, 1 AS visits")
	h.expectMissing(s, t)
	h.expectFindings(s, sink.Finding{Table: t.Name, Kind: sink.FoundAbsent, Other: "a view"})
	h.sql("CREATE VIEW fresh AS SELECT 'x' AS id")
	fresh := newTable(h, "fresh", "1", 1, column("id", schema.String))
	for _, s := range []sink.Sink{s, h.open(importing)} {
		_, err := s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{fresh, other})
		h.expectTableError(err, fresh.Name, false)
		_, err = s.BeginLoad(h.ctx(), "again", t, sink.Replace, sink.Scope{})
		h.expectTableError(err, t.Name, false)
	}
	h.sql("DROP VIEW customer")
	h.importSnapshot(t, "again", sink.LoadRecord{Clock: at(6)}, `{"id":"2"}`)
	h.resumeWriting(s)
	h.apply(s, h.insert(t, `{"id":"3"}`))
	h.expect(s, t)
}

func checkLacksKey(h *harness) {
	h.config.Foreign(h.outer, h.url, "thing")
	bad := newTable(h, "thing", "1", 2, column("company", schema.String), column("id", schema.String), column("s", schema.String))
	good := newTable(h, "other", "1", 1, column("id", schema.String))
	s := h.server(process("one"))
	lines, err := s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{bad, good})
	h.expectTableError(err, bad.Name, false)
	if len(lines) != 1 {
		h.Errorf("the migration says %q", slices.Clone(lines))
	}
	h.expectTableError(h.try(s, h.insert(bad, `{"company":"c1","id":"1"}`)), bad.Name, false)
	h.apply(s, h.insert(good, `{"id":"1"}`))
	h.expect(s, good)
}
