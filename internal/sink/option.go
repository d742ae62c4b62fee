package sink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// The functions below read one option of a destination's URL. An option that is
// absent or empty has its default. Errors name the option and never quote its
// value: it may be a secret, in its place or out of it.

// ChoiceOf reads an option that has one of a few values, in any case. The first
// is its default.
func ChoiceOf(query url.Values, name string, values ...string) (string, error) {
	text := query.Get(name)
	if text == "" {
		return values[0], nil
	}
	for _, v := range values {
		if strings.EqualFold(text, v) {
			return v, nil
		}
	}
	last := len(values) - 1
	return "", fmt.Errorf("option %s should be %s or %s", name, strings.Join(values[:last], ", "), values[last])
}

// BoolOf reads an option that is true or false.
func BoolOf(query url.Values, name string, otherwise bool) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("option %s should be true or false", name)
	}
	return b, nil
}

// IntOf reads an option that is a number from least to most.
func IntOf(query url.Values, name string, otherwise, least, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("option %s should be a number from %d to %d", name, least, most)
	}
	return n, nil
}

// DurationOf reads an option that is a duration from least to most.
func DurationOf(query url.Values, name string, otherwise, least, most time.Duration) (time.Duration, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("option %s should be a duration like 500ms, 30s or 5m, from %v to %v", name, least, most)
	}
	return d, nil
}

// FileOf reads the file that an option names; nil if the option is absent. An error is
// fault.Refused: the file may be about to be replaced.
func FileOf(query url.Values, name string) ([]byte, error) {
	path := query.Get(name)
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Mark(fault.Refused, fmt.Errorf("read the file that option %s names: %w", name, WithoutPath(err)))
	}
	return text, nil
}

// WithoutPath returns the cause of an error of the file system, any other error as
// it is.
func WithoutPath(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Certificates adds the files of the options tls-ca, tls-cert and tls-key to
// config: the authorities to trust, and the client's certificate and key. If a file cannot
// be used the error is fault.Refused.
func Certificates(query url.Values, config *tls.Config) error {
	authorities, err := FileOf(query, "tls-ca")
	if err != nil {
		return err
	}
	if authorities != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return fault.Mark(fault.Refused, errors.New("the file that option tls-ca names holds no certificate in PEM"))
		}
	}
	if (query.Get("tls-cert") == "") != (query.Get("tls-key") == "") {
		return errors.New("options tls-cert and tls-key go together; one is missing")
	}
	certificate, err := FileOf(query, "tls-cert")
	if certificate == nil || err != nil {
		return err
	}
	key, err := FileOf(query, "tls-key")
	if err != nil {
		return err
	}
	// The error's own text may quote the files.
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return fault.Mark(fault.Refused, errors.New("the files that options tls-cert and tls-key name hold no certificate with its key, in PEM"))
	}
	config.Certificates = []tls.Certificate{pair}
	return nil
}

// RefusedOption is the error for options that a client library does not accept
// and whose own error may quote them. It names the first option that the library
// does not accept on its own either.
func RefusedOption(query url.Values, accepts func(url.Values) bool) error {
	names := slices.Sorted(maps.Keys(query))
	for _, name := range names {
		if !accepts(url.Values{name: query[name]}) {
			return fmt.Errorf("option %s has a value that cannot be used", name)
		}
	}
	return fmt.Errorf("options %s do not go together", strings.Join(names, ", "))
}
