package sqlsink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
)

func TestServer_RefusesFailuresOfTLS(t *testing.T) {
	server := ServerAddress{Address: "db:5432", Authority: "give it with ca=FILE"}
	certificate := &x509.Certificate{DNSNames: []string{"other"}}
	for _, c := range []struct {
		err   error
		class fault.Class
		says  string
	}{
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{Cert: certificate}}, fault.Refused, "give it with ca=FILE"},
		{
			&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: certificate, Reason: x509.Expired}}, fault.Refused,
			"expired",
		},
		{
			&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: certificate, Host: "db"}}, fault.Refused,
			"for another name: it is for other",
		},
		{&tls.CertificateVerificationError{Err: errors.New("it is revoked")}, fault.Refused, "it is revoked"},
		{
			&net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")}, fault.Refused,
			"it may want a client's certificate, or another one: tls: expired certificate",
		},
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, fault.Transient, "connection refused"},
		{&net.DNSError{Err: "no such host", Name: "db"}, fault.Transient, "no such host"},
		{context.DeadlineExceeded, fault.Transient, "no answer in time"},
	} {
		got := server.ConnectError(fmt.Errorf("connect: %w", c.err))
		if got == nil || fault.Of(got) != c.class || !strings.Contains(got.Error(), c.says) || !strings.Contains(got.Error(), "db:5432") {
			t.Errorf("%v: %v: %v, want %v that says %q", c.err, fault.Of(got), got, c.class, c.says)
		}
	}
	if got := server.ConnectError(errors.New("anything else")); got != nil {
		t.Errorf("it has words for what it does not know: %v", got)
	}
}
