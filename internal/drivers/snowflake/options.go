package snowflake

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	sf "github.com/snowflakedb/gosnowflake"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

var tokenOptions = []sink.Option{
	{Name: "token", Description: "programmatic access token, or OAuth access token where authenticator=oauth, instead of a password"},
	{Name: "authenticator", Default: "snowflake", Description: "snowflake (password), programmatic_access_token or oauth; with a token the default is programmatic_access_token"},
}

var keyOptions = []sink.Option{
	{Name: "secret-key", Description: "name of the environment variable that holds the private key, PKCS#8"},
	{Name: "private-key-file", Description: "file with the private key, instead"},
	{Name: "key-passphrase", Description: "name of the environment variable that holds the passphrase of an encrypted key"},
}

// options returns the options of a driver: how it logs in, then what both have.
func options(login []sink.Option) []sink.Option {
	own := []sink.Option{
		{Name: "warehouse", Description: "warehouse that does the work; default is the user's"},
		{Name: "role", Description: "role of the session; default is the user's"},
		{Name: "schema", Default: "PUBLIC", Description: "schema of the tables, where the url's path names only the database"},
		{Name: "account", Description: "account identifier, where the host does not begin with it, as with private links"},
		{Name: "query-tag", Default: "eds", Description: "QUERY_TAG of the session, by which the query history can be searched"},
		{Name: "keep-alive", Default: "true", Description: "false lets a session expire that was idle for four hours; a new one is made then"},
		{Name: "login-timeout", Default: "60s", Description: "how long to wait for a login"},
		{Name: "flush-interval", Default: "10s", Description: "how long changes are collected before they are written, up to 1h; --minPendingLatency and --maxPendingLatency overrule it"},
		{Name: "flush-rows", Default: "50000", Description: "how many changes are written at once at most; no more than half of --maxAckPending"},
	}
	return slices.Concat(login, own, sqlsink.TimeoutOptions, sqlsink.URLOptions)
}

// otherOptions are those of Snowflake's own driver that URLs may have already.
// Those that say how the driver works have no effect here.
var otherOptions = []string{
	"protocol", "region", "application", "queryTag", "QUERY_TAG", "client_session_keep_alive", "loginTimeout", "requestTimeout", "clientTimeout", "jwtTimeout",
	"ocspFailOpen", "insecureMode", "disableOCSPChecks", "validateDefaultParameters", "database", "user", "timezone", "tracing", "maxRetryCount", "privateKey", "tmpDirPath",
}

// account is where the destination is and how it is entered.
type account struct {
	host, protocol   string
	port             int
	name             string // of the account
	user, password   string
	token            string
	authenticator    sf.AuthType
	key              *rsa.PrivateKey
	database, schema string // as the catalogue has them
	warehouse, role  string
	tag              string
	keepAlive        bool
	loginTimeout     time.Duration
	timeouts         sqlsink.Timeouts
	query            url.Values
	keyPair          bool
}

// choices are all that a URL says.
type choices struct {
	account account
	shared  sqlsink.Options
	limits  sink.Limits
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, env sink.Env) (*choices, error) {
	keyPair := target.Scheme == "snowflake-keypair"
	login := tokenOptions
	if keyPair {
		login = keyOptions
	}
	if err := sink.CheckOptions(target, options(login), otherOptions...); err != nil {
		return nil, err
	}
	query := target.Query()
	shared, err := sqlsink.ParseOptions(query)
	if err != nil {
		return nil, err
	}
	c := &choices{shared: shared, limits: limits, account: account{query: query, keyPair: keyPair}}
	for _, read := range []func(*url.URL) error{c.account.readPlace, c.account.readSession, c.readLimits} {
		if err := read(target); err != nil {
			return nil, err
		}
	}
	if keyPair {
		return c, c.account.readKey(env.Lookup)
	}
	return c, c.account.readPassword(target)
}

// first returns the value of the first of the named options that has one.
func first(query url.Values, names ...string) string {
	for _, name := range names {
		if v := query.Get(name); v != "" {
			return v
		}
	}
	return ""
}

const domain = ".snowflakecomputing."

// readPlace reads the host, the database and the schema.
func (a *account) readPlace(target *url.URL) error {
	a.host, a.protocol, a.port = target.Hostname(), "https", 443
	if a.host == "" {
		return errors.New("the snowflake url names no account; write it after the user: snowflake://user@myorg-account/database/schema")
	}
	if p := target.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return errors.New("the port of the snowflake url is not a number from 1 to 65535")
		}
		a.port = int(n)
	}
	if p := a.query.Get("protocol"); p == "http" {
		a.protocol = p
	}
	a.name = a.query.Get("account")
	if !strings.Contains(a.host, domain) && target.Port() == "" {
		if region := a.query.Get("region"); region != "" && !strings.Contains(a.host, ".") {
			a.host += "." + region
		}
		suffix := "com"
		if _, region, _ := strings.Cut(a.host, "."); strings.HasPrefix(region, "cn-") {
			suffix = "cn"
		}
		a.host += domain + suffix
	}
	if a.name == "" {
		a.name, _, _ = strings.Cut(a.host, ".")
	}
	database, schema, _ := strings.Cut(strings.Trim(target.Path, "/"), "/")
	if database == "" {
		return errors.New("the snowflake url names no database; write it after the account: snowflake://user@myorg-account/database/schema")
	}
	if strings.Contains(schema, "/") {
		return errors.New("the path of the snowflake url has more than a database and a schema")
	}
	if schema == "" {
		schema = first(a.query, "schema")
	}
	if schema == "" {
		schema = "PUBLIC"
	}
	a.database, a.schema = identifier(database), identifier(schema)
	return nil
}

