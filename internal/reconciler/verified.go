package reconciler

import "time"

// Verification is a comparison that found rows of the destination equal to those of the source.
type Verification struct {
	Began  time.Time `json:"began"` // it says nothing about later warnings
	Tables []string  `json:"tables"`
	All    bool      `json:"all"` // all tables of the source are equal, with all rows
}

// Verified ends warnings from before the comparison that eds cannot rule out missing changes
// or rows. Warnings about single tables end within a minute.
func (r *Reconciler) Verified(v Verification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.verified == nil {
		r.verified = make(map[string]time.Time)
	}
	for _, table := range v.Tables {
		r.verified[table] = v.Began
	}
	if v.All && r.unverifiedAt.Before(v.Began) {
		r.Health.Warn("continuity", "")
	}
}

// verifiedSince reports whether a comparison that began after a time found a table equal.
func (r *Reconciler) verifiedSince(table string, t time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verified[table].After(t)
}

// setUnverified warns that eds cannot rule out missing changes, for a reason; "" ends the
// warning.
func (r *Reconciler) setUnverified(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unverifiedAt = time.Now()
	r.Health.Warn("continuity", reason)
}
