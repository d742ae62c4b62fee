package telemetry

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Status is the state of the program in one word or two.
type Status string

const (
	Starting     Status = "starting"
	OK           Status = "ok"
	Unhealthy    Status = "unhealthy"
	ShuttingDown Status = "shutting down"
)

// Reason is a condition that stands in the way of health.
type Reason struct {
	Condition string    `json:"condition"`
	Message   string    `json:"message"`
	Since     time.Time `json:"since"`
}

// Report is the state at one moment. Warnings are of what works and should be
// changed all the same: they do not count against health.
type Report struct {
	Status   Status   `json:"status"`
	Reasons  []Reason `json:"reasons"`  // never nil
	Warnings []Reason `json:"warnings"` // never nil
	// Tables are those that are not ok, by name.
	Tables map[string]TableState `json:"tables,omitempty"`
}

// Health gathers what is wrong, condition by condition. Its methods may be
// called concurrently.
type Health struct {
	mu       sync.Mutex
	now      func() time.Time
	ready    bool
	stopping bool
	wrong    map[string]Reason
	warnings map[string]Reason
	tables   func() map[string]TableState // nil: no states are known
}

// NewHealth returns a Health of a program that is starting.
func NewHealth() *Health {
	return &Health{now: time.Now, wrong: make(map[string]Reason), warnings: make(map[string]Reason)}
}

// Set records that the named condition, such as "destination", fails with err,
// or, if err is nil, that it holds again. What looks like a secret is masked.
func (h *Health) Set(condition string, err error) {
	text := ""
	if err != nil {
		text = cmp.Or(err.Error(), "it fails")
	}
	h.record(h.wrong, condition, text)
}

// Warn records a warning about the named condition, or, if it is "", that there is
// none any more. What looks like a secret is masked.
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

// Ready records that the program has started.
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

// Report returns the state now, reasons and warnings by condition.
func (h *Health) Report() Report { return h.report(h.readTables()) }

func (h *Health) report(tables map[string]TableState) Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := maps.Clone(h.wrong)
	if reason, ok := lost(tables); ok {
		wrong[reason.Condition] = reason
	}
	r := Report{Status: OK, Reasons: sorted(wrong), Warnings: sorted(h.warnings), Tables: notOK(tables)}
	switch {
	case h.stopping:
		r.Status = ShuttingDown
	case len(wrong) > 0:
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
