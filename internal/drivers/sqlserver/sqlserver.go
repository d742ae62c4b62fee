// Package sqlserver writes to SQL Server and Azure SQL.
package sqlserver

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/microsoft/go-mssqldb/azuread"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Driver returns the driver for SQL Server and Azure SQL.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "sqlserver", Title: "SQL Server",
		Schemes:   []string{"sqlserver", "mssql"},
		Example:   "sqlserver://user:password@host:1433/database",
		Summary:   "Writes rows to tables of SQL Server 2016 SP1 or newer, or of Azure SQL.",
		Help:      help(),
		Options:   options,
		Fields:    fields(),
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Borrows: borrows, Identity: identity,
	}
}

// identity returns a string that identifies the server or its instance, the database and the schema
// of target.
func identity(target *url.URL) string {
	query := make(url.Values)
	for name, values := range target.Query() {
		query[strings.ToLower(name)] = values
	}
	instance, database := query.Get("instance"), query.Get("database")
	if path := strings.Trim(target.Path, "/"); database == "" {
		database = path
	} else if instance == "" {
		instance = path
	}
	port := target.Port()
	if instance == "" {
		port = cmp.Or(port, "1433")
	}
	named := sink.PickOptions(query, "schema")
	if port == "" {
		named.Set("instance", strings.ToLower(instance))
	}
	return sink.JoinIdentity("sqlserver", sink.HostIdentity(target.Hostname(), port, ""), database, named)
}

// borrows names the part of target that makes eds send a secret of this machine to a server, or
// returns "" if target uses no such secret. The secret may be an access token of this machine's
// identity, whose scope the server chooses.
func borrows(target *url.URL) string {
	for name, values := range target.Query() {
		own := slices.ContainsFunc([]string{
			azuread.ActiveDirectoryPassword, azuread.ActiveDirectoryServicePrincipal, azuread.ActiveDirectoryServicePrincipalAccessToken,
		}, func(auth string) bool { return strings.EqualFold(values[0], auth) })
		if strings.EqualFold(name, "fedauth") && values[0] != "" && !own {
			return "a fedauth with the identity of this machine"
		}
	}
	return sink.FirstOption(target, "tokenfilepath", "clientcertpath")
}

var options = slices.Concat([]sink.Option{
	{
		Name: "schema", DefaultNote: "the user's own, usually `dbo`", Harmless: true,
		Help: "schema of the tables; created with the first table if it does not exist",
	},
	{
		Name: "instance", Harmless: true,
		Help: "a named instance; SQL Server Browser (UDP 1434) knows its port, so leave the port out of the URL",
	},
	{
		Name: "encrypt", Type: encryptModes, DefaultNote: "`true` for Azure SQL, else `false`",
		Help: "`true`, `strict` (TDS 8.0), `false` (encrypts the login only, if the server can) or `disable`",
	},
	{
		Name: "TrustServerCertificate", Type: sink.Bool{}, DefaultNote: "`true` if `encrypt` is not given, else `false`",
		Help: "`true` takes any certificate",
	},
	{
		Name: "certificate", Type: sink.FilePath{}, DefaultNote: "the system's authorities", Harmless: true,
		Help: "file (`.pem`, `.der`) with the certificate of the authority to trust",
	},
	{
		Name: "serverCertificate", Type: sink.FilePath{}, Harmless: true,
		Help: "file with the certificate that the server must show, instead of an authority's",
	},
	{Name: "hostNameInCertificate", DefaultNote: "the host", Harmless: true, Help: "name in the server's certificate"},
	{Name: "tlsmin", Default: "1.2", Harmless: true, Help: "oldest version of TLS: `1.0`, `1.1`, `1.2` or `1.3`"},
	{
		Name: "fedauth", Type: sink.OneOf(fedauths...),
		Help: "sign in with Microsoft Entra ID: `ActiveDirectoryPassword`, `ActiveDirectoryServicePrincipal`, " +
			"`ActiveDirectoryManagedIdentity`, `ActiveDirectoryWorkloadIdentity`, `ActiveDirectoryEnvironment`, " +
			"`ActiveDirectoryAzCli` or `ActiveDirectoryDefault`",
	},
	{Name: "dial timeout", Type: sink.Int{Max: 86_400}, Default: "15", Help: "seconds to wait until the server accepts a connection"},
	{Name: "app name", Default: "eds", Harmless: true, Help: "session name that the server shows"},
}, sqlsink.TimeoutOptions, sqlsink.RowOptions, mssqlOptions)

