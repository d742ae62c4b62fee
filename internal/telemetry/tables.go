package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TableState is the state of one table.
type TableState struct {
	// State is "ok", "behind", "missing" or "incomplete".
	State   string    `json:"state"`
	Cause   string    `json:"cause,omitempty"`   // of a state that is not ok; a short constant
	Reason  string    `json:"reason,omitempty"`  // the cause as a sentence
	Since   time.Time `json:"since,omitzero"`    // when it was first not ok
	Command string    `json:"command,omitempty"` // repairs the table; "": eds repairs it by itself
	// Gap is the id of the gap that makes the table incomplete, for eds accept-gap.
	Gap string `json:"gap,omitempty"`
	// Accepted reports whether the operator has accepted that the table is incomplete.
	Accepted bool `json:"accepted,omitempty"`
	// Lost reports whether the table stays as it is until the operator acts, and the operator
	// has not accepted that.
	Lost bool `json:"-"`
}

// label returns the state for metrics, so that alerts can leave out accepted tables.
func (s TableState) label() string {
	if s.Accepted {
		return "accepted"
	}
	return s.State
}

// ReadTables makes Report read the states of all tables, by name, from read. It is called
// for each report, concurrently, and must not call methods of h.
func (h *Health) ReadTables(read func() map[string]TableState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tables = read
}

// readTables returns the states of all tables, their reasons masked.
func (h *Health) readTables() map[string]TableState {
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

// notOK returns the tables that are not ok; nil: none.
func notOK(all map[string]TableState) map[string]TableState {
	var some map[string]TableState
	for name, s := range all {
		if s.State == "ok" {
			continue
		}
		if some == nil {
			some = make(map[string]TableState)
		}
		some[name] = s
	}
	return some
}

// allLost returns the reason for bad health if every table is lost.
func allLost(all map[string]TableState) (Reason, bool) {
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

// collectTables sends one eds_table_state for each table that is not ok, and the number of
// tables in each state.
func collectTables(all map[string]TableState, metrics chan<- prometheus.Metric) {
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
