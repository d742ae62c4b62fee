package mysql

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parse reads the settings from a destination URL. An error contains no secret of the URL.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return nil, sqlsink.Options{}, err
	}
	shared, err := sqlsink.ReadOptions(v)
	if err != nil {
		return nil, shared, err
	}
	d := &dialect{target: target, env: env.Complete(), timeout: v.Duration("timeout"), timeouts: sqlsink.ReadTimeouts(v)}
	if d.config, err = configOf(target, v); err != nil {
		return nil, shared, err
	}
	shared.LockTimeout = d.timeouts.Lock
	d.noInfile.Store(v.Text("local_infile") == "false")
	d.where = d.config.Addr
	return d, shared, nil
}

// configOf returns the connection settings for target.
func configOf(target *url.URL, v sink.Values) (*mysql.Config, error) {
	c := mysql.NewConfig()
	if extra := sink.PickOptions(target.Query(), passedOptions...); len(extra) > 0 {
		for name := range extra {
			extra.Set(name, extra.Get(name)) // the first value counts, as for other options
		}
		var err error
		if c, err = mysql.ParseDSN("/?" + extra.Encode()); err != nil {
			return nil, sink.RejectedOptions(extra, func(one url.Values) bool {
				_, err := mysql.ParseDSN("/?" + one.Encode())
				return err == nil
			})
		}
	}
	c.Net, c.Addr = "tcp", target.Host
	switch socket := v.Text("socket"); {
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
	if err := c.Apply(mysql.EnableCompression(v.Bool("compress"))); err != nil {
		return nil, err
	}
	c.Collation, c.Logger, c.ClientFoundRows = "utf8mb4_bin", new(mysql.NopLogger), true
	c.MaxAllowedPacket = 0 // ask the server
	return c, secure(c, v, target.Hostname())
}

// tlsModes are the values of the option tls. The synonyms are values that other drivers use.
var tlsModes = sink.Choice{
	Values:   []string{"false", "preferred", "skip-verify", "true"},
	Synonyms: map[string]string{"1": "true", "0": "false", "disabled": "false", "required": "skip-verify"},
}

// secure sets the TLS settings of c from the options v. The parameter host is the name that the
// server's certificate must have, unless the options give another name.
func secure(c *mysql.Config, v sink.Values, host string) error {
	mode := v.Text("tls")
	if mode == "" {
		mode = "preferred"
		if v.Given("tls-ca") || v.Given("tls-server-name") {
			mode = "true"
		}
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(v.Text("tls-server-name"), host)}
	switch mode {
	case "false":
		if v.Given("tls-ca") || v.Given("tls-cert") || v.Given("tls-key") {
			return errors.New("the mysql url names certificates and has tls=false; leave one of them out")
		}
		return nil
	case "skip-verify":
		settings.InsecureSkipVerify = true
	case "preferred":
		settings.InsecureSkipVerify = true
		c.AllowFallbackToPlaintext = true
	}
	c.TLS = settings
	return sink.Certificates(v, settings)
}
