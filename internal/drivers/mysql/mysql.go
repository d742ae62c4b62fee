// Package mysql writes to MySQL and to MariaDB.
package mysql

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver describes MySQL.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "mysql", Title: "MySQL",
		Schemes:   []string{"mysql"},
		Example:   "mysql://user:password@host:3306/database",
		Summary:   "Writes rows to tables of MySQL, or of MariaDB.",
		Help:      help(),
		Options:   options(),
		Fields:    fields,
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Identity: identity,
	}
}

// identity returns the server, or its socket, and the database.
func identity(target *url.URL) string {
	query := target.Query()
	if query.Get("socket") != "" {
		return sink.JoinIdentity("mysql", "", target.Path, sink.PickOptions(query, "socket"))
	}
	return sink.JoinIdentity("mysql", sink.HostIdentity(target.Hostname(), target.Port(), "3306"), target.Path, nil)
}

func options() []sink.Option {
	own := []sink.Option{
		{Name: "tls", Default: "preferred", Description: "false, preferred (where the server offers it), skip-verify (always), true (always, and the server's certificate is checked)"},
		{Name: "tls-ca", Description: "file with the certificates of trusted authorities; implies tls=true"},
		{Name: "tls-cert", Description: "file with the client's certificate"},
		{Name: "tls-key", Description: "file with the client's key"},
		{Name: "tls-server-name", Description: "name that the server's certificate is for, where it is not the host's"},
		{Name: "socket", Description: "path of the server's Unix socket, instead of a host: mysql://user@/shop?socket=/run/mysqld/mysqld.sock"},
		{Name: "timeout", Default: "30s", Description: "how long to wait for a connection"},
		{Name: "local_infile", Default: "auto", Description: "auto loads rows with LOAD DATA LOCAL INFILE where the server allows it; false never does"},
		{Name: "compress", Default: "false", Description: "true compresses what is sent; for slow networks"},
	}
	return slices.Concat(own, sqlsink.TimeoutOptions, sqlsink.URLOptions)
}

// otherOptions are understood as go-sql-driver/mysql does, and not listed in the help.
var otherOptions = []string{"allowCleartextPasswords", "allowNativePasswords", "allowOldPasswords", "allowFallbackToPlaintext", "serverPubKey", "connectionAttributes"}

// ownOptions are those of go-sql-driver/mysql that a URL may hold from elsewhere,
// and that eds decides itself.
var ownOptions = []string{
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

TRIGGER only lets eds see whether a table has triggers, and so whether an import
may put a new table in place of the old one. Rows are loaded fastest where the
server has local_infile=ON (SET PERSIST local_infile = ON); where it is off, eds
says so once and writes them with INSERT statements.

    mysql://eds:password@db.example.com/shop?tls=true
    mysql://eds:password@db.example.com/shop?tls-ca=/etc/eds/rds.pem
    mysql://eds@/shop?socket=/run/mysqld/mysqld.sock

Tables are created with the primary key of the source, in InnoDB. Tables that
exist keep their types; columns are added, and widened where a type no longer
holds the source's, which makes the server copy the table. Each batch is one
transaction with its checkpoint: every change takes effect exactly once. Names
that MySQL can not have are changed, and end in a hash.

Values that a column can not hold are set aside in the dead-letter queue. These
are adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// buildURL builds a URL from the fields of HQ's form.
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

// open connects to the destination.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	d, shared, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	return sqlsink.Open(ctx, d, shared, env)
}
