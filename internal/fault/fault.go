// Package fault classifies errors by how the program handles them.
package fault

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Class is the way in which the program handles an error.
type Class uint8

const (
	// Transient errors are retried in place until the work succeeds. Examples are network errors,
	// deadlocks, throttling, full disks and restarting servers. Every unclassified error is
	// Transient.
	Transient Class = iota
	// Poison means that one event or row can never be applied. The event or row goes to the
	// dead-letter queue with the reason, and all other work continues.
	Poison
	// Fatal errors require an action of the operator. Examples are wrong credentials, missing
	// permissions and a bad configuration. The program drains, reports the error, and stops.
	Fatal
	// Refused means that the other side denies access, or that this side cannot request access,
	// for example because a certificate or its file is missing. Either the operator has made a
	// mistake, or a secret is being rotated. Only sinks return Refused errors, and only
	// internally: sink.Access makes an error Fatal if the destination has never worked before, and
	// Transient otherwise.
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

// Error adds a class to the error Err, and optionally a wait before the next attempt.
type Error struct {
	Class Class
	// RetryAfter is the wait that the other side asked for, or 0 for none. Only transient errors
	// have a wait. Read the wait with the function RetryAfter, which limits it.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Mark returns err with the class c, which overrides the classes of wrapped errors. If err is nil,
// Mark returns nil.
func Mark(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Class: c, Err: err}
}

// Of returns the class of err, which is the class of the outermost Error that it wraps. If it
// wraps none, the class is Transient.
func Of(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Transient
}

// longestRetryAfter is the maximum wait that the other side may ask for.
const longestRetryAfter = 10 * time.Minute

// BoundRetryAfter limits a wait to the range from 0 to 10 minutes.
func BoundRetryAfter(d time.Duration) time.Duration { return min(max(0, d), longestRetryAfter) }

// RetryAfter returns the wait that the other side asked for, limited to the range from 0 to 10
// minutes. It returns 0 if the other side asked for none.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return BoundRetryAfter(e.RetryAfter)
	}
	return 0
}

// ParseRetryAfter parses an HTTP header Retry-After, which contains seconds or a date (RFC 9110
// sections 10.2.3 and 5.6.7). The result is limited to the range from 0 to 10 minutes. If text is
// malformed, the result is 0.
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

// Innermost returns the innermost error that err wraps, or err itself if it wraps none.
func Innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
