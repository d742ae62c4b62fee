package reconciler

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
)

// leaveImported lets a lane bring forward the tables that were imported since the stream was last
// followed. It records these tables as Behind, at the position of their snapshot, and returns a
// plan that lets all other tables continue from the checkpoint. If there are no other tables, or
// the destination does not record states, leaveImported returns the given plan, which reads all
// tables from the snapshots on. Tables whose snapshots were brought forward are always recorded as
// Behind, at the position that they have reached.
func (r *follower) leaveImported(
	ctx context.Context, ev *recordedEvidence, config jetstream.Config, e continuity.Evidence, plan continuity.Plan,
) (continuity.Plan, error) {
	position := e.Position()
	if ev.recorder == nil || position.Sequence == 0 {
		return plan, nil
	}
	others := e
	others.Snapshots = maps.Clone(e.Snapshots)
	behind, forward := make(map[string]continuity.ImportEvidence), false
	for table, s := range e.Snapshots {
		ahead := s.Applied.Sequence > 0
		if !s.Followed && (ahead || plan.Applied != position) {
			behind[table], forward = s, forward || ahead
			s.Followed = true
			others.Snapshots[table] = s
		}
	}
	continued := continuity.Decide(others)
	if len(behind) == 0 || !forward && len(behind) == len(e.Snapshots) || continued.Gap != nil || continued.Applied != position {
		return plan, nil
	}
	continued.Unverified, continued.Blind = plan.Unverified, plan.Blind
	states, err := behindSnapshots(ctx, config, behind, position)
	if err != nil {
		return plan, err
	}
	ev.Records.Tables = withImported(ev.Records.Tables, states)
	return continued, nil
}

// withoutImported removes from states the tables whose rows an import has replaced since the stream
// was last followed, and returns the remaining states. After an import of all tables, it also
// removes the tables without a snapshot, because the source no longer has these tables.
func withoutImported(states []sink.TableState, snapshots map[string]continuity.ImportEvidence) []sink.TableState {
	whole := false
	for _, s := range snapshots {
		whole = whole || s.Whole && !s.Followed && s.Replaces()
	}
	return slices.DeleteFunc(states, func(t sink.TableState) bool {
		s, ok := snapshots[t.Table]
		return ok && !s.Followed && s.Replaces() || !ok && whole
	})
}

// withImported returns the given states together with the states of imported tables. If a table
// already has a state, only some of its rows were imported, so the table still lacks the changes
// that the existing state describes.
func withImported(states, imported []sink.TableState) []sink.TableState {
	for _, t := range imported {
		i := slices.IndexFunc(states, func(old sink.TableState) bool { return old.Table == t.Table })
		if i < 0 {
			states = append(states, t)
			continue
		}
		switch old := &states[i]; {
		case old.State == sink.Missing:
		case old.State != sink.Behind:
			t.Gap, t.Accepted = old.Gap, old.Accepted
			*old = t
		case t.Applied.Sequence < old.Applied.Sequence:
			old.Applied = t.Applied
		}
	}
	return states
}

// behindSnapshots returns a Behind state for each table in the given map of snapshots. A table
// lacks the changes after its snapshot. If the snapshot is newer than position, the table counts as
// complete up to position.
func behindSnapshots(
	ctx context.Context, config jetstream.Config, behind map[string]continuity.ImportEvidence, position cdc.Position,
) ([]sink.TableState, error) {
	var states []sink.TableState
	starts := make(map[time.Time]uint64)
	for _, table := range slices.Sorted(maps.Keys(behind)) {
		applied, from := behind[table].Applied, behind[table].Start()
		if applied.Sequence == 0 {
			before, ok := starts[from]
			if !ok {
				var err error
				if before, err = jetstream.Before(ctx, config, from); err != nil {
					return nil, err
				}
				starts[from] = before
			}
			if applied = position; before < position.Sequence {
				applied = cdc.Position{Sequence: before, Stored: from.UnixNano()}
			}
		}
		states = append(states, sink.TableState{
			Table: table, State: sink.Behind, Applied: applied, Cause: sink.CauseImporting,
			Reason: "it was imported, and the changes since are being applied", Since: time.Now().UTC().Truncate(time.Millisecond),
		})
	}
	return states, nil
}
