package reconciler

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// markIncomplete records that tables lack the changes of the plan's gap, so that all later changes
// can be applied. It returns false if the destination does not record states, or is possibly a
// different destination than before. In these cases, nothing can be applied before an import.
func (r *follower) markIncomplete(ev *recordedEvidence, plan continuity.Plan) bool {
	gap := plan.Gap
	if ev.recorder == nil || gap.Reason != continuity.Trimmed && gap.Reason != continuity.Recreated {
		return false
	}
	states := make(map[string]sink.TableState)
	for _, t := range ev.Records.Tables {
		states[t.Table] = t
	}
	names := slices.Clone(gap.Tables)
	if gap.Others {
		names = slices.AppendSeq(names, maps.Keys(ev.Evidence.Snapshots))
		names = append(names, sink.OtherTables)
	}
	if gap.Reason == continuity.Recreated { // positions in the old stream are no longer valid
		names = slices.AppendSeq(names, maps.Keys(states))
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	for _, name := range names {
		t, ok := states[name]
		t.Table, t.Gap, t.Accepted = name, gap.Event(), false
		if gap.Reason == continuity.Recreated {
			t.Applied = cdc.Position{Sequence: max(gap.First, 1) - 1}
		}
		if !ok || t.State == sink.OK || t.State == sink.Incomplete {
			t = sink.TableState{Table: name, State: sink.Incomplete, Cause: sink.CauseGap, Reason: t.Gap, Gap: t.Gap, Since: now}
		}
		states[name] = t
	}
	ev.Records.Tables = slices.Collect(maps.Values(states))
	r.Logger.Error("changes are missing; later changes are applied", "error", gap)
	return true
}
