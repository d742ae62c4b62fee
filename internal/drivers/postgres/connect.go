package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// explainConnect says what went wrong with a connection in words that help, and
// without any of the URL's secrets.
func (d *dialect) explainConnect(err error) error {
	where := net.JoinHostPort(d.config.Host, fmt.Sprint(d.config.Port))
	e := &pgconn.PgError{}
	if !errors.As(err, &e) {
		return &connectionError{explainNetwork(where, err)}
	}
	what := "connect to " + where
	switch {
	case e.Code == "28P01":
		what = fmt.Sprintf("%s refuses the password of user %q", where, d.config.User)
	case strings.HasPrefix(e.Code, "28"):
		what = fmt.Sprintf("%s does not let user %q in", where, d.config.User)
	case e.Code == "3D000":
		what = fmt.Sprintf("%s has no such database; run: CREATE DATABASE %s", where, quote(d.config.Database))
	case e.Code == "42501":
		what = fmt.Sprintf("user %q may not connect; run: GRANT CONNECT ON DATABASE %s TO %s", d.config.User, quote(d.config.Database), quote(d.config.User))
	}
	return &connectionError{&serverError{code: e.Code, severity: e.SeverityUnlocalized, message: e.Message, what: what}}
}

// explainNetwork explains an error that came before the server said anything.
// What only the URL can put right is fatal.
func explainNetwork(where string, err error) error {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		alert    tls.AlertError
		dns      *net.DNSError
		op       *net.OpError
	)
	switch {
	case errors.As(err, &unknown):
		return fault.Mark(fault.Fatal, fmt.Errorf("tls with %s: its certificate is signed by an authority that is not trusted; give it with sslrootcert=FILE: %w", where, unknown))
	case errors.As(err, &hostname):
		return fault.Mark(fault.Fatal, fmt.Errorf("tls with %s: its certificate is for another name: %w", where, hostname))
	case errors.As(err, &invalid):
		return fault.Mark(fault.Fatal, fmt.Errorf("tls with %s: its certificate is not valid: %w", where, invalid))
	case errors.As(err, &verify):
		return fault.Mark(fault.Fatal, fmt.Errorf("tls with %s: %w", where, verify.Err))
	case errors.As(err, &alert):
		return fault.Mark(fault.Fatal, fmt.Errorf("tls with %s: the server refused: %w", where, alert))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("connect to %s: no answer in time: %w", where, context.DeadlineExceeded)
	case errors.As(err, &dns):
		return fmt.Errorf("connect to %s: %w", where, dns)
	case errors.As(err, &op):
		return fmt.Errorf("connect to %s: %w", where, op)
	}
	if inner := new(pgconn.ConnectError); errors.As(err, &inner) {
		err = inner.Unwrap()
	}
	return fmt.Errorf("connect to %s: %w", where, err)
}
