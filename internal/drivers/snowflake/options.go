package snowflake

import (
	"crypto/rsa"
	"errors"
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
	{
		Name: "token", Type: sink.SecretText{},
		Help: "programmatic access token, or with `authenticator=oauth` an OAuth access token, instead of a password",
	},
	{
		Name: "authenticator", Type: sink.OneOf("snowflake", "programmatic_access_token", "oauth"),
		DefaultNote: "`snowflake`; `programmatic_access_token` if there is a token",
		Help:        "`snowflake` (password), `programmatic_access_token` or `oauth`",
	},
}

var keyOptions = []sink.Option{
	{
		Name: "secret-key",
		Help: "name of the environment variable that holds the private key: PKCS#8 in PEM, or the base64 of its DER form",
	},
	{Name: "private-key-file", Type: sink.FilePath{}, Help: "file with the private key, instead of `secret-key`"},
	{Name: "key-passphrase", Help: "name of the environment variable that holds the passphrase of an encrypted key"},
}

// optionsOf returns the options of a driver. They are the given login options, followed by the
// options that both Snowflake drivers have.
func optionsOf(login []sink.Option) []sink.Option {
	return slices.Concat(login, sharedOptions, sqlsink.TimeoutOptions, sqlsink.RowOptions, foreignOptions)
}

var sharedOptions = []sink.Option{
	{Name: "warehouse", DefaultNote: "the user's", Harmless: true, Help: "warehouse that does the work"},
	{Name: "role", DefaultNote: "the user's", Harmless: true, Help: "role of the session"},
	{Name: "schema", Default: "PUBLIC", Harmless: true, Help: "schema of the tables, if the URL's path names only the database"},
	{
		Name: "account", DefaultNote: "the host's first part", Harmless: true,
		Help: "account identifier, if the host does not begin with it, as with private links",
	},
	{
		Name: "query-tag", Default: "eds", Harmless: true, Aliases: []string{"queryTag", "QUERY_TAG"},
		Help: "QUERY_TAG of the session, which finds eds in the query history",
	},
	{
		Name: "keep-alive", Type: sink.Bool{}, Default: "true", Aliases: []string{"client_session_keep_alive"},
		Help: "`false` lets a session expire that was idle for four hours; eds then opens a new one",
	},
	{
		Name: "login-timeout", Type: sink.Duration{Min: time.Second, Max: time.Hour, Unit: time.Second}, Default: "60s",
		Aliases: []string{"loginTimeout"}, Help: "how long to wait for a login",
	},
	{
		Name: "flush-interval", Type: sink.Duration{Max: time.Hour}, Default: "10s",
		Help: "how long eds collects changes before it writes them, up to `1h`; " +
			"`--minPendingLatency` and `--maxPendingLatency` overrule it",
	},
	{
		Name: "flush-rows", Type: sink.Int{Min: 1, Max: 1_000_000}, Default: "50000",
		Help: "maximum number of changes per write; at most half of `--maxAckPending`",
	},
}

// foreignOptions are options of Snowflake's own driver that URLs of other programs may contain. The
// options that tune that driver have no effect in eds.
var foreignOptions = append(sink.Unlisted(
	"application", "requestTimeout", "clientTimeout", "jwtTimeout", "ocspFailOpen", "insecureMode", "disableOCSPChecks",
	"validateDefaultParameters", "database", "user", "timezone", "tracing", "maxRetryCount", "privateKey", "tmpDirPath",
),
	sink.Option{Name: "protocol", Unlisted: true, Harmless: true},
	sink.Option{Name: "region", Unlisted: true, Harmless: true},
)

// account has the settings of a destination: the server, the database and the schema, the
// credentials, and the settings of sessions.
type account struct {
	host, protocol   string
	port             int
	name             string // the account identifier
	user, password   string
	token            string
	authenticator    sf.AuthType
	key              *rsa.PrivateKey
	database, schema string // names as in the catalogue
	warehouse, role  string
	tag              string
	keepAlive        bool
	loginTimeout     time.Duration
	timeouts         sqlsink.Timeouts
	keyPair          bool
}

// config is a parsed URL.
type config struct {
	account account
	shared  sqlsink.Options
	limits  sink.Limits
}

