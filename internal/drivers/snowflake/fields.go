package snowflake

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

var passwordFields = []sink.Field{
	{Name: "Database", Type: "string", Description: "database, or database/schema", Required: true},
	{Name: "Username", Type: "string", Description: "user that writes the tables", Required: true},
	{Name: "Password", Type: "string", Format: "password", Description: "password of the user, or a programmatic access token", Required: true},
	{Name: "Hostname", Type: "string", Description: "account identifier, such as myorg-account, or host name of the account", Required: true},
	{Name: "Port", Type: "number", Default: "443", Description: "port of the server"},
	{Name: "Warehouse", Type: "string", Description: "warehouse that does the work"},
	{Name: "Role", Type: "string", Description: "role of the session"},
}

var keyPairFields = []sink.Field{
	{Name: "Database", Type: "string", Description: "database, or database/schema", Required: true},
	{Name: "Username", Type: "string", Description: "user that writes the tables", Required: true},
	{Name: "Account", Type: "string", Description: "account identifier, such as myorg-account", Required: true},
	{Name: "Secret", Type: "string", Default: "SNOWFLAKE_KEY", Description: "environment variable that holds the private key, PKCS#8", Required: true},
	{Name: "Warehouse", Type: "string", Description: "warehouse that does the work"},
	{Name: "Role", Type: "string", Description: "role of the session"},
}

// form collects what is wrong with the values of a form.
type form struct {
	values map[string]string
	wrong  []sink.FieldError
}

func newForm(fields []sink.Field, values map[string]string) *form {
	f := &form{values: values}
	for _, field := range fields {
		if field.Required && f.get(field.Name) == "" {
			f.refuse(field.Name, "a value is needed")
		}
	}
	return f
}

func (f *form) get(name string) string { return strings.TrimSpace(f.values[name]) }

func (f *form) refuse(field, why string) {
	f.wrong = append(f.wrong, sink.FieldError{Field: field, Error: why})
}

// host checks what is to be the host of a URL.
func (f *form) host(field string) string {
	host := f.get(field)
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:@?#%\\\"<>[]^`{|}$'", r) }) {
		f.refuse(field, "it should be an account identifier or a host name, without a port or a scheme")
	}
	return host
}

// path checks the database and schema.
func (f *form) path() string {
	path := strings.Trim(f.get("Database"), "/")
	if strings.Count(path, "/") > 1 {
		f.refuse("Database", "it should be a database, or a database and a schema with a / between")
	}
	if strings.ContainsAny(path, "\x00${}") {
		f.refuse("Database", "it has a character that can not be part of the name")
	}
	return "/" + path
}

// query returns the options of the URL.
func (f *form) query(pairs ...string) string {
	query := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if v := f.get(pairs[i+1]); v != "" {
			query.Set(pairs[i], v)
		}
	}
	return query.Encode()
}

// buildPasswordURL builds a URL from the fields of HQ's form.
func buildPasswordURL(values map[string]string) (string, []sink.FieldError) {
	f := newForm(passwordFields, values)
	u := url.URL{Scheme: "snowflake", Host: f.host("Hostname"), Path: f.path(), User: url.UserPassword(f.get("Username"), values["Password"])}
	if port := f.get("Port"); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			f.refuse("Port", "it should be a number from 1 to 65535")
		} else if n != 443 {
			u.Host += ":" + port
		}
	}
	u.RawQuery = f.query("warehouse", "Warehouse", "role", "Role")
	if f.wrong != nil {
		return "", f.wrong
	}
	return u.String(), nil
}

// buildKeyPairURL builds a URL from the fields of HQ's form.
func buildKeyPairURL(values map[string]string) (string, []sink.FieldError) {
	f := newForm(keyPairFields, values)
	u := url.URL{Scheme: "snowflake-keypair", Host: f.host("Account"), Path: f.path(), User: url.User(f.get("Username"))}
	if name := f.get("Secret"); strings.ContainsAny(name, " =-\n\x00") {
		f.refuse("Secret", "it should be the name of an environment variable, not the key itself")
	}
	u.RawQuery = f.query("secret-key", "Secret", "warehouse", "Warehouse", "role", "Role")
	if f.wrong != nil {
		return "", f.wrong
	}
	return u.String(), nil
}
