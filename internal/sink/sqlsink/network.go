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

// Server is where a database is, for messages about reaching it.
type Server struct {
	Where     string // host and port, without a secret
	Authority string // what to do about a certificate's authority that nobody knows here
	Name      string // what to do about a certificate for another name; may be ""
}

// Explain explains an error that came before the server said anything. A failure of TLS is
// fault.Refused. It returns nil if it has no words.
func (s Server) Explain(err error) error {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		dns      *net.DNSError
		op       *net.OpError
	)
	refused := func(what string, err error) error {
		return fault.Mark(fault.Refused, fmt.Errorf("tls with %s: %s: %w", s.Where, what, err))
	}
	switch {
	case errors.As(err, &unknown):
		return refused("its certificate is signed by an authority that is not trusted; "+s.Authority, unknown)
	case errors.As(err, &hostname):
		what := "its certificate is for another name"
		if s.Name != "" {
			what += "; " + s.Name
		}
		// The error's own text also quotes the name that an option may give.
		return refused(what, errors.New("it is for "+strings.Join(hostname.Certificate.DNSNames, ", ")))
	case errors.As(err, &invalid):
		return refused("its certificate is not valid", invalid)
	case errors.As(err, &verify):
		return fault.Mark(fault.Refused, fmt.Errorf("tls with %s: %w", s.Where, verify.Err))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("connect to %s: no answer in time: %w", s.Where, context.DeadlineExceeded)
	case errors.As(err, &dns):
		return fmt.Errorf("connect to %s: %w", s.Where, dns)
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return refused("the server refuses the connection; it may want a client's certificate, or another one", op.Err)
	case errors.As(err, &op):
		return fmt.Errorf("connect to %s: %w", s.Where, op)
	}
	return nil
}
