package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Status is the state of the program.
type Status string

const (
	Starting     Status = "starting"
	OK           Status = "ok"
	Unhealthy    Status = "unhealthy"
	ShuttingDown Status = "shutting down"
)

// Reason is a failing condition, or a warning.
type Reason struct {
	Condition string    `json:"condition"`
	Message   string    `json:"message"`
	Since     time.Time `json:"since"`
}

// Report is the state of the program at one moment. Warnings do not affect Status.
type Report struct {
	Status   Status   `json:"status"`
	Reasons  []Reason `json:"reasons"`  // never nil
	Warnings []Reason `json:"warnings"` // never nil
	// Tables has the tables that are not ok, keyed by name.
	Tables map[string]TableHealth `json:"tables,omitempty"`
}

// Health collects the failures and warnings of a program by condition. It is safe for
// concurrent use.
type Health struct {
	mu       sync.Mutex
	now      func() time.Time
	ready    bool
	stopping bool
	failing  map[string]Reason
	warnings map[string]Reason
	tables   func() map[string]TableHealth // nil if the states of tables are unknown
}

// NewHealth returns the Health of a starting program.
func NewHealth() *Health {
	return &Health{now: time.Now, failing: make(map[string]Reason), warnings: make(map[string]Reason)}
}

// Set records that the named condition, such as "destination", fails with err. If err is nil, Set
// records that the condition no longer fails. Secrets in err are masked.
func (h *Health) Set(condition string, err error) {
	text := ""
	if err != nil {
		text = cmp.Or(err.Error(), "it fails")
	}
	h.record(h.failing, condition, text)
}

// Warn records a warning about the named condition. An empty warning removes the condition's
// warning. Secrets in the warning are masked.
func (h *Health) Warn(condition, warning string) { h.record(h.warnings, condition, warning) }

func (h *Health) record(reasons map[string]Reason, condition, message string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if message == "" {
		delete(reasons, condition)
		return
	}
	since := h.now().UTC()
	if old, ok := reasons[condition]; ok {
		since = old.Since
	}
	reasons[condition] = Reason{condition, MaskText(message), since}
}

// Ready records that the program has started, so that its status can become OK.
func (h *Health) Ready() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = true
}

// ShutDown records that the program is ending.
func (h *Health) ShutDown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Report returns the current state. Reasons and warnings are sorted by condition.
func (h *Health) Report() Report { return h.report(h.readTables()) }

func (h *Health) report(tables map[string]TableHealth) Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	failing := maps.Clone(h.failing)
	if reason, ok := allLost(tables); ok {
		failing[reason.Condition] = reason
	}
	r := Report{Status: OK, Reasons: sorted(failing), Warnings: sorted(h.warnings), Tables: notOK(tables)}
	switch {
	case h.stopping:
		r.Status = ShuttingDown
	case len(failing) > 0:
		r.Status = Unhealthy
	case !h.ready:
		r.Status = Starting
	}
	return r
}

func sorted(reasons map[string]Reason) []Reason {
	all := slices.AppendSeq(make([]Reason, 0, len(reasons)), maps.Values(reasons))
	slices.SortFunc(all, func(a, b Reason) int { return cmp.Compare(a.Condition, b.Condition) })
	return all
}
