// Package postgres writes to PostgreSQL and to databases that speak its protocol
// and dialect, such as CockroachDB.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver describes PostgreSQL.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "postgres", Title: "PostgreSQL",
		Schemes:   []string{"postgres", "postgresql"},
		Example:   "postgres://user:password@host:5432/database",
		Summary:   "Writes rows to tables of PostgreSQL, or of CockroachDB.",
		Help:      help(),
		Options:   options(),
		Fields:    fields,
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Borrows: borrows, Identity: identity,
	}
}

// borrows finds what a server is sent of this machine. Without a password in the URL,
// libpq's variables and password file may have one.
func borrows(target *url.URL) string {
	if option := sink.FirstOption(target, "passfile", "service", "servicefile"); option != "" {
		return option
	}
	password, _ := target.User.Password()
	if password != "" || target.Query().Get("password") != "" {
		return ""
	}
	d, _, err := parse(target, sink.Env{})
	if err != nil {
		return "" // it is not opened either
	}
	if d.config.Password != "" {
		return "a url without a password, which is then taken from PGPASSWORD or a password file,"
	}
	return ""
}

// identity returns the server, the database and the schema. As libpq has it, options
// stand for what is before them.
func identity(target *url.URL) string {
	query := target.Query()
	hosts, database := target.Host, target.Path
	if list, ports := query.Get("host"), strings.Split(query.Get("port"), ","); list != "" || ports[0] != "" {
		hosts = withPorts(cmp.Or(list, target.Hostname()), ports)
	}
	if name := query.Get("dbname"); name != "" {
		database = name
	}
	named := []string{"schema", "service", "servicefile"}
	if query.Get("schema") == "" {
		named = append(named, "search_path", "options")
	}
	return sink.JoinIdentity("postgres", sink.HostsIdentity(hosts, "5432"), database, sink.PickOptions(query, named...))
}

// withPorts adds to each host of a list its port, or the only one.
func withPorts(list string, ports []string) string {
	hosts := strings.Split(list, ",")
	for i := range hosts {
		if port := ports[min(i, len(ports)-1)]; port != "" {
			hosts[i] = net.JoinHostPort(strings.Trim(hosts[i], "[]"), port)
		}
	}
	return strings.Join(hosts, ",")
}

func options() []sink.Option {
	own := []sink.Option{
		{Name: "schema", Description: "schema of the tables, made where it does not exist; default is the first one of the user's search_path"},
		{Name: "sslmode", Default: "prefer", Description: "disable, allow, prefer, require, verify-ca or verify-full, as libpq has them"},
		{Name: "sslrootcert", Description: "file with the certificates of trusted authorities"},
		{Name: "sslcert", Description: "file with the client's certificate"},
		{Name: "sslkey", Description: "file with the client's key"},
		{Name: "sslpassword", Description: "password of the client's key"},
		{Name: "connect_timeout", Default: "30", Description: "seconds to wait for a connection"},
		{Name: "application_name", Default: "eds", Description: "how the server shows the session"},
	}
	return slices.Concat(own, sqlsink.TimeoutOptions, sqlsink.URLOptions)
}

// otherOptions are understood as libpq does, and not listed in the help.
var otherOptions = []string{
	"sslcertmode", "sslnegotiation", "sslsni", "channel_binding", "require_auth", "target_session_attrs", "passfile", "service", "servicefile",
	"krbspn", "krbsrvname", "min_protocol_version", "max_protocol_version", "options", "search_path", "host", "port", "user", "password", "dbname",
}

var fields = []sink.Field{
	{Name: "Database", Type: "string", Description: "name of the database", Required: true},
	{Name: "Username", Type: "string", Description: "user that owns the tables", Required: true},
	{Name: "Password", Type: "string", Format: "password", Description: "password of the user"},
	{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of the server", Required: true},
	{Name: "Port", Type: "number", Default: "5432", Description: "port of the server"},
}

func help() string {
	var b strings.Builder
	b.WriteString(`The user needs to own the tables, or to be allowed to create them:

    CREATE USER eds PASSWORD '...';
    CREATE DATABASE shop OWNER eds;

or, in a database that exists,

    GRANT CONNECT, TEMPORARY ON DATABASE shop TO eds;
    CREATE SCHEMA shop AUTHORIZATION eds;     -- and schema=shop in the url

Tables are created with the primary key of the source. Tables that exist keep
their types; columns are added, and widened where a type no longer holds the
source's. Each batch is one transaction with its checkpoint: every change takes
effect exactly once. Names longer than 63 bytes are cut, and end in a hash.

Values that a column can not hold are set aside in the dead-letter queue. These
are adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// buildURL builds a URL from the fields of HQ's form.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	f := sink.NewForm(fields, values)
	u := url.URL{Scheme: "postgres", Host: f.HostPort("5432"), Path: "/" + f.Get("Database"), User: url.User(f.Get("Username"))}
	if f.Wrong != nil {
		return "", f.Wrong
	}
	if password := values["Password"]; password != "" {
		u.User = url.UserPassword(f.Get("Username"), password)
	}
	return u.String(), nil
}

// open connects to the destination.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	d, shared, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	return sqlsink.Open(ctx, d, shared, env)
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	if err := sink.CheckOptions(target, options(), otherOptions...); err != nil {
		return nil, sqlsink.Options{}, err
	}
	if target.Fragment != "" {
		return nil, sqlsink.Options{}, errors.New("the postgres url has a fragment; write # as %23")
	}
	query := target.Query()
	shared, err := sqlsink.ParseOptions(query)
	if err != nil {
		return nil, shared, err
	}
	timeouts, err := sqlsink.ParseTimeouts(query)
	if err != nil {
		return nil, shared, err
	}
	shared.LockTimeout = timeouts.Lock
	namespace := query.Get("schema")
	query.Del("schema")
	for _, o := range slices.Concat(sqlsink.TimeoutOptions, sqlsink.URLOptions) {
		query.Del(o.Name)
	}
	for name, value := range map[string]string{"connect_timeout": "30", "application_name": "eds"} {
		if !query.Has(name) {
			query.Set(name, value)
		}
	}
	plain := *target
	plain.Scheme, plain.RawQuery = "postgres", query.Encode()
	if _, err := sink.ChoiceOf(query, "sslmode", "prefer", "disable", "allow", "require", "verify-ca", "verify-full"); err != nil {
		return nil, shared, err
	}
	if _, err := sink.IntOf(query, "connect_timeout", 0, 0, 86_400); err != nil {
		return nil, shared, err
	}
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if name == "sslrootcert" && query.Get(name) == "system" {
			continue // the system's authorities
		}
		if _, err := sink.FileOf(query, name); err != nil {
			return nil, shared, err
		}
	}
	config, err := pgconn.ParseConfig(plain.String())
	if err != nil {
		return nil, shared, sink.RefusedOption(query, func(one url.Values) bool {
			plain.RawQuery = one.Encode()
			_, err := pgconn.ParseConfig(plain.String())
			return err == nil
		})
	}
	if config.Database == "" {
		return nil, shared, errors.New("the postgres url names no database; write it after the host: postgres://user@host:5432/database")
	}
	for name, value := range map[string]string{"client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO"} {
		config.RuntimeParams[name] = value
	}
	return &dialect{target: target, config: config, schema: namespace, timeouts: timeouts, env: env}, shared, nil
}