// mssqlOptions are the other options of go-mssqldb that eds accepts.
var mssqlOptions = append(sink.Unlisted(
	"packet size", "workstation id", "applicationintent", "failoverpartner", "failoverport", "multisubnetfailover", "serverspn",
	"notraceid", "protocol", "epa enabled", "clientcertpath", "applicationclientid", "resource id", "tokenfilepath", "sendcertificatechain",
	"disableinstancediscovery", "additionallyallowedtenants",
),
	sink.Option{Name: "connection timeout", Type: sink.Int{Max: 86_400}, Unlisted: true},
	sink.Option{Name: "keepalive", Type: sink.Int{Max: 86_400}, Unlisted: true},
	sink.Option{Name: "database", Unlisted: true, Harmless: true},
	sink.Option{Name: "user id", Unlisted: true, Harmless: true},
)

func fields() []sink.Field {
	return []sink.Field{
		{Name: "Database", Type: "string", Description: "name of the database", Required: true},
		{Name: "Username", Type: "string", Description: "user that may create and write tables", Required: true},
		{Name: "Password", Type: "string", Format: "password", Description: "password of the user", Required: true},
		{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of the server", Required: true},
		{Name: "Port", Type: "number", Default: "1433", Description: "port of the server"},
	}
}

func help() string {
	var b strings.Builder
	b.WriteString(`Give eds a login, and a user in the database with permission to create and write tables:

    CREATE LOGIN eds WITH PASSWORD = '...';
    USE shop;
    CREATE USER eds FOR LOGIN eds;
    GRANT CREATE TABLE TO eds;
    GRANT SELECT, INSERT, UPDATE, DELETE, ALTER, REFERENCES ON SCHEMA::dbo TO eds;

or a schema of its own, and schema=shop in the url:

    CREATE SCHEMA shop AUTHORIZATION eds;

Examples:

    sqlserver://eds:${PASSWORD}@db.example.com:1433/shop?encrypt=true
    sqlserver://eds:${PASSWORD}@db.example.com/shop?instance=SQLEXPRESS&TrustServerCertificate=true&encrypt=true
    sqlserver://eds:${PASSWORD}@shop.database.windows.net/shop
    sqlserver://shop.database.windows.net/shop?fedauth=ActiveDirectoryManagedIdentity

A url of go-mssqldb, with database=shop among the options and an instance as its path,
works as well.

eds creates tables with the primary key of the source. Existing tables keep their
types; eds adds columns, and widens a column if its type no longer holds the source's,
unless an index or constraint uses the column. Each batch is one transaction with its
checkpoint: every change takes effect exactly once. Names longer than 116 characters
are cut, and end in a hash.

A change with a value that a column cannot hold is dead-lettered, and so is one with a
key that ends in a blank, because SQL Server treats it like the key without the blank.
These values are adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// maxIdentifier is the maximum length of the name of a database or user, in UTF-16 units.
const maxIdentifier = 128

// buildURL builds a destination URL from the fields of HQ's form, or returns the errors of the
// invalid fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	all := fields()
	f := sink.NewForm(all, values)
	for _, field := range all {
		switch {
		case strings.ContainsRune(values[field.Name], 0):
			f.Refuse(field.Name, "it has a character that it cannot have")
		case len(utf16.Encode([]rune(f.Get(field.Name)))) > maxIdentifier && field.Name != "Hostname":
			f.Refuse(field.Name, fmt.Sprintf("it is longer than %d characters", maxIdentifier))
		}
	}
	port := f.Port("1433")
	host, instance, _ := strings.Cut(f.Get("Hostname"), `\`)
	host = strings.Trim(host, "[]")
	if !sink.Host(host) {
		f.Refuse("Hostname", `it should be a host name or an address, without a port or a scheme; host\instance names an instance`)
	}
	if f.Wrong != nil {
		return "", f.Wrong
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	u := url.URL{
		Scheme: "sqlserver", Host: host + ":" + port, Path: "/" + f.Get("Database"),
		User: url.UserPassword(f.Get("Username"), values["Password"]),
	}
	if instance != "" {
		u.RawQuery = url.Values{"instance": {instance}}.Encode()
		if f.Get("Port") == "" {
			u.Host = host
		}
	}
	// Escape $, which would start a placeholder.
	return strings.ReplaceAll(u.String(), "$", "%24"), nil
}

// open opens the destination at target.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	d, shared, err := parse(target, env)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	s, err := sqlsink.Open(ctx, d, shared, env)
	if err != nil {
		return nil, err
	}
	return s, nil
}
