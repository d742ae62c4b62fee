package pipeline_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

func TestStatus_AfterAddsEarlierPipelines(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0).UTC() }
	earlier := pipeline.Status{
		State: pipeline.Waiting, Reason: "for something", Since: at(9),
		Position: cdc.Position{Sequence: 7}, LastApplied: at(5), LastChange: at(4), Pending: 3,
		Applied: 10, Skipped: 2, Rejected: 1, Batches: 4, Rate: 8, LastError: "once", LastErrorAt: at(3),
		Tables: map[string]pipeline.TableStatus{
			"both": {Inserts: 1, Updates: 2, Deletes: 3, LastApplied: at(5), LastChange: at(4)},
			"old":  {Inserts: 4, LastApplied: at(2), LastChange: at(1)},
		},
	}
	idle := pipeline.Status{State: pipeline.Running, Pending: 1}.After(earlier)
	want := earlier
	want.State, want.Reason, want.Since, want.Pending, want.Rate = pipeline.Running, "", time.Time{}, 1, 0
	if diff := cmp.Diff(want, idle); diff != "" {
		t.Error(diff)
	}
	busy := pipeline.Status{
		State: pipeline.Running, Position: cdc.Position{Sequence: 8}, LastApplied: at(20), LastChange: at(19),
		Applied: 1, Batches: 1, Rate: 2, LastError: "again", LastErrorAt: at(18),
		Tables: map[string]pipeline.TableStatus{
			"both": {Updates: 1, LastApplied: at(20), LastChange: at(19)},
			"new":  {Deletes: 1, LastApplied: at(20), LastChange: at(19)},
		},
	}
	want = pipeline.Status{
		State: pipeline.Running, Position: cdc.Position{Sequence: 8}, LastApplied: at(20), LastChange: at(19),
		Applied: 11, Skipped: 2, Rejected: 1, Batches: 5, Rate: 2, LastError: "again", LastErrorAt: at(18),
		Tables: map[string]pipeline.TableStatus{
			"both": {Inserts: 1, Updates: 3, Deletes: 3, LastApplied: at(20), LastChange: at(19)},
			"old":  {Inserts: 4, LastApplied: at(2), LastChange: at(1)},
			"new":  {Deletes: 1, LastApplied: at(20), LastChange: at(19)},
		},
	}
	if diff := cmp.Diff(want, busy.After(earlier)); diff != "" {
		t.Error(diff)
	}
}
