package reconciler

import "time"

// Verification says that rows of the destination were compared with those of the source,
// and are equal.
type Verification struct {
	Began  time.Time `json:"began"` // of the comparison: later doubts are not about it
	Tables []string  `json:"tables"`
	All    bool      `json:"all"` // all tables of the source, whole, are equal
}

// Verified ends warnings, of before the comparison began, that eds cannot rule out that
// the destination lacks changes or rows. Those about single tables end within a minute.
func (r *Reconciler) Verified(v Verification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.verified == nil {
		r.verified = make(map[string]time.Time)
	}
	for _, table := range v.Tables {
		r.verified[table] = v.Began
	}
	if v.All && r.doubted.Before(v.Began) {
		r.Health.Warn("continuity", "")
	}
}

// verifiedSince reports whether a table was found equal by a comparison that began after a
// time.
func (r *Reconciler) verifiedSince(table string, t time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verified[table].After(t)
}

// doubt warns that eds cannot rule out that changes are missing, for a reason; "" ends the
// warning.
func (r *Reconciler) doubt(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubted = time.Now()
	r.Health.Warn("continuity", reason)
}
