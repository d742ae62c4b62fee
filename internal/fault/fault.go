// Package fault sorts errors by what the program has to do about them.
package fault

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Class says what happens to the work that an error interrupted.
type Class uint8

const (
	// Transient work is tried again, in place, until it succeeds: the network,
	// a deadlock, throttling, a full disk, a server that restarts. It is the
	// class of every error that nobody has classified.
	Transient Class = iota
	// Poison is one event or row that can never be applied: it is set aside in
	// the dead-letter queue with its reason, and the rest goes on.
	Poison
	// Fatal needs a person: wrong credentials, a missing permission, bad
	// configuration. The program drains, reports, and stops.
	Fatal
	// Refused is access that the other side denies, or that this side cannot ask for:
	// credentials, certificates, a missing file of them. A person may have made a mistake,
	// or may be rotating a secret. Only a sink returns it to itself: sink.Access makes it
	// Fatal before the destination has worked, and Transient afterwards.
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

// Error carries a class, and possibly how long to wait, beside its cause.
type Error struct {
	Class      Class
	RetryAfter time.Duration // transient errors: the wait that the other side asked for, or 0; the function RetryAfter bounds it
	Err        error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Mark gives err the class c; nil stays nil. A class given further in is overruled.
func Mark(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Class: c, Err: err}
}

// Of returns the class of err: the outermost one given to it, else Transient.
func Of(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return Transient
}

// longestRetryAfter bounds how long another side may ask to be left alone.
const longestRetryAfter = 10 * time.Minute

// BoundRetryAfter limits a wait that another side asks for: 0 to 10 minutes.
func BoundRetryAfter(d time.Duration) time.Duration { return min(max(0, d), longestRetryAfter) }

// RetryAfter returns how long the other side asked to be left alone: 0 to 10
// minutes, whatever it asked for.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return BoundRetryAfter(e.RetryAfter)
	}
	return 0
}

// ParseRetryAfter reads the value of the HTTP header Retry-After, seconds or a
// date (RFC 9110 sections 10.2.3 and 5.6.7): 0 to 10 minutes, 0 if it is neither.
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

// Innermost returns the cause of an error, without what is wrapped around it.
func Innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
