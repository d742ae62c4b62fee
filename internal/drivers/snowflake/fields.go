package snowflake

import (
	"net/url"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

var passwordFields = []sink.Field{
	{Name: "Database", Type: "string", Description: "database, or database/schema", Required: true},
	{Name: "Username", Type: "string", Description: "user that writes the tables", Required: true},
	{
		Name: "Password", Type: "string", Format: "password", Required: true,
		Description: "password of the user, or a programmatic access token",
	},
	{
		Name: "Hostname", Type: "string", Required: true,
		Description: "account identifier, such as myorg-account, or host name of the account",
	},
	{Name: "Port", Type: "number", Default: "443", Description: "port of the server"},
	{Name: "Warehouse", Type: "string", Description: "warehouse that does the work", Option: "warehouse"},
	{Name: "Role", Type: "string", Description: "role of the session", Option: "role"},
}

var keyPairFields = []sink.Field{
	{Name: "Database", Type: "string", Description: "database, or database/schema", Required: true},
	{Name: "Username", Type: "string", Description: "user that writes the tables", Required: true},
	{Name: "Account", Type: "string", Description: "account identifier, such as myorg-account", Required: true},
	{
		Name: "Secret", Type: "string", Default: "SNOWFLAKE_KEY", Required: true, Option: "secret-key",
		Description: "environment variable with the private key, PKCS#8",
	},
	{Name: "Warehouse", Type: "string", Description: "warehouse that does the work", Option: "warehouse"},
	{Name: "Role", Type: "string", Description: "role of the session", Option: "role"},
}

// formValues reads the values of HQ's form.
type formValues struct{ *sink.Form }

// host returns the value of a field that becomes the host of the URL. It refuses a value that is
// not a valid host.
func (f formValues) host(field string) string {
	host := f.Get(field)
	if strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:@?#%\\\"<>[]^`{|}$'", r)
	}) {
		f.Refuse(field, "it should be an account identifier or a host name, without a port or a scheme")
	}
	return host
}

// path returns the path of the URL, which consists of the database and, optionally, the schema.
func (f formValues) path() string {
	path := strings.Trim(f.Get("Database"), "/")
	if strings.Count(path, "/") > 1 {
		f.Refuse("Database", "it should be a database, or a database and a schema with a / between")
	}
	if strings.ContainsAny(path, "\x00${}") {
		f.Refuse("Database", "it has a character that cannot be part of the name")
	}
	return "/" + path
}

// buildPasswordURL builds a destination URL from the values of passwordFields in HQ's form, or
// returns the errors of the invalid fields.
func buildPasswordURL(values map[string]string) (string, []sink.FieldError) {
	f := formValues{sink.NewForm(passwordFields, values)}
	user := url.UserPassword(f.Get("Username"), values["Password"])
	u := url.URL{Scheme: "snowflake", Host: f.host("Hostname"), Path: f.path(), User: user}
	if port := f.Port("443"); port != "443" {
		u.Host += ":" + port
	}
	u.RawQuery = f.Query().Encode()
	if f.Wrong != nil {
		return "", f.Wrong
	}
	return u.String(), nil
}

// buildKeyPairURL builds a destination URL from the values of keyPairFields in HQ's form, or
// returns the errors of the invalid fields.
func buildKeyPairURL(values map[string]string) (string, []sink.FieldError) {
	f := formValues{sink.NewForm(keyPairFields, values)}
	u := url.URL{Scheme: "snowflake-keypair", Host: f.host("Account"), Path: f.path(), User: url.User(f.Get("Username"))}
	if name := f.Get("Secret"); strings.ContainsAny(name, " =-\n\x00") {
		f.Refuse("Secret", "it should be the name of an environment variable, not the key itself")
	}
	u.RawQuery = f.Query().Encode()
	if f.Wrong != nil {
		return "", f.Wrong
	}
	return u.String(), nil
}
