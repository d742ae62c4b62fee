package sqlsink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// ServerAddress is the address of a database server, with advice for errors of its connections.
type ServerAddress struct {
	Address   string // host and port, without secrets
	Authority string // advice for a certificate from an unknown authority
	Name      string // advice for a certificate with another host name; may be ""
}

// ConnectError describes an error of a connection that failed before the server sent an answer. A
// failure of TLS is fault.Refused. ConnectError returns nil if it does not recognize err.
func (s ServerAddress) ConnectError(err error) error {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		dns      *net.DNSError
		op       *net.OpError
	)
	refused := func(what string, err error) error {
		return fault.Mark(fault.Refused, fmt.Errorf("tls with %s: %s: %w", s.Address, what, err))
	}
	switch {
	case errors.As(err, &unknown):
		return refused("its certificate is signed by an authority that is not trusted; "+s.Authority, unknown)
	case errors.As(err, &hostname):
		what := "its certificate is for another name"
		if s.Name != "" {
			what += "; " + s.Name
		}
		// The text of err also quotes the expected name, which an option may have set.
		return refused(what, errors.New("it is for "+strings.Join(hostname.Certificate.DNSNames, ", ")))
	case errors.As(err, &invalid):
		return refused("its certificate is not valid", invalid)
	case errors.As(err, &verify):
		return fault.Mark(fault.Refused, fmt.Errorf("tls with %s: %w", s.Address, verify.Err))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("connect to %s: no answer in time: %w", s.Address, context.DeadlineExceeded)
	case errors.As(err, &dns):
		return fmt.Errorf("connect to %s: %w", s.Address, dns)
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return refused("the server refuses the connection; it may want a client's certificate, or another one", op.Err)
	case errors.As(err, &op):
		return fmt.Errorf("connect to %s: %w", s.Address, op)
	}
	return nil
}
