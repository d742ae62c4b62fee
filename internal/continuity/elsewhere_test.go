package continuity

import (
	"slices"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// TestDecide_CountsNoAcknowledgementsForAnotherDestination: in the meantime, the stream was
// followed into another destination, and was trimmed beyond the position in this destination.
func TestDecide_CountsNoAcknowledgementsForAnotherDestination(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	e := Evidence{
		Now:      now,
		Record:   Record{Settled: cdc.Position{Sequence: 10, Stored: now.Add(-time.Hour).UnixNano()}, Scanned: 10},
		Consumer: &Consumer{Floor: 50, Acknowledged: true},
		Stream:   StreamEvidence{First: 31, FirstStored: now.UnixNano(), Pending: 100},
		Snapshots: map[string]ImportEvidence{
			"order": {Clock: cdc.At(now.Add(-48 * time.Hour)), Followed: true, Whole: true},
		},
	}
	if gap := Decide(e).Gap; gap != nil {
		t.Errorf("acknowledged for this destination: %v", gap)
	}
	e.Record.Elsewhere = true
	if gap := Decide(e).Gap; gap == nil || gap.Reason != Trimmed || gap.After != 10 {
		t.Errorf("acknowledged for another one: %v", gap)
	}
}

// TestDecide_ReportsAReplacedDestination until every table is imported.
func TestDecide_ReportsAReplacedDestination(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	followed := ImportEvidence{Clock: cdc.At(now.Add(-48 * time.Hour)), Followed: true, Whole: true}
	imported := ImportEvidence{Clock: cdc.At(now.Add(-time.Minute)), Whole: true}
	for name, c := range map[string]struct {
		stores    bool
		snapshots map[string]ImportEvidence
		tables    []string
		gap       bool
	}{
		"events":             {snapshots: map[string]ImportEvidence{"a": followed, "b": followed}, tables: []string{"a", "b"}, gap: true},
		"with a checkpoint":  {stores: true, snapshots: map[string]ImportEvidence{"a": followed}, tables: []string{"a"}, gap: true},
		"without an import":  {gap: true},
		"one imported since": {snapshots: map[string]ImportEvidence{"a": followed, "b": imported}, tables: []string{"a"}, gap: true},
		"all imported since": {snapshots: map[string]ImportEvidence{"a": imported, "b": imported}},
	} {
		e := Evidence{
			Now: now, Snapshots: c.snapshots,
			Destination: DestinationEvidence{Lost: true, Stores: c.stores, Checkpoint: cdc.Position{Sequence: 90, Stored: 1}},
			Record:      Record{Settled: cdc.Position{Sequence: 10, Stored: now.Add(-time.Hour).UnixNano()}},
			Stream: StreamEvidence{
				First: 2, FirstStored: now.Add(-3 * time.Hour).UnixNano(), Stored: now.Add(-time.Hour).UnixNano(), Pending: 100,
			},
		}
		plan := Decide(e)
		switch {
		case (plan.Gap != nil) != c.gap:
			t.Errorf("%s: %v", name, plan.Gap)
		case c.gap && (plan.Gap.Reason != Replaced || !slices.Equal(plan.Gap.Tables, c.tables)):
			t.Errorf("%s: %v", name, plan.Gap)
		case plan.Applied.Sequence > 0 || !plan.Forget:
			t.Errorf("%s: %+v", name, plan)
		}
	}
}
