package mysql

import (
	"cmp"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	if err := sink.CheckOptions(target, options(), slices.Concat(otherOptions, ownOptions)...); err != nil {
		return nil, sqlsink.Options{}, err
	}
	query := target.Query()
	shared, err := sqlsink.ParseOptions(query)
	if err != nil {
		return nil, shared, err
	}
	d := &dialect{target: target, env: env.Complete()}
	if d.config, err = configOf(target, query); err != nil {
		return nil, shared, err
	}
	if d.timeout, err = sink.DurationOf(query, "timeout", 30*time.Second, time.Second, time.Hour); err != nil {
		return nil, shared, err
	}
	if d.timeouts, err = sqlsink.ParseTimeouts(query); err != nil {
		return nil, shared, err
	}
	shared.LockTimeout = d.timeouts.Lock
	infile, err := sink.ChoiceOf(query, "local_infile", "auto", "true", "false")
	if err != nil {
		return nil, shared, err
	}
	d.noInfile.Store(infile == "false")
	d.where = d.config.Addr
	return d, shared, nil
}

// configOf returns the connection's settings, but for what eds decides itself.
func configOf(target *url.URL, query url.Values) (*mysql.Config, error) {
	c := mysql.NewConfig()
	if extra := pick(query, otherOptions); len(extra) > 0 {
		var err error
		if c, err = mysql.ParseDSN("/?" + extra.Encode()); err != nil {
			return nil, sink.RefusedOption(extra, func(one url.Values) bool {
				_, err := mysql.ParseDSN("/?" + one.Encode())
				return err == nil
			})
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
	compress, err := sink.BoolOf(query, "compress", false)
	if err != nil {
		return nil, err
	}
	if err := c.Apply(mysql.EnableCompression(compress)); err != nil {
		return nil, err
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

// secure sets up TLS.
func secure(c *mysql.Config, query url.Values, host string) error {
	files, name := query.Get("tls-ca")+query.Get("tls-cert")+query.Get("tls-key"), query.Get("tls-server-name")
	modes := []string{"preferred", "true", "1", "false", "0", "disabled", "skip-verify", "required"}
	if query.Get("tls-ca") != "" || name != "" {
		modes[0], modes[1] = modes[1], modes[0]
	}
	mode, err := sink.ChoiceOf(query, "tls", modes...)
	if err != nil {
		return errors.New("option tls should be false, preferred, skip-verify or true")
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(name, host)}
	switch mode {
	case "false", "0", "disabled":
		if files != "" {
			return errors.New("the mysql url names certificates and has tls=false; leave one of them out")
		}
		return nil
	case "skip-verify", "required":
		settings.InsecureSkipVerify = true
	case "preferred":
		settings.InsecureSkipVerify = true
		c.AllowFallbackToPlaintext = true
	}
	c.TLS = settings
	return sink.Certificates(query, settings)
}
