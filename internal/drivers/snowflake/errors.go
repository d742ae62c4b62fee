package snowflake

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	sf "github.com/snowflakedb/gosnowflake"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// serverError is an error that has a number from the server or from Snowflake's driver. The text of
// the error contains no value of a row, because Error leaves out messages that may quote a value.
type serverError struct {
	number  int
	state   string // SQLSTATE
	message string
	query   string // the statement's id in the query history
	what    string // the operation that failed
}

func (e *serverError) Error() string {
	text := e.message
	if !e.quotable() {
		text = "the server refused a value"
		if name, ok := conditions[e.number]; ok {
			text += ": " + name
		}
	}
	if e.what != "" {
		text = e.what + ": " + text
	}
	if e.query != "" {
		text += " (query " + e.query + ")"
	}
	return fmt.Sprintf("%s (error %06d, SQLSTATE %s)", text, e.number, e.state)
}

// quotable reports whether the message is free of values. Messages of the SQL compiler and the
// service contain only names of objects, but messages of execution errors quote values.
func (e *serverError) quotable() bool {
	switch {
	case e.number >= 100000 && e.number < 110000: // execution errors
		return false
	case len(e.state) >= 2:
		switch e.state[:2] {
		case "22", "23", "P0":
			return false
		}
	}
	return true
}

// denied reports whether an object does not exist or the role lacks a privilege on the
// object. Snowflake does not distinguish the two cases.
func (e *serverError) denied() bool {
	return e.number == numberDenied || e.number == numberMissing || e.number == numberAbsent || e.state == "42501"
}

// Error numbers with special handling.
const (
	numberInvalid     = 904  // invalid identifier
	numberMissing     = 2003 // object does not exist or not authorized
	numberAbsent      = 2043 // object does not exist, or operation cannot be performed
	numberDenied      = 3001 // insufficient privileges
	numberNoWarehouse = 606  // no active warehouse selected
	numberSuspended   = 608  // warehouse cannot be resumed
)

// conditions describes the execution errors that a row can cause, by number.
var conditions = map[int]string{
	100035: "it is not a timestamp", 100037: "it is not a boolean", 100038: "it is not a number",
	100039: "the number is out of range", 100040: "it is not a date", 100046: "the number is out of range",
	100051: "division by zero", 100069: "it is not JSON", 100071: "it cannot be cast",
	100072: "NULL in a column that takes none", 100078: "it is too long", 100082: "it is too large",
	100090: "two rows of the same key", 100132: "JavaScript failed", 100145: "it is too large",
}

// sessionError converts an error of Snowflake's driver. An error with a number becomes a
// *serverError. If the error has no number or the call timed out, the state of the session is
// unknown: sessionError marks the session as broken and returns a *sqlsink.ConnectionError.
func (s *sqlSession) sessionError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		s.broken = true
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, context.Cause(ctx))}
	}
	e := new(sf.SnowflakeError)
	if !errors.As(err, &e) {
		s.broken = true
		if r := s.transport.lastRefusal(); r.status != 0 {
			return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, &r)}
		}
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, network(err))}
	}
	return &serverError{number: e.Number, state: e.SQLState, message: message(e), query: e.QueryID, what: what}
}

// message returns the message of e with its arguments inserted.
func message(e *sf.SnowflakeError) string {
	if len(e.MessageArgs) > 0 {
		return fmt.Sprintf(e.Message, e.MessageArgs...)
	}
	return e.Message
}

// network returns the cause of a network error. It leaves out the URL of the request, which
// contains session ids and signatures.
func network(err error) error {
	var (
		dns     *net.DNSError
		op      *net.OpError
		unknown x509.UnknownAuthorityError
		verify  *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &op):
		return op
	case errors.As(err, &unknown):
		return unknown
	case errors.As(err, &verify):
		return verify.Err
	}
	return fmt.Errorf("the connection broke (%T)", fault.Innermost(err))
}

// explainConnect describes why a login failed and how to fix the failure. The error contains no
// secret of the URL.
func (a *account) explainConnect(err error) error {
	where := net.JoinHostPort(a.host, fmt.Sprint(a.port))
	e := new(sf.SnowflakeError)
	if refused := new(httpRefusal); errors.As(err, &refused) {
		return &sqlsink.ConnectionError{Err: fmt.Errorf("connect to %s: %w", where, refused)}
	}
	if !errors.As(err, &e) {
		return &sqlsink.ConnectionError{Err: explainNetwork(where, err)}
	}
	what := ""
	switch e.Number {
	case 390100, 390101, 390126:
		what = fmt.Sprintf("%s refuses the user name %q or its password", where, a.user)
	case 390144, 394300, 394302, 394303, 394304:
		what = fmt.Sprintf("%s refuses the key of user %q: check that the user has its public half (DESC USER), "+
			"that the account in the url is right, and that this machine's clock is", where, a.user)
	case 390102:
		what = fmt.Sprintf("%s has locked user %q for a while after too many wrong passwords", where, a.user)
	case 390103, 390104:
		what = fmt.Sprintf("%s has disabled user %q", where, a.user)
	case 390189:
		what = fmt.Sprintf("role %s does not exist, or user %q does not have it; run: GRANT ROLE %s TO USER %s",
			quote(a.role), a.user, quote(a.role), quote(a.user))
	case 390303, 390318, 394400, 394401, 394402:
		what = fmt.Sprintf("%s refuses the token of user %q: it is wrong, expired, or not allowed for the role", where, a.user)
	case 390422, 390420:
		what = fmt.Sprintf("a network policy of %s does not let this machine's address in", where)
	case 390201:
		what = "the database, schema or warehouse of the url does not exist, or the role may not use it"
	case sf.ErrCodeFailedToConnect, sf.ErrCodeServiceUnavailable:
		return &sqlsink.ConnectionError{Err: fmt.Errorf("connect to %s: there is no such account, or the service is not available", where)}
	default:
		what = "log in to " + where
	}
	return &sqlsink.ConnectionError{Err: &serverError{number: e.Number, state: e.SQLState, message: message(e), what: what}}
}

// explainNetwork describes the failure of a connection if the server sent no error message. It
// marks a failure of TLS as refused.
func explainNetwork(where string, err error) error {
	server := sqlsink.ServerAddress{
		Address: where, Authority: "there may be a proxy in between: add its certificate to those of this machine",
		Name: "write account identifiers with - instead of _",
	}
	if explained := server.ConnectError(err); explained != nil {
		return explained
	}
	return fmt.Errorf("connect to %s: %w", where, network(err))
}
