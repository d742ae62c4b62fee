package server

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// TableReport is the state of one table, and what was applied to it since the server began.
type TableReport struct {
	telemetry.TableState
	// AppliedTo and AppliedAt are the last message that a table has that is not ok, and when
	// the stream stored it.
	AppliedTo uint64    `json:"appliedTo,omitempty"`
	AppliedAt time.Time `json:"appliedAt,omitzero"`
	// Attempts counts those to bring the table back that failed; Next is when the next may
	// begin.
	Attempts int       `json:"attempts,omitempty"`
	Next     time.Time `json:"next,omitzero"`

	Inserts     uint64    `json:"inserts"`
	Updates     uint64    `json:"updates"`
	Deletes     uint64    `json:"deletes"`
	LastApplied time.Time `json:"lastApplied,omitzero"`
	LastChange  time.Time `json:"lastChange,omitzero"` // by the source's clock
}

// tables reports on all tables that the server knows, by name: those that were imported or
// changed, and those that are not ok.
func (s *Server) tables(status pipeline.Status) map[string]TableReport {
	var imported []string
	if d := s.reconciler.Destination(); d != nil {
		snapshots, err := s.State.Snapshots(d.Destination)
		if err != nil {
			s.Logger.Warn("the states of imported tables are left out", "error", err)
		}
		imported = slices.Collect(maps.Keys(snapshots))
	}
	return tableReports(imported, status.Tables, s.reconciler.TableStates())
}

func tableReports(imported []string, changed map[string]pipeline.TableStatus, notOK []sink.TableState) map[string]TableReport {
	all := make(map[string]TableReport)
	for _, name := range imported {
		all[name] = TableReport{TableState: telemetry.TableState{State: string(sink.OK)}}
	}
	for name, t := range changed {
		all[name] = TableReport{
			TableState: telemetry.TableState{State: string(sink.OK)},
			Inserts:    t.Inserts, Updates: t.Updates, Deletes: t.Deletes, LastApplied: t.LastApplied, LastChange: t.LastChange,
		}
	}
	for i := range notOK {
		state := &notOK[i]
		t := all[state.Table]
		t.describe(state)
		all[state.Table] = t
	}
	return all
}

// describe adds what is wrong with the table.
func (t *TableReport) describe(s *sink.TableState) {
	t.TableState = telemetry.TableState{
		State: string(s.State), Cause: string(s.Cause), Reason: telemetry.MaskText(s.Reason), Since: s.Since.UTC(), Command: s.Remedy(),
		Gap: s.GapID(), Accepted: s.Accepted, Lost: lost(s),
	}
	t.AppliedTo, t.Attempts, t.Next = s.Applied.Sequence, s.Attempts, s.Next
	if s.Applied.Stored != 0 {
		t.AppliedAt = time.Unix(0, s.Applied.Stored).UTC()
	}
}

// lost reports whether the table stays as it is without the operator.
func lost(s *sink.TableState) bool {
	switch s.State {
	case sink.Missing:
		return true
	case sink.Incomplete:
		return !s.Accepted
	default:
		return s.Cause == sink.CauseRefused || s.Cause == sink.CausePoison
	}
}

// tableStates returns the states of all tables, for health.
func (s *Server) tableStates() map[string]telemetry.TableState {
	all := make(map[string]telemetry.TableState)
	for name, t := range s.tables(s.Status()) {
		all[name] = t.TableState
	}
	return all
}

// mostTables is how many tables a heartbeat lists: what HQ takes of a message is bounded.
const mostTables = 100

// tableStats returns the tables that are not ok, for a heartbeat, and their number.
func tableStats(states []sink.TableState) (listed []hq.TableStats, all int) {
	for i := range states[:min(len(states), mostTables)] {
		s := &states[i]
		listed = append(listed, hq.TableStats{
			Table: s.Table, State: string(s.State), Cause: string(s.Cause), Reason: telemetry.MaskText(s.Reason), Since: s.Since.UTC(),
			Command: s.Remedy(), Accepted: s.Accepted,
		})
	}
	return listed, len(states)
}
