package server

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Report is what a running server says of itself. Its JSON is stable: programs read it.
type Report struct {
	Version     string           `json:"version"`
	PID         int              `json:"pid"`
	Started     time.Time        `json:"started"`
	ServerID    string           `json:"serverId,omitempty"`
	Destination string           `json:"destination,omitempty"` // masked
	Health      telemetry.Report `json:"health"`

	State       string    `json:"state"`
	Reason      string    `json:"reason,omitempty"` // why it waits or stands still
	Since       time.Time `json:"since,omitzero"`
	Import      string    `json:"import,omitempty"`   // progress of one under way
	ImportID    string    `json:"importId,omitempty"` // of one under way, or waiting to begin
	LagSeconds  *float64  `json:"lagSeconds"`         // age of the oldest change received and not durable; null: not known
	Rate        float64   `json:"rate"`               // events applied a second
	Pending     *uint64   `json:"pending"`            // events in the stream that are not acknowledged; null: not known
	Applied     uint64    `json:"applied"`            // events, since the server began
	Skipped     uint64    `json:"skipped"`
	Rejected    uint64    `json:"rejected"`
	DeadLetters int       `json:"deadLetters"`          // that are not superseded: what the destination lacks
	DeadUnknown int       `json:"deadLettersUnknown"`   // of these, those whose rows are not known
	DeadOthers  int       `json:"deadLettersElsewhere"` // that other destinations lack
	LastApplied time.Time `json:"lastApplied,omitzero"`
	LastChange  time.Time `json:"lastChange,omitzero"` // by the source's clock
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`

	// Tables are those that were imported or changed, or are not ok, by name.
	Tables map[string]TableReport `json:"tables"`
}

// Report returns how the server is. It is safe for concurrent use.
func (s *Server) Report() Report {
	st, letters := s.Status(), s.deadLetters()
	s.mu.Lock()
	id := s.identity
	s.mu.Unlock()
	r := Report{
		Version: s.Build.Version, PID: s.PID, Started: s.began.UTC(), ServerID: id, Health: s.Health.Report(),
		State: string(st.State), Reason: telemetry.MaskText(st.Reason), Since: st.Since, Import: s.reconciler.Progress(), ImportID: s.reconciler.ImportID(),
		LagSeconds: known(st.LagKnown, st.Lag.Seconds()), Rate: st.Rate, Pending: known(st.PendingKnown, st.Pending),
		Applied: st.Applied, Skipped: st.Skipped, Rejected: st.Rejected, DeadLetters: letters.Lacks(), DeadUnknown: letters.Unknown, DeadOthers: letters.Elsewhere,
		LastApplied: st.LastApplied, LastChange: st.LastChange, LastError: telemetry.MaskText(st.LastError), LastErrorAt: st.LastErrorAt,
		Tables: s.tables(st),
	}
	r.Health.Tables = nil // they are in r.Tables
	if d := s.reconciler.Destination(); d != nil {
		r.Destination = d.Masked
	}
	if r.State == "" {
		r.State = string(r.Health.Status)
	}
	return r
}

// known returns value; nil if it is not known.
func known[T any](is bool, value T) *T {
	if !is {
		return nil
	}
	return &value
}
