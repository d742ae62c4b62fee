package reconciler

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// leaveIncomplete records that tables lack the changes of a gap, so that everything else
// can go on. It returns false if the destination does not record states, or if it is not
// known to be the one that has the tables: then nothing can be applied before an import.
func (r *run) leaveIncomplete(k *recorded, plan continuity.Plan) bool {
	gap := plan.Gap
	if k.recorder == nil || gap.Reason != continuity.Trimmed && gap.Reason != continuity.Recreated {
		return false
	}
	states := make(map[string]sink.TableState)
	for _, t := range k.Records.Tables {
		states[t.Table] = t
	}
	names := slices.Clone(gap.Tables)
	if gap.Others {
		names = slices.AppendSeq(names, maps.Keys(k.Evidence.Snapshots))
		names = append(names, sink.OtherTables)
	}
	if gap.Reason == continuity.Recreated { // positions in the old stream mean nothing now
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
	k.Records.Tables = slices.Collect(maps.Values(states))
	r.Logger.Error("changes are missing; what comes now is applied", "error", gap)
	return true
}
