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

// looks requires what an inspection finds: the cause of the table's state, and the warning.
func (g *healing) looks(kind sink.FindingKind, cause sink.Cause, warning string) {
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

// deletes has the main pipeline delete rows of table a.
func (g *healing) deletes(n int) {
	g.t.Helper()
	set := &change.Set{Table: &schema.Table{Name: "a"}, Deletes: make([]change.Row, n)}
	g.must(g.h.set.Main(g.destination).Apply(g.t.Context(), &change.Batch{Sets: []*change.Set{set}, Last: cdc.Position{Sequence: 11}}))
}

const (
	warnEmpty   = "tables: unverified: table a is empty, and what deleted its rows is not known; to compare the destination with the source, run: eds verify"
	warnAnother = "tables: unverified: table a is another table than the one that was imported; to compare the destination with the source, run: eds verify"
)

// TestInspect tells a table that another emptied from one whose rows the stream deleted.
func TestInspect(t *testing.T) {
	const filled = sink.FindingKind(0)
	counted := map[string]imported{"a": {rows: 5}, "b": {}}
	for name, f := range map[string]func(g *healing){
		"nothing": func(g *healing) { g.looks(filled, "", "") },
		"absent": func(g *healing) {
			g.looks(sink.FoundAbsent, sink.CauseAbsent, "")
			g.looks(filled, sink.CauseAbsent, "")
		},
		"another": func(g *healing) {
			g.looks(sink.FoundAnother, "", warnAnother)
			g.looks(filled, "", "")
		},
		"another, and equal": func(g *healing) {
			g.looks(sink.FoundAnother, "", warnAnother)
			time.Sleep(time.Second)
			g.process.Verified(Verification{Began: time.Now(), Tables: []string{"b"}})
			g.looks(sink.FoundAnother, "", warnAnother)
			g.process.Verified(Verification{Began: time.Now(), Tables: []string{"a"}})
			g.looks(sink.FoundAnother, "", "")
			time.Sleep(time.Second)
			g.looks(filled, "", "")
			g.looks(sink.FoundAnother, "", warnAnother)
		},
		"another, compared before": func(g *healing) {
			g.process.Verified(Verification{Began: time.Now().Add(-time.Second), Tables: []string{"a"}})
			g.looks(sink.FoundAnother, "", warnAnother)
		},
		"emptied since the last look": func(g *healing) {
			g.looks(filled, "", "")
			g.looks(sink.FoundEmpty, sink.CauseEmptied, "")
			g.looks(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"deleted since the last look": func(g *healing) {
			g.looks(filled, "", "")
			g.deletes(1)
			g.looks(sink.FoundEmpty, "", "")
			g.looks(sink.FoundEmpty, "", "")
		},
		"deletes before the last look": func(g *healing) {
			g.deletes(3)
			g.looks(filled, "", "")
			g.looks(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"locked at the first look": func(g *healing) {
			g.looks(sink.FoundLocked, "", "")
			g.looks(sink.FoundEmpty, "", warnEmpty)
		},
		"locked before it was emptied": func(g *healing) {
			g.looks(filled, "", "")
			g.looks(sink.FoundLocked, "", "")
			g.looks(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"empty at the first look": func(g *healing) {
			g.looks(sink.FoundEmpty, "", warnEmpty)
			g.looks(sink.FoundEmpty, "", warnEmpty)
			g.looks(filled, "", "")
		},
		"deleted, then a restart, then filled and emptied": func(g *healing) {
			g.looks(filled, "", "")
			g.deletes(1)
			g.looks(sink.FoundEmpty, "", "")
			g.run(imports("a", "b"))
			g.looks(sink.FoundEmpty, "", "")
			g.looks(filled, "", "")
			g.run(imports("a", "b"))
			g.looks(sink.FoundEmpty, "", warnEmpty)
		},
		"fewer deletes than rows since the import": func(g *healing) {
			g.run(counted)
			g.deletes(4)
			g.looks(sink.FoundEmpty, sink.CauseEmptied, "")
		},
		"as many deletes as rows since the import": func(g *healing) {
			g.run(counted)
			g.deletes(5)
			g.looks(sink.FoundEmpty, "", "")
		},
		"behind": func(g *healing) {
			g.run(counted, sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseRefused})
			g.looks(sink.FoundAbsent, sink.CauseRefused, "")
			g.looks(sink.FoundEmpty, sink.CauseRefused, "")
		},
		"metered": func(g *healing) {
			g.h.inspection = nil
			g.looks(sink.FoundAbsent, "", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(newHealing(t, imports("a", "b"))) })
		})
	}
}

// TestImportedTables counts the rows of imports only if all changes since are counted.
func TestImportedTables(t *testing.T) {
	taken := time.Unix(1_800_000_000, 0)
	record := func(table string, generation, rows int64) sink.Snapshot {
		return sink.Snapshot{Table: table, Clock: cdc.At(taken), Imported: taken.Add(time.Hour), Rows: rows, Generation: generation}
	}
	part := record("part", 1, 5)
	part.Scope.Companies = []string{"c1"}
	got := importedTables(map[string]continuity.Snapshot{
		"fresh": {}, "followed": {Followed: true}, "part": {}, "local": {},
	}, []sink.Snapshot{record("fresh", 2, 7), record("fresh", 1, 3), record("followed", 1, 5), part, record("left", 1, 5)})
	want := map[string]imported{"fresh": {7, time.Hour}, "followed": {0, time.Hour}, "part": {0, time.Hour}, "local": {}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(imported{})); diff != "" {
		t.Error(diff)
	}
}

func TestAbsence_NamesWhatIsInTheTablesPlace(t *testing.T) {
	for other, want := range map[string]string{"": "it does not exist in the destination any more", "a view": "a view has its name in the destination: drop or rename it"} {
		if got := absence(sink.Finding{Table: "a", Kind: sink.FoundAbsent, Other: other}); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
