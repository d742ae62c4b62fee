package sink

import (
	"net/url"
	"sync"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Access is how an open sink reaches its destination while secrets, certificates and keys
// are rotated. The sink reads them with Renew at each connection, and passes what comes of
// its calls to Judge, which decides whether a refusal is waited for. It is safe for
// concurrent use.
type Access struct {
	expand func() (*url.URL, error)
	report func(error)

	mu      sync.Mutex
	worked  bool
	refused bool
}

// NewAccess returns an Access. Expand returns the destination's URL with what its
// placeholders name now; nil: the sink keeps the URL that it was opened with. Worked says
// that the destination has worked before, in another process. Report, which may be nil, is
// called with each refusal of a destination that has worked, and with nil when the
// destination works for the first time or again. It must not call the Access.
func NewAccess(expand func() (*url.URL, error), worked bool, report func(error)) *Access {
	if report == nil {
		report = func(error) {}
	}
	return &Access{expand: expand, worked: worked, report: report}
}

// Renew parses the destination's URL, given when the sink was opened, with what its
// placeholders and the files of its options hold now. Errors are fault.Refused: the file
// may be about to be replaced.
func Renew[T any](a *Access, given *url.URL, parse func(*url.URL) (T, error)) (parsed T, err error) {
	if a != nil && a.expand != nil {
		if given, err = a.expand(); err != nil {
			return parsed, fault.Mark(fault.Refused, err)
		}
	}
	parsed, err = parse(given)
	return parsed, fault.Mark(fault.Refused, err)
}

// Reject returns err, for which the URL of a sink cannot be used, with its class: fatal, but
// if it is a file of secrets or certificates that cannot be used, as Judge decides.
func (a *Access) Reject(err error) error {
	if fault.Of(err) != fault.Refused {
		return fault.Mark(fault.Fatal, err)
	}
	return a.Judge(err)
}

// Judge returns err, the outcome of a call that reached for the destination, with the class
// that a caller acts on. A refusal is fatal until the destination has worked once, because
// someone has mistyped something, and transient afterwards: it is reported at once, and
// ends when the secret or certificate is right again.
func (a *Access) Judge(err error) error {
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
