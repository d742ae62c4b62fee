package reconciler

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// TestWithImported_KeepsTheProblemsOfATable if only some of its rows were imported.
func TestWithImported_KeepsTheProblemsOfATable(t *testing.T) {
	at := func(n uint64) cdc.Position { return cdc.Position{Sequence: n, Stored: int64(n)} }
	importing := func(n uint64) sink.TableState {
		return sink.TableState{Table: "t", State: sink.Behind, Cause: sink.CauseImporting, Applied: at(n)}
	}
	gap := importing(5)
	gap.Gap, gap.Accepted = "g", true
	missing := sink.TableState{Table: "t", State: sink.Missing, Cause: sink.CauseAbsent, Applied: at(3)}
	refused := func(n uint64) sink.TableState {
		return sink.TableState{Table: "t", State: sink.Behind, Cause: sink.CauseRefused, Applied: at(n), Attempts: 2}
	}
	for name, c := range map[string]struct {
		state, want sink.TableState
	}{
		"incomplete":    {sink.TableState{Table: "t", State: sink.Incomplete, Cause: sink.CauseGap, Gap: "g", Accepted: true}, gap},
		"missing":       {missing, missing},
		"behind":        {refused(3), refused(3)},
		"behind, later": {refused(7), refused(5)},
		"none":          {sink.TableState{Table: "t"}, importing(5)},
	} {
		t.Run(name, func(t *testing.T) {
			others := sink.TableState{Table: "other", State: sink.Missing}
			states := []sink.TableState{others, c.state}
			if c.state.State == "" {
				states = states[:1]
			}
			got := withImported(states, []sink.TableState{importing(5)})
			if diff := cmp.Diff([]sink.TableState{others, c.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWithoutImported_EndsTheGapOfOtherTables after an import that replaced all rows of all
// tables.
func TestWithoutImported_EndsTheGapOfOtherTables(t *testing.T) {
	others := sink.TableState{Table: sink.OtherTables, State: sink.Incomplete, Cause: sink.CauseGap, Gap: "g"}
	for name, c := range map[string]struct {
		snapshot continuity.ImportEvidence
		want     []sink.TableState
	}{
		"whole":          {continuity.ImportEvidence{Whole: true}, nil},
		"in part":        {continuity.ImportEvidence{Whole: true, Partial: true}, []sink.TableState{others}},
		"followed":       {continuity.ImportEvidence{Whole: true, Followed: true}, []sink.TableState{others}},
		"of some tables": {continuity.ImportEvidence{}, []sink.TableState{others}},
	} {
		t.Run(name, func(t *testing.T) {
			got := withoutImported([]sink.TableState{others}, map[string]continuity.ImportEvidence{"t": c.snapshot})
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
