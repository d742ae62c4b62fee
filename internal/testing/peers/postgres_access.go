package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Authenticate restarts the server with the given lines in its pg_hba.conf. The lines do not apply
// to the user postgres on the database postgres, which needs no password.
func (s *PostgresServer) Authenticate(t testing.TB, lines ...string) {
	t.Helper()
	lines = append([]string{"host postgres postgres 127.0.0.1/32 trust"}, lines...)
	s.write(t, "pg_hba.conf", []byte(strings.Join(lines, "\n")+"\n"))
	s.Stop(t)
	s.Start(t)
}

// EnableTLS restarts the server with a certificate for host, which a new authority has signed. It
// returns the path of the authority's certificate. Client certificates must come from the same
// authority.
func (s *PostgresServer) EnableTLS(t testing.TB, host string) (authority string) {
	t.Helper()
	ca := newAuthority(t)
	certificate, key := ca.issue(t, host)
	s.write(t, "server.crt", certificate)
	s.write(t, "server.key", key)
	s.write(t, "authority.crt", ca.pem)
	s.settings, s.authority = append(s.settings, "ssl=on", "ssl_ca_file=authority.crt"), ca
	s.Stop(t)
	s.Start(t)
	authority = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, ca.pem, 0o600); err != nil {
		t.Fatalf("write the authority: %v", err)
	}
	return authority
}

// ClientCertificate returns a client certificate for a user, and the private key of the
// certificate. Both are PEM. The server must have TLS enabled.
func (s *PostgresServer) ClientCertificate(t testing.TB, user string) (certificate, key []byte) {
	t.Helper()
	return s.authority.issue(t, user)
}

// write writes a file in the server's data directory. Only the server's account can read the file.
func (s *PostgresServer) write(t testing.TB, name string, text []byte) {
	t.Helper()
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatalf("configure the test server: %v", err)
	}
	if s.home.as != nil {
		if err := os.Chown(path, int(s.home.as.uid), int(s.home.as.gid)); err != nil {
			t.Fatalf("configure the test server: %v", err)
		}
	}
}

// Authority returns the certificate, as PEM, of a new authority that has signed no other
// certificate.
func Authority(t testing.TB) []byte {
	t.Helper()
	return newAuthority(t).pem
}

// authority signs certificates for tests.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	pem         []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "eds test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key: key, certificate: template, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate for a host or user, and the private key of the certificate. Both are
// PEM.
func (a *authority) issue(t testing.TB, host string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{
		Type:  "PRIVATE KEY",
		Bytes: encoded,
	})
}
