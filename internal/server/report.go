package server

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Report is the state of a running server. Its JSON format is stable, because other programs
// read it.
type Report struct {
	Version     string           `json:"version"`
	PID         int              `json:"pid"`
	Started     time.Time        `json:"started"`
	ServerID    string           `json:"serverId,omitempty"`
	Destination string           `json:"destination,omitempty"` // URL with secrets masked
	Health      telemetry.Report `json:"health"`

	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"` // why the server waits or is paused
	Since       time.Time `json:"since,omitzero"`
	Import      string    `json:"import,omitempty"`   // progress of a running import
	ImportID    string    `json:"importId,omitempty"` // id of the running or requested import
	LagSeconds  *float64  `json:"lagSeconds"`         // age of the oldest received change that is not durable; null if unknown
	Rate        float64   `json:"rate"`               // applied events per second
	Pending     *uint64   `json:"pending"`            // number of events in the stream that are not acknowledged; null if unknown
	Applied     uint64    `json:"applied"`            // number of events since the server was started
	Skipped     uint64    `json:"skipped"`
	Rejected    uint64    `json:"rejected"`
	DeadLetters int       `json:"deadLetters"`          // dead letters that are not superseded: the destination lacks them
	DeadUnknown int       `json:"deadLettersUnknown"`   // those of DeadLetters whose rows are unknown
	DeadOthers  int       `json:"deadLettersElsewhere"` // dead letters of other destinations
	LastApplied time.Time `json:"lastApplied,omitzero"`
	LastChange  time.Time `json:"lastChange,omitzero"` // commit time, by the source's clock
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`

	// Tables maps table names to states. It has all tables that were imported or changed, or
	// that are not ok.
	Tables map[string]TableReport `json:"tables"`
}

// Report returns the state of the server. It is safe for concurrent use.
func (s *Server) Report() Report {
	st, letters := s.Status(), s.deadLetters()
	r := Report{
		Version: s.Build.Version, PID: s.PID, Started: s.began.UTC(), ServerID: s.agent.ServerID(), Health: s.Health.Report(),
		State: string(st.State), Reason: telemetry.MaskText(st.Reason), Since: st.Since,
		Import: s.reconciler.Progress(), ImportID: s.reconciler.ImportID(),
		LagSeconds: known(st.LagKnown, st.Lag.Seconds()), Rate: st.Rate, Pending: known(st.PendingKnown, st.Pending),
		Applied: st.Applied, Skipped: st.Skipped, Rejected: st.Rejected,
		DeadLetters: letters.Lacks(), DeadUnknown: letters.Unknown, DeadOthers: letters.Elsewhere,
		LastApplied: st.LastApplied, LastChange: st.LastChange, LastError: telemetry.MaskText(st.LastError), LastErrorAt: st.LastErrorAt,
		Tables: s.tables(st),
	}
	r.Health.Tables = nil // r.Tables has them
	if d := s.reconciler.Destination(); d != nil {
		r.Destination = d.Masked
	}
	if r.State == "" {
		r.State = string(r.Health.Status)
	}
	return r
}

// known returns a pointer to the given value. If the first argument is false, the value is not
// known, and the result is nil.
func known[T any](is bool, value T) *T {
	if !is {
		return nil
	}
	return &value
}
