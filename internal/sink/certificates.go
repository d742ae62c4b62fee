package sink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Certificates loads the files named by the options tls-ca, tls-cert and tls-key, and adds them to
// config as the trusted authorities and the client's certificate and key. It ignores options that v
// does not declare. If a file cannot be used, the error is fault.Refused.
func Certificates(v Values, config *tls.Config) error {
	authorities, err := v.File("tls-ca")
	if err != nil {
		return err
	}
	if authorities != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return fault.Mark(fault.Refused, errors.New("the file that option tls-ca names holds no certificate in PEM"))
		}
	}
	if v.declared["tls-cert"] == nil {
		return nil
	}
	if v.Given("tls-cert") != v.Given("tls-key") {
		return errors.New("options tls-cert and tls-key go together; one is missing")
	}
	certificate, err := v.File("tls-cert")
	if certificate == nil || err != nil {
		return err
	}
	key, err := v.File("tls-key")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil { // the text of err may quote the files
		return fault.Mark(fault.Refused, errors.New("the files that options tls-cert and tls-key name "+
			"hold no certificate with its key, in PEM"))
	}
	config.Certificates = []tls.Certificate{pair}
	return nil
}

// WithoutPath returns the cause of a file system error, without the operation and path. It
// returns any other error unchanged.
func WithoutPath(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}
