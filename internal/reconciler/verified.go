package reconciler

import "time"

// Verification describes a successful comparison: the compared rows are the same in the destination
// and in the source.
type Verification struct {
	Began  time.Time `json:"began"` // start of the comparison; later warnings remain valid
	Tables []string  `json:"tables"`
	All    bool      `json:"all"` // whether all rows of all tables of the source are equal
}

// Verified ends the warning that eds cannot rule out missing changes or rows, if the warning is
// older than the comparison. Warnings about single tables end within a minute.
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

// verifiedSince reports whether a comparison that started after the time t has found no difference
// in the table.
func (r *Reconciler) verifiedSince(table string, t time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verified[table].After(t)
}

// setUnverified sets the health warning that eds cannot rule out missing changes, for the given
// reason. The reason "" ends the warning.
func (r *Reconciler) setUnverified(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unverifiedAt = time.Now()
	r.Health.Warn("continuity", reason)
}
