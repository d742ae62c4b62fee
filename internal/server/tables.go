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

// TableReport is the state of one table, with the changes applied to it since the server began.
type TableReport struct {
	telemetry.TableState
	// AppliedTo is the last message that was applied to a table that is not ok; AppliedAt is
	// when the stream stored it.
	AppliedTo uint64    `json:"appliedTo,omitempty"`
	AppliedAt time.Time `json:"appliedAt,omitzero"`
	// Attempts counts failed attempts to repair the table; Next is the earliest time of the
	// next one.
	Attempts int       `json:"attempts,omitempty"`
	Next     time.Time `json:"next,omitzero"`

	Inserts     uint64    `json:"inserts"`
	Updates     uint64    `json:"updates"`
	Deletes     uint64    `json:"deletes"`
	LastApplied time.Time `json:"lastApplied,omitzero"`
	LastChange  time.Time `json:"lastChange,omitzero"` // by the source's clock
}

// tables returns reports on all known tables by name: those that were imported or changed,
// and those that are not ok.
func (s *Server) tables(status pipeline.Status) map[string]TableReport {
	var imported []string
	if d := s.reconciler.Destination(); d != nil {
		snapshots, err := s.State.Snapshots(d.Destination)
		if err != nil {
			s.Logger.Warn("imported tables are missing from the report", "error", err)
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

// describe adds the state of a table that is not ok.
func (t *TableReport) describe(s *sink.TableState) {
	t.TableState = telemetry.TableState{
		State: string(s.State), Cause: string(s.Cause), Reason: telemetry.MaskText(s.Reason), Since: s.Since.UTC(),
		Command: s.Remedy(), Gap: s.GapID(), Accepted: s.Accepted, Lost: needsOperator(s),
	}
	t.AppliedTo, t.Attempts, t.Next = s.Applied.Sequence, s.Attempts, s.Next
	if s.Applied.Stored != 0 {
		t.AppliedAt = time.Unix(0, s.Applied.Stored).UTC()
	}
}

// needsOperator reports whether the table stays as it is until the operator acts.
func needsOperator(s *sink.TableState) bool {
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

// mostTables bounds the tables in a heartbeat, as HQ bounds the size of a message.
const mostTables = 100

// tableStats returns the tables of a heartbeat, at most mostTables, and the number of all.
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
