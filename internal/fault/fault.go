// Package fault classifies errors by how the program handles them.
package fault

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Class decides what happens to the work that an error interrupted.
type Class uint8

const (
	// Transient work is retried in place until it succeeds: the network, a deadlock, throttling, a
	// full disk, a restarting server. It is the class of every unclassified error.
	Transient Class = iota
	// Poison is one event or row that can never be applied: it goes to the dead-letter queue with
	// its reason, and the rest continues.
	Poison
	// Fatal needs the operator: wrong credentials, a missing permission, bad configuration. The
	// program drains, reports, and stops.
	Fatal
	// Refused is access that the other side denies, or that this side cannot request: credentials,
	// certificates, a missing file of them. The operator may have made a mistake, or may be
	// rotating a secret. Only a sink returns it to itself: sink.Access makes it Fatal before the
	// destination has worked, and Transient afterwards.
	Refused
)

func (c Class) String() string {
	switch c {
	case Poison:
		return "poison"
	case Fatal:
		return "fatal"
	case Refused:
		return "refused"
	default:
		return "transient"
	}
}

// Error adds a class, and possibly a wait, to its cause.
type Error struct {
	Class Class
	// RetryAfter is the wait that the other side asked for, or 0; of transient errors only. Read it
	// with the function RetryAfter, which bounds it.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Mark gives err the class c; nil stays nil. It overrides the classes of wrapped errors.
func Mark(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Class: c, Err: err}
}

// Of returns the class of err: the outermost Error's, else Transient.
func Of(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Transient
}

// longestRetryAfter bounds the waits that another side may ask for.
const longestRetryAfter = 10 * time.Minute

// BoundRetryAfter limits a wait to 0 to 10 minutes.
func BoundRetryAfter(d time.Duration) time.Duration { return min(max(0, d), longestRetryAfter) }

// RetryAfter returns the wait that the other side asked for, limited to 0 to 10 minutes.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return BoundRetryAfter(e.RetryAfter)
	}
	return 0
}

// ParseRetryAfter reads the HTTP header Retry-After, seconds or a date (RFC 9110 sections 10.2.3
// and 5.6.7): 0 to 10 minutes, 0 if it is neither.
func ParseRetryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if text != "" && strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseUint(text, 10, 64)
		if err != nil || seconds > uint64(longestRetryAfter/time.Second) {
			return longestRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	for _, layout := range []string{"Mon, 02 Jan 2006 15:04:05 GMT", time.RFC850, time.ANSIC} {
		if date, err := time.Parse(layout, text); err == nil {
			return BoundRetryAfter(date.Sub(now))
		}
	}
	return 0
}

// Innermost returns the innermost wrapped error.
func Innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