// identity returns the account, the database and the schema, however eds signs in.
func identity(target *url.URL) string {
	a := account{query: target.Query()}
	if err := a.readPlace(target); err != nil {
		return sink.JoinIdentity("snowflake", sink.HostIdentity(target.Hostname(), target.Port(), "443"), target.Path, nil)
	}
	named := make(url.Values)
	if first, _, _ := strings.Cut(a.host, "."); !strings.EqualFold(a.name, first) {
		named.Set("account", strings.ToLower(a.name))
	}
	return sink.JoinIdentity("snowflake", sink.HostIdentity(a.host, strconv.Itoa(a.port), ""), url.PathEscape(a.database)+"/"+url.PathEscape(a.schema), named)
}

var plainIdentifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*$`)

// identifier returns the name that a person's spelling stands for: in upper
// case, unless it is quoted or can only have been.
func identifier(spelling string) string {
	if len(spelling) >= 2 && spelling[0] == '"' && spelling[len(spelling)-1] == '"' {
		return strings.ReplaceAll(spelling[1:len(spelling)-1], `""`, `"`)
	}
	if plainIdentifier.MatchString(spelling) {
		return strings.ToUpper(spelling)
	}
	return spelling
}

// readSession reads what the session is to be like.
func (a *account) readSession(target *url.URL) error {
	a.user = target.User.Username()
	a.tag, a.keepAlive, a.loginTimeout = "eds", true, time.Minute
	if name := a.query.Get("warehouse"); name != "" {
		a.warehouse = identifier(name)
	}
	if name := a.query.Get("role"); name != "" {
		a.role = identifier(name)
	}
	if tag := first(a.query, "query-tag", "queryTag", "QUERY_TAG"); tag != "" {
		a.tag = tag
	}
	if v := first(a.query, "keep-alive", "client_session_keep_alive"); v != "" {
		keep, err := strconv.ParseBool(v)
		if err != nil {
			return errors.New("option keep-alive is neither true nor false")
		}
		a.keepAlive = keep
	}
	if v := first(a.query, "login-timeout", "loginTimeout"); v != "" {
		if n, err := strconv.Atoi(v); err == nil {
			v = fmt.Sprintf("%ds", n)
		}
		d, err := time.ParseDuration(v)
		if err != nil || d < time.Second || d > time.Hour {
			return errors.New("option login-timeout is no duration from 1s to 1h, such as 60s")
		}
		a.loginTimeout = d
	}
	var err error
	a.timeouts, err = sqlsink.ParseTimeouts(a.query)
	return err
}

// readLimits reads how much is to be written at a time.
func (c *choices) readLimits(*url.URL) error {
	if v := c.account.query.Get("flush-interval"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 || d > time.Hour {
			return errors.New("option flush-interval is no duration up to 1h, such as 5m")
		}
		c.limits.Age = d
	}
	if v := c.account.query.Get("flush-rows"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1_000_000 {
			return errors.New("option flush-rows is not a number from 1 to 1000000")
		}
		c.limits.Rows = n
	}
	return nil
}

// readPassword reads the password or token.
func (a *account) readPassword(target *url.URL) error {
	a.password, _ = target.User.Password()
	a.token = a.query.Get("token")
	kind := strings.ToLower(a.query.Get("authenticator"))
	if kind == "" && a.token != "" {
		kind = "programmatic_access_token"
	}
	switch kind {
	case "", "snowflake":
		a.authenticator = sf.AuthTypeSnowflake
		if a.user == "" || a.password == "" {
			return errors.New("the snowflake url lacks the user or the password; write snowflake://user:${PASSWORD}@myorg-account/database/schema, or give a token with token=${TOKEN}")
		}
		return nil
	case "programmatic_access_token":
		a.authenticator = sf.AuthTypePat
		if a.user == "" {
			return errors.New("the snowflake url lacks the user, which a programmatic access token belongs to")
		}
	case "oauth":
		a.authenticator = sf.AuthTypeOAuth
	default:
		return errors.New("option authenticator should be snowflake, programmatic_access_token or oauth; for a key pair the url begins with snowflake-keypair://")
	}
	if a.token == "" {
		a.token = a.password
	}
	if a.token == "" {
		return errors.New("the snowflake url lacks the token; give it with token=${TOKEN}")
	}
	a.password = ""
	return nil
}
