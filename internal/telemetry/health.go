package telemetry

import (
	"cmp"
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

// Report is the state at one moment.
type Report struct {
	Status  Status   `json:"status"`
	Reasons []Reason `json:"reasons"` // never nil
}

// Health gathers what is wrong, condition by condition. Its methods may be
// called concurrently.
type Health struct {
	mu       sync.Mutex
	now      func() time.Time
	ready    bool
	stopping bool
	wrong    map[string]Reason
}

// NewHealth returns a Health of a program that is starting.
func NewHealth() *Health { return &Health{now: time.Now, wrong: make(map[string]Reason)} }

// Set records that the named condition, such as "destination", fails with err,
// or that it holds again where err is nil. What looks like a secret is masked.
func (h *Health) Set(condition string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.wrong, condition)
		return
	}
	since := h.now().UTC()
	if old, ok := h.wrong[condition]; ok {
		since = old.Since
	}
	h.wrong[condition] = Reason{condition, MaskText(err.Error()), since}
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

// Report returns the state now, the reasons by condition.
func (h *Health) Report() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Report{Status: OK, Reasons: make([]Reason, 0, len(h.wrong))}
	for _, reason := range h.wrong {
		r.Reasons = append(r.Reasons, reason)
	}
	slices.SortFunc(r.Reasons, func(a, b Reason) int { return cmp.Compare(a.Condition, b.Condition) })
	switch {
	case h.stopping:
		r.Status = ShuttingDown
	case len(h.wrong) > 0:
		r.Status = Unhealthy
	case !h.ready:
		r.Status = Starting
	}
	return r
}