// parse reads the settings from a destination URL. An error contains no secret of the URL.
func parse(target *url.URL, env sink.Env) (*config, error) {
	keyPair := target.Scheme == "snowflake-keypair"
	login := tokenOptions
	if keyPair {
		login = keyOptions
	}
	v, err := sink.ParseOptions(target, optionsOf(login))
	if err != nil {
		return nil, err
	}
	shared, err := sqlsink.ReadOptions(v)
	if err != nil {
		return nil, err
	}
	c := &config{shared: shared, limits: limits, account: account{keyPair: keyPair}}
	c.limits.Age, c.limits.Rows = v.Duration("flush-interval"), v.Int("flush-rows")
	if err := c.account.readPlace(target); err != nil {
		return nil, err
	}
	c.account.readSession(v, target.User.Username())
	if keyPair {
		return c, c.account.readKey(v, env.Lookup)
	}
	return c, c.account.readPassword(v, target)
}

const domain = ".snowflakecomputing."

// readPlace sets the server, the account, the database and the schema from a destination URL.
func (a *account) readPlace(target *url.URL) error {
	query := target.Query()
	a.host, a.protocol, a.port = target.Hostname(), "https", 443
	if a.host == "" {
		return errors.New("the snowflake url names no account; " +
			"write it after the user: snowflake://user@myorg-account/database/schema")
	}
	if p := target.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return errors.New("the port of the snowflake url is not a number from 1 to 65535")
		}
		a.port = int(n)
	}
	if p := query.Get("protocol"); p == "http" {
		a.protocol = p
	}
	a.name = query.Get("account")
	if !strings.Contains(a.host, domain) && target.Port() == "" {
		if region := query.Get("region"); region != "" && !strings.Contains(a.host, ".") {
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
		return errors.New("the snowflake url names no database; " +
			"write it after the account: snowflake://user@myorg-account/database/schema")
	}
	if strings.Contains(schema, "/") {
		return errors.New("the path of the snowflake url has more than a database and a schema")
	}
	if schema == "" {
		schema = query.Get("schema")
	}
	if schema == "" {
		schema = "PUBLIC"
	}
	a.database, a.schema = identifier(database), identifier(schema)
	return nil
}

// identity returns a string that identifies the account, the database and the schema of target. It
// does not depend on the credentials.
func identity(target *url.URL) string {
	var a account
	if err := a.readPlace(target); err != nil {
		return sink.JoinIdentity("snowflake", sink.HostIdentity(target.Hostname(), target.Port(), "443"), target.Path, nil)
	}
	named := make(url.Values)
	if first, _, _ := strings.Cut(a.host, "."); !strings.EqualFold(a.name, first) {
		named.Set("account", strings.ToLower(a.name))
	}
	path := url.PathEscape(a.database) + "/" + url.PathEscape(a.schema)
	return sink.JoinIdentity("snowflake", sink.HostIdentity(a.host, strconv.Itoa(a.port), ""), path, named)
}

var plainIdentifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*$`)

// identifier returns the name that an identifier refers to in SQL. An unquoted identifier refers to
// the name in upper case. If the spelling is not valid without quotes, identifier returns it
// unchanged.
func identifier(spelling string) string {
	if len(spelling) >= 2 && spelling[0] == '"' && spelling[len(spelling)-1] == '"' {
		return strings.ReplaceAll(spelling[1:len(spelling)-1], `""`, `"`)
	}
	if plainIdentifier.MatchString(spelling) {
		return strings.ToUpper(spelling)
	}
	return spelling
}

// readSession sets the user and the settings of sessions from the options v.
func (a *account) readSession(v sink.Values, user string) {
	a.user = user
	if name := v.Text("warehouse"); name != "" {
		a.warehouse = identifier(name)
	}
	if name := v.Text("role"); name != "" {
		a.role = identifier(name)
	}
	a.tag, a.keepAlive, a.loginTimeout = v.Text("query-tag"), v.Bool("keep-alive"), v.Duration("login-timeout")
	a.timeouts = sqlsink.ReadTimeouts(v)
}

// readPassword sets the authenticator and the password or token from the options v and the URL.
func (a *account) readPassword(v sink.Values, target *url.URL) error {
	a.password, _ = target.User.Password()
	a.token = v.Text("token")
	kind := v.Text("authenticator")
	if kind == "" && a.token != "" {
		kind = "programmatic_access_token"
	}
	switch kind {
	case "", "snowflake":
		a.authenticator = sf.AuthTypeSnowflake
		if a.user == "" || a.password == "" {
			return errors.New("the snowflake url lacks the user or the password; " +
				"write snowflake://user:${PASSWORD}@myorg-account/database/schema, or give a token with token=${TOKEN}")
		}
		return nil
	case "programmatic_access_token":
		a.authenticator = sf.AuthTypePat
		if a.user == "" {
			return errors.New("the snowflake url lacks the user, which a programmatic access token belongs to")
		}
	case "oauth":
		a.authenticator = sf.AuthTypeOAuth
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
