package schema

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// DeniedError means that HQ has answered, but has no usable schema of the version. The error is
// poison, because events of the version cannot be decoded.
type DeniedError struct {
	Table, Version string
	Since          time.Time // time of the first denial; the zero time if HQ was not asked
	Next           time.Time // HQ is not asked again before this time
	Err            error     // the reason
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("hq denies version %.80q of table %.80q: %v", e.Version, e.Table, e.Err)
}

func (e *DeniedError) Unwrap() error { return e.Err }

// NotFound returns true, because callers treat a denied version as one that does not exist.
func (e *DeniedError) NotFound() bool { return true }

const (
	// HQ is asked about a denied version again after a wait. The wait is about half of the time
	// that has passed since the first denial. The wait is limited to these bounds, and then
	// jittered.
	shortestDenial = 250 * time.Millisecond
	longestDenial  = 10 * time.Minute
	// maxDenials is the maximum number of remembered denials.
	maxDenials = 1000
	// maxName is the maximum length in bytes of a table name, or of a version, in a request to HQ.
	maxName = 256
)

var errLongName = errors.New("the name is longer than any that hq uses")

// denials remembers the versions that HQ has denied. When it is full, it forgets the denial that
// was used least recently. It is not safe for concurrent use.
type denials struct {
	known map[versionKey]*denial
}

type denial struct {
	err  DeniedError
	used time.Time
}

// of returns the denial of a version, or nil if HQ may be asked about the version.
func (d *denials) of(key versionKey, now time.Time) error {
	if len(key.table) > maxName || len(key.version) > maxName {
		return fault.Mark(fault.Poison, &DeniedError{Table: key.table, Version: key.version, Err: errLongName})
	}
	known := d.known[key]
	if known == nil {
		return nil
	}
	known.used = now
	if !now.Before(known.err.Next) {
		return nil
	}
	e := known.err
	return fault.Mark(fault.Poison, &e)
}

// add records that HQ has just denied a version, and returns the denial as an error.
func (d *denials) add(key versionKey, cause error, now time.Time) error {
	known := d.known[key]
	if known == nil {
		d.forgetOne()
		known = &denial{err: DeniedError{Table: key.table, Version: key.version, Since: now}}
		d.known[key] = known
	}
	wait := min(max(now.Sub(known.err.Since)/2, shortestDenial), longestDenial)
	known.used = now
	known.err.Next = now.Add(wait/2 + rand.N(wait/2+1))
	known.err.Err = cause
	e := known.err
	return fault.Mark(fault.Poison, &e)
}

// forgetOne drops the denial that was used least recently, unless there is space for another
// denial.
func (d *denials) forgetOne() {
	if len(d.known) < maxDenials {
		return
	}
	var oldest versionKey
	var used time.Time
	for key, known := range d.known {
		if used.IsZero() || known.used.Before(used) {
			oldest, used = key, known.used
		}
	}
	delete(d.known, oldest)
}
