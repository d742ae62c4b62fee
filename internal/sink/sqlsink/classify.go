package sqlsink

import (
	"errors"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// ConnectionError is an error that makes its session unusable.
type ConnectionError struct{ Err error }

func (e *ConnectionError) Error() string { return e.Err.Error() }
func (e *ConnectionError) Unwrap() error { return e.Err }

// ClassifyError classifies an error of a session. For an error of type E, which comes from the
// server, it calls the callback classify. An error that already has a class is eds's own refusal
// of a value. Any other error comes from the network, so the session is lost.
func ClassifyError[E error](err error, classify func(E) Verdict) Verdict {
	broken := errors.As(err, new(*ConnectionError))
	var server E
	if errors.As(err, &server) {
		v := classify(server)
		v.Lost = v.Lost || broken
		return v
	}
	return Verdict{Lost: broken || !errors.As(err, new(*fault.Error))}
}
