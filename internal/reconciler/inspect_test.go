package reconciler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// inspects inspects a table in the given condition, and checks the cause of the table's new state
// and the warning.
func (g *healerTest) inspects(kind sink.FindingKind, cause sink.Cause, warning string) {
	g.t.Helper()
	g.destination.found(nil)
	if kind != 0 {
		g.destination.found(nil, sink.Finding{Table: "a", Kind: kind})
	}
	g.must(g.h.inspect(g.t.Context()))
	type outcome struct {
		cause   sink.Cause
		warning string
	}
	var got outcome
	for _, s := range g.h.set.States() {
		got.cause = s.Cause
	}
	for _, w := range g.process.Health.Report().Warnings {
		got.warning = w.Condition + ": " + w.Message
	}
	if diff := cmp.Diff(outcome{cause, warning}, got, cmp.AllowUnexported(outcome{})); diff != "" {
		g.t.Error(diff)
	}
}

// deletes makes the main pipeline delete rows of table a.
func (g *healerTest) deletes(n int) {
	g.t.Helper()
	set := &change.RowSet{Table: &schema.Table{Name: "a"}, Deletes: make([]change.Row, n)}
	g.must(g.h.set.Main(g.destination).Apply(g.t.Context(), &change.Batch{Sets: []*change.RowSet{set}, Last: cdc.Position{Sequence: 11}}))
}

const (
	warnEmpty = "tables: unverified: table a is empty, and eds does not know what deleted its rows; " +
		"to compare the destination with the source, run: eds verify"
	warnAnother = "tables: unverified: table a is not the table that was imported; " +
		"to compare the destination with the source, run: eds verify"
)

// TestInspect_DistinguishesEmptiedTables from tables whose rows the stream deleted.
func TestInspect_DistinguishesEmptiedTables(t *testing.T) {
	const filled = sink.FindingKind(0)
	counted := map[string]importStats{"a": {rows: 5}, "b": {}}
	for name, f := range map[string]func(g *healerTest){
		"unchanged": func(g *healerTest) { g.inspects(filled, "", "") },
		"absent": func(g *healerTest) {
			g.inspects(sink.FoundAbsent, sink.CauseAbsent, "")
			g.inspects(filled, sink.CauseAbsent, "")
		},
		"another": func(g *healerTest) {
			g.inspects(sink.FoundAnother, "", warnAnother)
			g.inspects(filled, "", "")
		},
		"another, and equal": func(g *healerTest) {
			g.inspects(sink.FoundAnother, "", warnAnother)
			time.Sleep(time.Second)
			g.process.Verified(Verification{Began: time.Now(), Tables: []string{"b"}})
			g.inspects(sink.FoundAnother, "", warnAnother)
			g.process.Verified(Verification{Began: time.Now(), Tables: []string{"a"}})
			g.inspects(sink.FoundAnother, "", "")
			time.Sleep(time.Second)
			g.inspects(filled, "", "")
			g.inspects(sink.FoundAnother, "", warnAnother)
		},
		"another, compared before": func(g *healerTest) {
			g.process.Verified(Verification{Began: time.Now().Add(-time.Second), Tables: []string{"a"}})
			g.inspects(sink.FoundAnother, "", warnAnother)
		},
		"emptied since the last inspection": func(g *healerTest) {
			g.inspects(filled, "", "")
			g.inspects(sink.FoundEmpty, sink.CauseEmptied, "")
			g.inspects(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"deleted since the last inspection": func(g *healerTest) {
			g.inspects(filled, "", "")
			g.deletes(1)
			g.inspects(sink.FoundEmpty, "", "")
			g.inspects(sink.FoundEmpty, "", "")
		},
		"deletes before the last inspection": func(g *healerTest) {
			g.deletes(3)
			g.inspects(filled, "", "")
			g.inspects(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"locked at the first inspection": func(g *healerTest) {
			g.inspects(sink.FoundLocked, "", "")
			g.inspects(sink.FoundEmpty, "", warnEmpty)
		},
		"locked before it was emptied": func(g *healerTest) {
			g.inspects(filled, "", "")
			g.inspects(sink.FoundLocked, "", "")
			g.inspects(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"empty at the first inspection": func(g *healerTest) {
			g.inspects(sink.FoundEmpty, "", warnEmpty)
			g.inspects(sink.FoundEmpty, "", warnEmpty)
			g.inspects(filled, "", "")
		},
		"deleted, then a restart, then filled and emptied": func(g *healerTest) {
			g.inspects(filled, "", "")
			g.deletes(1)
			g.inspects(sink.FoundEmpty, "", "")
			g.run(imports("a", "b"))
			g.inspects(sink.FoundEmpty, "", "")
			g.inspects(filled, "", "")
			g.run(imports("a", "b"))
			g.inspects(sink.FoundEmpty, "", warnEmpty)
		},
		"fewer deletes than rows since the import": func(g *healerTest) {
			g.run(counted)
			g.deletes(4)
			g.inspects(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"as many deletes as rows since the import": func(g *healerTest) {
			g.run(counted)
			g.deletes(5)
			g.inspects(sink.FoundEmpty, "", "")
		},
		"behind": func(g *healerTest) {
			g.run(counted, sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseRefused})
			g.inspects(sink.FoundAbsent, sink.CauseRefused, "")
			g.inspects(sink.FoundEmpty, sink.CauseRefused, "")
		},
		"metered": func(g *healerTest) {
			g.h.inspection = nil
			g.inspects(sink.FoundAbsent, "", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(newHealing(t, imports("a", "b"))) })
		})
	}
}

// TestImportedTables_HaveRowsIfEveryLaterChangeIsCounted by this process.
func TestImportedTables_HaveRowsIfEveryLaterChangeIsCounted(t *testing.T) {
	taken := time.Unix(1_800_000_000, 0)
	record := func(table string, generation, rows int64) sink.LoadRecord {
		return sink.LoadRecord{Table: table, Clock: cdc.At(taken), Imported: taken.Add(time.Hour), Rows: rows, Generation: generation}
	}
	part := record("part", 1, 5)
	part.Scope.Companies = []string{"c1"}
	got := importedTables(map[string]continuity.ImportEvidence{
		"fresh": {}, "followed": {Followed: true}, "part": {}, "local": {},
	}, []sink.LoadRecord{record("fresh", 2, 7), record("fresh", 1, 3), record("followed", 1, 5), part, record("left", 1, 5)})
	want := map[string]importStats{"fresh": {7, time.Hour}, "followed": {0, time.Hour}, "part": {0, time.Hour}, "local": {}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(importStats{})); diff != "" {
		t.Error(diff)
	}
}

func TestDescribeAbsence_NamesTheObjectInItsPlace(t *testing.T) {
	for other, want := range map[string]string{
		"": "it no longer exists in the destination", "a view": "a view has its name in the destination: drop or rename it",
	} {
		if got := describeAbsence(sink.Finding{Table: "a", Kind: sink.FoundAbsent, Other: other}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
