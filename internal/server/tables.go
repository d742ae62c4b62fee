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

// TableReport is the state of one table, with statistics of the changes applied since the
// server was started.
type TableReport struct {
	telemetry.TableHealth
	// AppliedTo is set only if the table is not ok. It is the stream sequence of the last
	// message that was applied to the table. AppliedAt is the time at which the stream stored
	// this message.
	AppliedTo uint64    `json:"appliedTo,omitempty"`
	AppliedAt time.Time `json:"appliedAt,omitzero"`
	// Attempts is the number of failed attempts to repair the table. Next is the earliest time
	// of the next attempt.
	Attempts int       `json:"attempts,omitempty"`
	Next     time.Time `json:"next,omitzero"`

	Inserts     uint64    `json:"inserts"`
	Updates     uint64    `json:"updates"`
	Deletes     uint64    `json:"deletes"`
	LastApplied time.Time `json:"lastApplied,omitzero"`
	LastChange  time.Time `json:"lastChange,omitzero"` // commit time, by the source's clock
}

// tables returns a map from table names to reports. It has all tables that were imported or
// changed, or that are not ok.
func (s *Server) tables(status pipeline.Status) map[string]TableReport {
	var imported []string
	if d := s.reconciler.Destination(); d != nil {
		snapshots, err := s.State.Snapshots(d.DestinationKey)
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
		all[name] = TableReport{TableHealth: telemetry.TableHealth{State: string(sink.OK)}}
	}
	for name, t := range changed {
		all[name] = TableReport{
			TableHealth: telemetry.TableHealth{State: string(sink.OK)},
			Inserts:     t.Inserts, Updates: t.Updates, Deletes: t.Deletes, LastApplied: t.LastApplied, LastChange: t.LastChange,
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

// describe completes the report with the details of s, which is the state of a table that is not
// ok.
func (t *TableReport) describe(s *sink.TableState) {
	t.TableHealth = telemetry.TableHealth{
		State: string(s.State), Cause: string(s.Cause), Reason: telemetry.MaskText(s.Reason), Since: s.Since.UTC(),
		Command: s.Remedy(), Gap: s.GapID(), Accepted: s.Accepted, Lost: needsOperator(s),
	}
	t.AppliedTo, t.Attempts, t.Next = s.Applied.Sequence, s.Attempts, s.Next
	if s.Applied.Stored != 0 {
		t.AppliedAt = time.Unix(0, s.Applied.Stored).UTC()
	}
}

// needsOperator reports whether only the operator can repair the table.
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

// tableStates returns the states of all known tables, keyed by name, for health reports.
func (s *Server) tableStates() map[string]telemetry.TableHealth {
	all := make(map[string]telemetry.TableHealth)
	for name, t := range s.tables(s.Status()) {
		all[name] = t.TableHealth
	}
	return all
}

// mostTables is the maximum number of tables in a heartbeat. The limit exists because HQ limits
// the size of a message.
const mostTables = 100

// tableStats returns two results: at most mostTables tables for a heartbeat, and the number of
// tables in the parameter states.
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
