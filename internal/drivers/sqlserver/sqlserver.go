// Package sqlserver writes to SQL Server and to Azure SQL.
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

// Driver describes SQL Server.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "sqlserver", Title: "SQL Server",
		Schemes:   []string{"sqlserver", "mssql"},
		Example:   "sqlserver://user:password@host:1433/database",
		Summary:   "Writes rows to tables of SQL Server 2016 SP1 or newer, or of Azure SQL.",
		Help:      help(),
		Options:   options(),
		Fields:    fields(),
		Limits:    sink.Limits{Rows: 20_000, Bytes: 64 << 20},
		KeepsRows: true,
		URL:       buildURL, Open: open, Borrows: borrows, Identity: identity,
	}
}

// identity returns the server or its instance, the database and the schema.
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

// borrows finds what a server is sent of this machine. It chooses itself what the token
// is good for.
func borrows(target *url.URL) string {
	for name, values := range target.Query() {
		own := slices.ContainsFunc([]string{azuread.ActiveDirectoryPassword, azuread.ActiveDirectoryServicePrincipal, azuread.ActiveDirectoryServicePrincipalAccessToken}, func(auth string) bool {
			return strings.EqualFold(values[0], auth)
		})
		if strings.EqualFold(name, "fedauth") && values[0] != "" && !own {
			return "a fedauth with the identity of this machine"
		}
	}
	return sink.FirstOption(target, "tokenfilepath", "clientcertpath")
}

func options() []sink.Option {
	own := []sink.Option{
		{Name: "schema", Description: "schema of the tables, made where it does not exist; default is the user's own, usually dbo"},
		{Name: "instance", Description: "named instance, whose port SQL Server Browser tells; leave the port out of the url then"},
		{Name: "encrypt", Description: "true, strict (TDS 8.0), false (the login only) or disable; default is true for Azure SQL, else false"},
		{Name: "TrustServerCertificate", Description: "true takes any certificate; default is true where encrypt is not given, else false"},
		{Name: "certificate", Description: "file (.pem or .der) with the certificate of the authority to trust"},
		{Name: "serverCertificate", Description: "file with the very certificate that the server must show"},
		{Name: "hostNameInCertificate", Description: "name that the server's certificate is for, where it is not the host's"},
		{Name: "tlsmin", Default: "1.2", Description: "oldest version of TLS to speak: 1.0, 1.1, 1.2 or 1.3"},
		{Name: "fedauth", Description: "sign in with Microsoft Entra ID: ActiveDirectoryPassword, ActiveDirectoryServicePrincipal, ActiveDirectoryManagedIdentity, ActiveDirectoryWorkloadIdentity, ActiveDirectoryEnvironment, ActiveDirectoryAzCli or ActiveDirectoryDefault"},
		{Name: "dial timeout", Default: "15", Description: "seconds to wait for a connection to be accepted"},
		{Name: "app name", Default: "eds", Description: "how the server shows the session"},
	}
	return slices.Concat(own, sqlsink.TimeoutOptions, sqlsink.URLOptions)
}

// otherOptions are understood as go-mssqldb does, and not listed in the help.
var otherOptions = []string{
	"database", "packet size", "connection timeout", "keepalive", "workstation id", "applicationintent", "failoverpartner", "failoverport",
	"multisubnetfailover", "serverspn", "notraceid", "protocol", "epa enabled", "user id",
	"clientcertpath", "applicationclientid", "resource id", "tokenfilepath", "sendcertificatechain", "disableinstancediscovery", "additionallyallowedtenants",
}

func fields() []sink.Field {
	return []sink.Field{
		{Name: "Database", Type: "string", Description: "name of the database", Required: true},
		{Name: "Username", Type: "string", Description: "user that may make and write tables", Required: true},
		{Name: "Password", Type: "string", Format: "password", Description: "password of the user", Required: true},
		{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of the server", Required: true},
		{Name: "Port", Type: "number", Default: "1433", Description: "port of the server"},
	}
}

func help() string {
	var b strings.Builder
	b.WriteString(`Give eds a login, and a user in the database, that may make tables and write them:

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

A url as go-mssqldb has it, with database=shop among the options and the name of an
instance for its path, is understood as well.

Tables are created with the primary key of the source. Tables that exist keep
their types; columns are added, and widened where a type no longer holds the
source's and no index or constraint stands on the column. Each batch is one transaction with its checkpoint:
every change takes effect exactly once. Names longer than 116 characters are cut, and end in a hash.

Values that a column can not hold are set aside in the dead-letter queue, and so
are keys that end in a blank, which SQL Server takes for the same key without it.
These are adjusted instead, and counted by rule:

`)
	b.WriteString(rules.Help())
	return b.String()
}

// maxIdentifier is how many UTF-16 units the name of a database or user has at most.
const maxIdentifier = 128

// buildURL builds a URL from the fields of HQ's form.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	all := fields()
	f := sink.NewForm(all, values)
	for _, field := range all {
		switch {
		case strings.ContainsRune(values[field.Name], 0):
			f.Refuse(field.Name, "it has a character that can not be part of it")
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
	u := url.URL{Scheme: "sqlserver", Host: host + ":" + port, Path: "/" + f.Get("Database"), User: url.UserPassword(f.Get("Username"), values["Password"])}
	if instance != "" {
		u.RawQuery = url.Values{"instance": {instance}}.Encode()
		if f.Get("Port") == "" {
			u.Host = host
		}
	}
	// A $ stays apart from the placeholder that ${NAME} would be.
	return strings.ReplaceAll(u.String(), "$", "%24"), nil
}

// open connects to the destination.
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
