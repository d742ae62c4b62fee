// Package postgres writes to PostgreSQL, and to databases such as CockroachDB that share
// PostgreSQL's protocol and SQL dialect.
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

// Driver returns the driver for PostgreSQL.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "postgres", Title: "PostgreSQL",
		Schemes:   []string{"postgres", "postgresql"},
		Example:   "postgres://user:password@host:5432/database",
		Summary:   "Writes rows to tables of PostgreSQL, or of CockroachDB.",
		Help:      help(),
		Options:   options,
		Fields:    fields,
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Borrows: borrows, Identity: identity,
	}
}

// borrows names the part of target that makes eds send a secret of this machine to a server, or
// returns "" if target uses no such secret. If the URL has no password, the environment variables
// and the password file of libpq may supply one.
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
		return "" // Open refuses the URL as well
	}
	if d.config.Password != "" {
		return "a url without a password, which is then taken from PGPASSWORD or a password file,"
	}
	return ""
}

// identity returns a string that identifies the server, the database and the schema of target. As
// in libpq, the query options host, port and dbname override the URL's host and path.
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

// withPorts adds a port to each host of a comma-separated list. Host i gets ports[i], or the last
// port if the list has more hosts than ports. An empty port leaves the host unchanged.
func withPorts(list string, ports []string) string {
	hosts := strings.Split(list, ",")
	for i := range hosts {
		if port := ports[min(i, len(ports)-1)]; port != "" {
			hosts[i] = net.JoinHostPort(strings.Trim(hosts[i], "[]"), port)
		}
	}
	return strings.Join(hosts, ",")
}

var options = slices.Concat([]sink.Option{
	{
		Name: "schema", DefaultNote: "the first schema of the user's `search_path`", Harmless: true,
		Help: "schema of the tables; created with the first table if it does not exist",
	},
	{
		Name: "sslmode", Type: sink.OneOf("disable", "allow", "prefer", "require", "verify-ca", "verify-full"), DefaultNote: "`prefer`",
		Help: "`disable`, `allow`, `prefer`, `require`, `verify-ca` or `verify-full`, as libpq defines them",
	},
	{Name: "sslrootcert", Type: sink.FilePath{}, Harmless: true, Help: "file with the certificates of trusted authorities"},
	{Name: "sslcert", Type: sink.FilePath{}, Harmless: true, Help: "file with the client's certificate"},
	{Name: "sslkey", Type: sink.FilePath{}, Help: "file with the client's key"},
	{Name: "sslpassword", Type: sink.SecretText{}, Help: "password of the client's key"},
	{Name: "connect_timeout", Type: sink.Int{Max: 86_400}, Default: "30", Help: "seconds to wait for a connection"},
	{Name: "application_name", Default: "eds", Harmless: true, Help: "session name that the server shows"},
}, sqlsink.TimeoutOptions, sqlsink.RowOptions, libpqOptions)

// libpqOptions are the other libpq options that pgconn reads. The options that are marked as
// harmless are part of the destination's identity.
var libpqOptions = append(sink.Unlisted(
	"sslcertmode", "sslnegotiation", "sslsni", "channel_binding", "require_auth", "target_session_attrs", "passfile",
	"krbspn", "krbsrvname", "min_protocol_version", "max_protocol_version", "password",
),
	sink.Option{Name: "service", Unlisted: true, Harmless: true},
	sink.Option{Name: "servicefile", Unlisted: true, Harmless: true},
	sink.Option{Name: "options", Unlisted: true, Harmless: true},
	sink.Option{Name: "search_path", Unlisted: true, Harmless: true},
	sink.Option{Name: "host", Unlisted: true, Harmless: true},
	sink.Option{Name: "port", Unlisted: true, Harmless: true},
	sink.Option{Name: "user", Unlisted: true, Harmless: true},
	sink.Option{Name: "dbname", Unlisted: true, Harmless: true},
)

var fields = []sink.Field{
	{Name: "Database", Type: "string", Description: "name of the database", Required: true},
	{Name: "Username", Type: "string", Description: "user that owns the tables", Required: true},
	{Name: "Password", Type: "string", Format: "password", Description: "password of the user"},
	{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of the server", Required: true},
	{Name: "Port", Type: "number", Default: "5432", Description: "port of the server"},
}

func help() string {
	var b strings.Builder
	b.WriteString(`The user needs to own the tables, or the permission to create them:

    CREATE USER eds PASSWORD '...';
    CREATE DATABASE shop OWNER eds;

or, in an existing database,

    GRANT CONNECT, TEMPORARY ON DATABASE shop TO eds;
    CREATE SCHEMA shop AUTHORIZATION eds;     -- and schema=shop in the url

eds creates tables with the primary key of the source. Existing tables keep their
types; eds adds columns, and widens a column if its type no longer holds the
source's. Each batch is one transaction with its checkpoint: every change takes
effect exactly once. Names longer than 63 bytes are cut, and end in a hash.

A change with a value that a column cannot hold is dead-lettered. These values are
adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// buildURL builds a destination URL from the fields of HQ's form, or returns the errors of the
// invalid fields.
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

// open opens the destination at target.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	d, shared, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	return sqlsink.Open(ctx, d, shared, env)
}

// parse reads the settings from a destination URL. An error contains no secret of the URL.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return nil, sqlsink.Options{}, err
	}
	if target.Fragment != "" {
		return nil, sqlsink.Options{}, errors.New("the postgres url has a fragment; write # as %23")
	}
	shared, err := sqlsink.ReadOptions(v)
	if err != nil {
		return nil, shared, err
	}
	timeouts := sqlsink.ReadTimeouts(v)
	shared.LockTimeout = timeouts.Lock
	for _, name := range []string{"sslrootcert", "sslcert", "sslkey"} {
		if name == "sslrootcert" && v.Text(name) == "system" {
			continue // not a file: the system's authorities
		}
		if _, err := v.File(name); err != nil {
			return nil, shared, err
		}
	}
	config, err := configOf(target, v)
	if err != nil {
		return nil, shared, err
	}
	return &dialect{target: target, config: config, schema: v.Text("schema"), timeouts: timeouts, env: env}, shared, nil
}

// configOf returns the connection settings for target. It removes the options that pgconn does not
// know, and adds defaults from v.
func configOf(target *url.URL, v sink.Values) (*pgconn.Config, error) {
	query := target.Query()
	query.Del("schema")
	for _, o := range slices.Concat(sqlsink.TimeoutOptions, sqlsink.RowOptions) {
		query.Del(o.Name)
	}
	for _, name := range []string{"connect_timeout", "application_name"} {
		if !query.Has(name) {
			query.Set(name, v.Text(name))
		}
	}
	plain := *target
	plain.Scheme, plain.RawQuery = "postgres", query.Encode()
	config, err := pgconn.ParseConfig(plain.String())
	if err != nil {
		return nil, sink.RejectedOptions(query, func(one url.Values) bool {
			plain.RawQuery = one.Encode()
			_, err := pgconn.ParseConfig(plain.String())
			return err == nil
		})
	}
	if config.Database == "" {
		return nil, errors.New("the postgres url names no database; write it after the host: postgres://user@host:5432/database")
	}
	for name, value := range map[string]string{"client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO"} {
		config.RuntimeParams[name] = value
	}
	return config, nil
}
