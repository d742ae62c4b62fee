package continuity

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// TestDecide_AfterTheReferenceServer continues from its import, its consumer, or neither.
func TestDecide_AfterTheReferenceServer(t *testing.T) {
	imported := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	months := imported.Add(90 * 24 * time.Hour)
	snapshots := map[string]ImportEvidence{"order": {Clock: cdc.At(imported), Reference: true}}
	stream := StreamEvidence{
		First: 1, FirstStored: imported.Add(-24 * time.Hour).UnixNano(), Stored: months.Add(-time.Minute).UnixNano(), Pending: 7,
	}
	consumer := &Consumer{Floor: 5000, Created: imported.UnixNano()}
	unread := errors.New("not a log of commands")
	fromImport := Plan{Start: Start{From: FromTime, Time: imported.Add(-ClockMargin)}}
	fromFloor := Plan{
		Start: Start{From: FromSequence, Sequence: 5001}, Reached: 5000,
		Unverified: "no applied position is recorded; eds uses the consumer's acknowledgements, up to message 5000, instead",
	}
	gap := Plan{Gap: &GapError{Reason: Unread, Others: true, Err: unread}}
	followed := cdc.Position{Sequence: 9000, Stored: months.UnixNano()}
	for name, c := range map[string]struct {
		e    Evidence
		want Plan
	}{
		"its import":                   {Evidence{Snapshots: snapshots}, fromImport},
		"its import, and its consumer": {Evidence{Snapshots: snapshots, Consumer: consumer}, fromFloor},
		"its import, and a checkpoint of eds": {
			Evidence{Snapshots: snapshots, Destination: DestinationEvidence{Stores: true, Checkpoint: followed}},
			Plan{
				Start: Start{From: FromSequence, Sequence: 9001}, Applied: followed, Reached: 9000,
				Note: "the consumer no longer exists; creating it again after message 9000",
			},
		},
		"unreadable": {Evidence{Unread: unread}, gap},
		"the same, and an import of a part": {
			Evidence{Unread: unread, Snapshots: map[string]ImportEvidence{"order": {Clock: cdc.At(months)}}}, gap,
		},
		"the same, and its consumer": {Evidence{Unread: unread, Consumer: consumer}, fromFloor},
		"the same, with --restart":   {Evidence{Unread: unread, Beginning: true}, Plan{Start: Start{From: FromBeginning}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.e.Stream, c.e.Now = stream, months
			if c.e.Destination.Checkpoint.Sequence > 0 {
				c.e.Stream.Stored = followed.Stored
			}
			got := Decide(c.e)
			reason := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Gap.Err" }, cmpopts.EquateErrors())
			if diff := cmp.Diff(c.want, got, reason); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGapError_StatesWhyTheImportOfTheReferenceServerIsUnknown(t *testing.T) {
	err := &GapError{Reason: Unread, Others: true, Err: errors.New("cannot read eds-data.db")}
	if want := "cannot read eds-data.db; changes may be missing: run eds import"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}
