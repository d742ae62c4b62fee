// Package mysql writes to MySQL and MariaDB.
package mysql

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver returns the driver for MySQL and MariaDB.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "mysql", Title: "MySQL",
		Schemes:   []string{"mysql"},
		Example:   "mysql://user:password@host:3306/database",
		Summary:   "Writes rows to tables of MySQL, or of MariaDB.",
		Help:      help(),
		Options:   options,
		Fields:    fields,
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Identity: identity,
	}
}

// identity returns a string that identifies the server, by its address or socket, and the database
// of target.
func identity(target *url.URL) string {
	query := target.Query()
	if query.Get("socket") != "" {
		return sink.JoinIdentity("mysql", "", target.Path, sink.PickOptions(query, "socket"))
	}
	return sink.JoinIdentity("mysql", sink.HostIdentity(target.Hostname(), target.Port(), "3306"), target.Path, nil)
}

var options = slices.Concat([]sink.Option{
	{
		Name: "tls", Type: tlsModes, DefaultNote: "`preferred`",
		Help: "`false`: no TLS; `preferred`: TLS if the server offers it, certificate not checked; " +
			"`skip-verify`: always TLS, certificate not checked; `true`: always TLS, certificate checked",
	},
	{Name: "tls-ca", Type: sink.FilePath{}, Harmless: true, Help: "file with the certificates of trusted authorities; implies `tls=true`"},
	{Name: "tls-cert", Type: sink.FilePath{}, Harmless: true, Help: "file with the client's certificate"},
	{Name: "tls-key", Type: sink.FilePath{}, Help: "file with the client's key"},
	{
		Name: "tls-server-name", DefaultNote: "the host", Harmless: true,
		Help: "name in the server's certificate; implies `tls=true`",
	},
	{
		Name: "socket", Harmless: true,
		Help: "path of the server's Unix socket, instead of a host: `mysql://user@/shop?socket=/run/mysqld/mysqld.sock`",
	},
	{
		Name: "timeout", Type: sink.Duration{Min: time.Second, Max: time.Hour}, Default: "30s",
		Help: "how long to wait for a connection",
	},
	{
		Name: "local_infile", Type: sink.OneOf("auto", "true", "false"), Default: "auto",
		Help: "`auto` loads rows with `LOAD DATA LOCAL INFILE` if the server allows it; `false` never does",
	},
	{Name: "compress", Type: sink.Bool{}, Default: "false", Help: "`true` compresses the connection, for slow networks"},
}, sqlsink.TimeoutOptions, sqlsink.RowOptions, sink.Unlisted(passedOptions...), sink.Unlisted(ignoredOptions...))

// passedOptions are options that eds passes to go-sql-driver/mysql unchanged.
var passedOptions = []string{
	"allowCleartextPasswords", "allowNativePasswords", "allowOldPasswords", "allowFallbackToPlaintext", "serverPubKey",
	"connectionAttributes",
}

// ignoredOptions are options of go-sql-driver/mysql that URLs of other programs may contain. eds
// accepts and ignores them, because it chooses these settings itself.
var ignoredOptions = []string{
	"charset", "collation", "parseTime", "loc", "multiStatements", "interpolateParams", "clientFoundRows", "columnsWithAlias",
	"checkConnLiveness", "maxAllowedPacket", "rejectReadOnly", "readTimeout", "writeTimeout", "timeTruncate",
}

var fields = []sink.Field{
	{Name: "Database", Type: "string", Description: "name of the database", Required: true},
	{Name: "Username", Type: "string", Description: "user that may create and write tables", Required: true},
	{Name: "Password", Type: "string", Format: "password", Description: "password of the user"},
	{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of the server", Required: true},
	{Name: "Port", Type: "number", Default: "3306", Description: "port of the server"},
}

func help() string {
	var b strings.Builder
	b.WriteString(`The user needs a database of its own, or these rights on one that exists:

    CREATE DATABASE shop CHARACTER SET utf8mb4;
    CREATE USER eds IDENTIFIED BY '...';
    GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, TRIGGER,
          REFERENCES, CREATE TEMPORARY TABLES ON shop.* TO eds;

With TRIGGER eds sees whether a table has triggers, and so whether an import may
replace it by a new table. Loading is fastest if the server has local_infile=ON
(SET PERSIST local_infile = ON); if it is off, eds logs that once and writes rows
with INSERT statements.

    mysql://eds:password@db.example.com/shop?tls=true
    mysql://eds:password@db.example.com/shop?tls-ca=/etc/eds/rds.pem
    mysql://eds@/shop?socket=/run/mysqld/mysqld.sock

eds creates tables with the primary key of the source, in InnoDB. Existing tables
keep their types; eds adds columns, and widens a column if its type no longer
holds the source's, which makes the server copy the table. Each batch is one
transaction with its checkpoint: every change takes effect exactly once. Names
that MySQL cannot have are changed, and end in a hash.

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
	u := url.URL{Scheme: "mysql", Host: f.HostPort("3306"), Path: "/" + f.Get("Database"), User: url.User(f.Get("Username"))}
	if strings.Contains(f.Get("Database"), "/") {
		f.Refuse("Database", "it should be the name of a database, without a slash")
	}
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
