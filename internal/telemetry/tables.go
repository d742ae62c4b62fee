package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TableHealth is the state of one table.
type TableHealth struct {
	// State is "ok", "behind", "missing" or "incomplete".
	State   string    `json:"state"`
	Cause   string    `json:"cause,omitempty"`   // cause of a state that is not ok, as a short constant
	Reason  string    `json:"reason,omitempty"`  // the cause in words
	Since   time.Time `json:"since,omitzero"`    // time since which the table is not ok
	Command string    `json:"command,omitempty"` // command that repairs the table; "" if eds repairs it automatically
	// Gap is the id of the gap that makes the table incomplete. It is the argument of eds
	// accept-gap.
	Gap string `json:"gap,omitempty"`
	// Accepted reports whether the operator has accepted that the table is incomplete.
	Accepted bool `json:"accepted,omitempty"`
	// Lost reports whether only the operator can repair the table. An incomplete table that the
	// operator has accepted is not lost.
	Lost bool `json:"-"`
}

// label returns the state for metrics. Accepted tables get a separate state, so that alerts can
// exclude them.
func (s TableHealth) label() string {
	if s.Accepted {
		return "accepted"
	}
	return s.State
}

// ReadTables sets the function from which Report reads the states of all tables, keyed by name.
// This function is called once for each report, and calls may be concurrent. It must not call
// methods of h.
func (h *Health) ReadTables(read func() map[string]TableHealth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tables = read
}

// readTables returns the states of all tables, with secrets in their reasons masked.
func (h *Health) readTables() map[string]TableHealth {
	h.mu.Lock()
	read := h.tables
	h.mu.Unlock()
	if read == nil {
		return nil
	}
	all := read()
	for name, s := range all {
		s.Reason = MaskText(s.Reason)
		all[name] = s
	}
	return all
}

// notOK returns the tables that are not ok, or nil if all are ok.
func notOK(all map[string]TableHealth) map[string]TableHealth {
	var some map[string]TableHealth
	for name, s := range all {
		if s.State == "ok" {
			continue
		}
		if some == nil {
			some = make(map[string]TableHealth)
		}
		some[name] = s
	}
	return some
}

// allLost reports whether there are tables and all of them are lost. If so, it returns the
// reason why the program is unhealthy.
func allLost(all map[string]TableHealth) (Reason, bool) {
	r := Reason{Condition: "tables"}
	for _, s := range all {
		if !s.Lost {
			return Reason{}, false
		}
		if s.Since.After(r.Since) {
			r.Since = s.Since
		}
		r.Message = max(r.Message, s.Reason)
	}
	r.Message = "no table is complete: " + r.Message + "; run eds import"
	return r, len(all) > 0
}

// collectTables sends one eds_table_state for each table that is not ok, and one eds_tables
// with the number of tables for each state.
func collectTables(all map[string]TableHealth, metrics chan<- prometheus.Metric) {
	counts := map[string]int{"ok": 0, "behind": 0, "missing": 0, "incomplete": 0, "accepted": 0}
	for name, s := range all {
		counts[s.label()]++
		if s.State != "ok" {
			metrics <- prometheus.MustNewConstMetric(tableStateDesc, prometheus.GaugeValue, 1, name, s.label(), s.Cause)
		}
	}
	for state, n := range counts {
		metrics <- prometheus.MustNewConstMetric(tablesDesc, prometheus.GaugeValue, float64(n), state)
	}
}

var (
	tableStateDesc = prometheus.NewDesc("eds_table_state",
		`Always 1: the table is not ok. State "accepted" is an incomplete table that the operator has accepted.`, []string{
			"table",
			"state", "cause",
		}, nil)
	tablesDesc = prometheus.NewDesc("eds_tables", "Tables, by state.", []string{"state"}, nil)
)
