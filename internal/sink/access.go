package sink

import (
	"net/url"
	"sync"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Access lets an open sink reach its destination while secrets, certificates and keys are rotated.
// For each new connection, the sink calls Renew to read the current values. After each call to the
// destination, the sink passes the result to Outcome, which decides whether eds waits and retries
// after a refusal. Access is safe for concurrent use.
type Access struct {
	expand func() (*url.URL, error)
	report func(error)

	mu      sync.Mutex
	worked  bool
	refused bool
}

// NewAccess returns an Access. The function expand returns the destination's URL with the current
// values of its placeholders; if expand is nil, the sink keeps the URL that it was opened with. The
// parameter worked says whether the destination has already worked before, in another process. The
// function report, which may be nil, is called with each refusal from a destination that has
// worked. It is called with nil when the destination works for the first time, or works again after
// a refusal. The function report must not call methods of the Access.
func NewAccess(expand func() (*url.URL, error), worked bool, report func(error)) *Access {
	if report == nil {
		report = func(error) {}
	}
	return &Access{expand: expand, worked: worked, report: report}
}

// Renew parses the destination's URL with the current values of its placeholders and files. If a is
// nil or has no function to expand the URL, Renew parses the parameter given, which is the URL that
// the sink was opened with. Errors are fault.Refused, because a file may be about to be replaced.
func Renew[T any](a *Access, given *url.URL, parse func(*url.URL) (T, error)) (parsed T, err error) {
	if a != nil && a.expand != nil {
		if given, err = a.expand(); err != nil {
			return parsed, fault.Mark(fault.Refused, err)
		}
	}
	parsed, err = parse(given)
	return parsed, fault.Mark(fault.Refused, err)
}

// Reject classifies err, an error about the URL of a sink, and returns it. If err is
// fault.Refused, because a file of secrets or certificates is unusable, Outcome decides the class.
// Any other err becomes fatal.
func (a *Access) Reject(err error) error {
	if fault.Of(err) != fault.Refused {
		return fault.Mark(fault.Fatal, err)
	}
	return a.Outcome(err)
}

// Outcome classifies err, the result of a call to the destination, and returns it. Until the
// destination has worked for the first time, a refusal is fatal, because the configuration must be
// wrong. Afterwards a refusal is transient: Outcome reports it immediately, and the caller retries
// until the secret or certificate is valid again.
func (a *Access) Outcome(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		if !a.worked || a.refused {
			a.worked, a.refused = true, false
			a.report(nil)
		}
		return nil
	case fault.Of(err) != fault.Refused:
		return err
	case !a.worked:
		return fault.Mark(fault.Fatal, err)
	}
	a.refused = true
	a.report(err)
	return &fault.Error{Class: fault.Transient, RetryAfter: fault.RetryAfter(err), Err: err}
}
