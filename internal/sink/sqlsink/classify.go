package sqlsink

import (
	"errors"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// ConnectionError is an error that makes its session unusable.
type ConnectionError struct{ Err error }

func (e *ConnectionError) Error() string { return e.Err.Error() }
func (e *ConnectionError) Unwrap() error { return e.Err }

// ClassifyError classifies an error of a session. If the server returned the error, which then
// has type E, the function classify decides. Otherwise the network caused the error, and the
// session is lost. The exception is an error that already has a class, because eds itself refused
// a value.
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
