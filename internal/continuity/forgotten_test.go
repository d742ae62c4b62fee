package continuity

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

func TestDecide_ReportsChangesThatOnlyTheConsumerShows(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Evidence)
		gap    bool
	}{
		"emptied":                  {func(*Evidence) {}, true},
		"of the reference server":  {func(e *Evidence) { e.Consumer.Ours = false }, false},
		"nothing was acknowledged": {func(e *Evidence) { e.Consumer.Acknowledged = false }, false},
		"without records":          {func(e *Evidence) { e.Destination.Records = false }, false},
		"with a checkpoint":        {func(e *Evidence) { e.Destination.Begun = true }, false},
		"imported since": {func(e *Evidence) {
			e.Snapshots = map[string]ImportEvidence{"order": {Clock: cdc.Timestamp{Wall: storedAt(90)}, Whole: true}}
		}, false},
	} {
		e := Evidence{
			Destination: DestinationEvidence{Stores: true, Records: true},
			Stream:      StreamEvidence{First: 1, FirstStored: storedAt(1), Stored: storedAt(50), Pending: 51},
			Consumer:    &Consumer{Floor: 50, Acknowledged: true, Ours: true},
		}
		test.change(&e)
		switch gap := Decide(e).Gap; {
		case (gap != nil) != test.gap:
			t.Errorf("%s: the gap is %v", name, gap)
		case gap != nil && (gap.Reason != CheckpointLost || gap.Remedy() != "eds import"):
			t.Errorf("%s: %v", name, gap)
		}
	}
}
