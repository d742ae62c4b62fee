package mysql

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	if err := sink.CheckOptions(target, append(options(), sqlsink.URLOptions...), slices.Concat(otherOptions, ownOptions)...); err != nil {
		return nil, sqlsink.Options{}, err
	}
	query := target.Query()
	shared, err := sqlsink.ParseOptions(query)
	if err != nil {
		return nil, shared, err
	}
	d := &dialect{env: env.Complete()}
	if d.config, err = configOf(target, query); err != nil {
		return nil, shared, err
	}
	if d.timeout, err = durationOf(query, "timeout"); err != nil {
		return nil, shared, err
	}
	if d.lockTimeout, err = durationOf(query, "lock_timeout"); err != nil {
		return nil, shared, err
	}
	switch v := strings.ToLower(query.Get("local_infile")); v {
	case "", "auto", "true":
	case "false":
		d.noInfile.Store(true)
	default:
		return nil, shared, fmt.Errorf("option local_infile is %q; it should be auto or false", v)
	}
	d.where = d.config.Addr
	return d, shared, nil
}

// configOf returns the connection's settings, but for what eds decides itself.
func configOf(target *url.URL, query url.Values) (*mysql.Config, error) {
	c := mysql.NewConfig()
	if extra := pick(query, otherOptions); len(extra) > 0 {
		var err error
		if c, err = mysql.ParseDSN("/?" + extra.Encode()); err != nil {
			// The error's own text may quote the option.
			return nil, fmt.Errorf("read the options of the mysql url: one of %s has a value that can not be used", strings.Join(otherOptions, ", "))
		}
	}
	c.Net, c.Addr = "tcp", target.Host
	switch socket := query.Get("socket"); {
	case socket != "" && target.Host != "":
		return nil, errors.New("the mysql url names a host and a socket; write mysql://user@/database?socket=/path without the host")
	case socket != "":
		c.Net, c.Addr = "unix", socket
	case target.Hostname() == "":
		return nil, errors.New("the mysql url names no host; it should be like mysql://user:password@host:3306/database")
	case target.Port() == "":
		c.Addr = net.JoinHostPort(target.Hostname(), "3306")
	}
	if target.User != nil {
		c.User = target.User.Username()
		c.Passwd, _ = target.User.Password()
	}
	c.DBName = strings.TrimPrefix(target.Path, "/")
	if c.DBName == "" || strings.Contains(c.DBName, "/") {
		return nil, errors.New("the mysql url names no database; write it after the host: mysql://user@host:3306/database")
	}
	if v := query.Get("compress"); v != "" {
		compress, err := strconv.ParseBool(v)
		if err != nil {
			return nil, errors.New("option compress is neither true nor false")
		}
		if err := c.Apply(mysql.EnableCompression(compress)); err != nil {
			return nil, err
		}
	}
	c.Collation, c.Logger, c.ClientFoundRows = "utf8mb4_bin", new(mysql.NopLogger), true
	c.MaxAllowedPacket = 0 // ask the server
	return c, secure(c, query, target.Hostname())
}

func pick(query url.Values, names []string) url.Values {
	picked := make(url.Values)
	for _, name := range names {
		if query.Has(name) {
			picked.Set(name, query.Get(name))
		}
	}
	return picked
}

// durationOf reads a duration, 30 seconds where none is given.
func durationOf(query url.Values, name string) (time.Duration, error) {
	text := query.Get(name)
	if text == "" {
		return 30 * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > time.Hour {
		return 0, fmt.Errorf("option %s is %q; it should be a duration from 1s to 1h, like 30s", name, text)
	}
	return d, nil
}

// secure sets up TLS.
func secure(c *mysql.Config, query url.Values, host string) error {
	mode := strings.ToLower(query.Get("tls"))
	authority, certificate, key := query.Get("tls-ca"), query.Get("tls-cert"), query.Get("tls-key")
	name := query.Get("tls-server-name")
	if mode == "" {
		mode = "preferred"
		if authority != "" || name != "" {
			mode = "true"
		}
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if name != "" {
		settings.ServerName = name
	}
	switch mode {
	case "false", "0", "disabled":
		if authority != "" || certificate != "" || key != "" {
			return errors.New("the mysql url names certificates and has tls=false; leave one of them out")
		}
		return nil
	case "true", "1":
	case "skip-verify", "required":
		settings.InsecureSkipVerify = true
	case "preferred":
		settings.InsecureSkipVerify = true
		c.AllowFallbackToPlaintext = true
	default:
		return fmt.Errorf("option tls is %q; it should be false, preferred, skip-verify or true", mode)
	}
	c.TLS = settings
	if authority != "" {
		text, err := os.ReadFile(authority)
		if err != nil {
			return fmt.Errorf("read the trusted authorities: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("the file %s of option tls-ca holds no certificate in PEM form", authority)
		}
	}
	if (certificate == "") != (key == "") {
		return errors.New("the options tls-cert and tls-key need each other")
	}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return fmt.Errorf("read the client's certificate: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return nil
}
