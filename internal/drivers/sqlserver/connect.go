package sqlserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	mssql "github.com/microsoft/go-mssqldb"
	"github.com/microsoft/go-mssqldb/azuread"
	"github.com/microsoft/go-mssqldb/msdsn"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	query, err := lowerOptions(target)
	if err != nil {
		return nil, sqlsink.Options{}, err
	}
	shared, err := sqlsink.ParseOptions(query)
	if err != nil {
		return nil, shared, err
	}
	d := &dialect{target: target, schema: query.Get("schema"), entra: query.Has("fedauth"), env: env.Complete()}
	if d.timeouts, err = sqlsink.ParseTimeouts(query); err != nil {
		return nil, shared, err
	}
	shared.LockTimeout = d.timeouts.Lock
	instance, database := query.Get("instance"), query.Get("database")
	if path := strings.Trim(target.Path, "/"); path != "" {
		switch {
		case database == "":
			database = path
		case instance == "":
			instance = path
		}
	}
	if database == "" {
		return nil, shared, errors.New("the sqlserver url names no database; write it after the host: sqlserver://user@host:1433/database")
	}
	if target.Hostname() == "" {
		return nil, shared, errors.New("the sqlserver url names no host; it should be like sqlserver://user:password@host:1433/database")
	}
	for _, own := range []string{"schema", "instance", "lock_timeout", "statement_timeout", "metadata", "delete"} {
		query.Del(own)
	}
	query.Set("database", database)
	for name, value := range map[string]string{"app name": "eds", "packet size": strconv.Itoa(packetSize), "disableretry": "true"} {
		if !query.Has(name) {
			query.Set(name, value)
		}
	}
	if !query.Has("encrypt") && strings.Contains(strings.ToLower(target.Hostname()), ".database.") {
		query.Set("encrypt", "true") // Azure SQL, in any of its clouds
	}
	plain := url.URL{Scheme: "sqlserver", User: target.User, Host: target.Host, Path: "/" + instance, RawQuery: query.Encode()}
	d.dsn = plain.String()
	if err := checkOptions(query); err != nil {
		return nil, shared, err
	}
	for _, name := range []string{"certificate", "servercertificate", "clientcertpath", "tokenfilepath"} {
		if _, err := sink.FileOf(query, name); err != nil {
			return nil, shared, err
		}
	}
	if d.config, err = msdsn.Parse(d.dsn); err != nil {
		return nil, shared, sink.RefusedOption(query, func(one url.Values) bool {
			plain.RawQuery = one.Encode()
			_, err := msdsn.Parse(plain.String())
			return err == nil
		})
	}
	if !d.entra {
		return d, shared, nil
	}
	if _, err := sink.ChoiceOf(query, "fedauth", fedauths...); err != nil {
		return nil, shared, errors.New("option fedauth names no way to sign in with Entra ID, such as ActiveDirectoryServicePrincipal, ActiveDirectoryManagedIdentity or ActiveDirectoryDefault; see: eds server help sqlserver")
	}
	// What else can be wrong is told without values.
	if _, err := azuread.NewConnector(d.dsn); err != nil {
		return nil, shared, fmt.Errorf("read the options of the sqlserver url: %w", err)
	}
	return d, shared, nil
}

// checkOptions checks the options that are most often wrong: what the driver says
// of them quotes them.
func checkOptions(query url.Values) error {
	if _, err := sink.ChoiceOf(query, "encrypt", "true", "yes", "1", "t", "mandatory", "strict", "false", "no", "0", "f", "optional", "disable"); err != nil {
		return errors.New("option encrypt should be true, strict, false or disable")
	}
	if _, err := sink.BoolOf(query, "trustservercertificate", false); err != nil {
		return err
	}
	for _, name := range []string{"dial timeout", "connection timeout", "keepalive"} {
		if _, err := sink.IntOf(query, name, 0, 0, 86_400); err != nil {
			return err
		}
	}
	return nil
}

// fedauths are the ways to sign in with Entra ID; none is the default.
var fedauths = []string{
	azuread.ActiveDirectoryDefault, azuread.ActiveDirectoryPassword, azuread.ActiveDirectoryServicePrincipal, azuread.ActiveDirectoryApplication,
	azuread.ActiveDirectoryServicePrincipalAccessToken, azuread.ActiveDirectoryManagedIdentity, azuread.ActiveDirectoryMSI,
	azuread.ActiveDirectoryWorkloadIdentity, azuread.ActiveDirectoryEnvironment, azuread.ActiveDirectoryAzCli, azuread.ActiveDirectoryAzureDeveloperCli,
	azuread.ActiveDirectoryIntegrated, azuread.ActiveDirectoryInteractive, azuread.ActiveDirectoryDeviceCode, azuread.ActiveDirectoryAzurePipelines,
	azuread.ActiveDirectoryClientAssertion, azuread.ActiveDirectoryOnBehalfOf,
}

// packetSize is the largest packet that an encrypted connection may have.
const packetSize = 16383

// lowerOptions returns the URL's options by their names in lower case, which are
// all known.
func lowerOptions(target *url.URL) (url.Values, error) {
	known := options()
	for i := range known {
		known[i].Name = strings.ToLower(known[i].Name)
	}
	query := make(url.Values)
	for name, values := range target.Query() {
		query[strings.ToLower(name)] = values
	}
	lower := *target
	lower.RawQuery = query.Encode()
	return query, sink.CheckOptions(&lower, known, otherOptions...)
}

// connector returns what makes connections, each of which wire gets hold of.
func (d *dialect) connector(w *wire) (*mssql.Connector, error) {
	config := d.config
	config.TLSConfig = w.verifying(config.TLSConfig)
	connector := mssql.NewConnectorConfig(config)
	if d.entra {
		var err error
		if connector, err = azuread.NewConnector(d.dsn); err != nil {
			return nil, err
		}
	}
	connector.Dialer = w
	return connector, nil
}

// wire dials, and keeps the newest connection, so that what waits for the server
// can be given up.
type wire struct {
	net.Dialer
	conn net.Conn
	// unverified is why the server's certificate was refused: the driver keeps
	// no more of it than words.
	unverified error
}

// verifying returns config with its verification done here, as crypto/tls does it,
// so that the reason for a refusal is known. One that verifies nothing, or in its
// own way, stays as it is.
func (w *wire) verifying(config *tls.Config) *tls.Config {
	if config == nil || config.InsecureSkipVerify {
		return config
	}
	config = config.Clone()
	given := config.ServerName
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: config.RootCAs, DNSName: state.ServerName, Intermediates: x509.NewCertPool()}
		if options.DNSName == "" {
			options.DNSName = given // an address, which the handshake does not tell
		}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, w.unverified = state.PeerCertificates[0].Verify(options)
		return w.unverified
	}
	return config
}

// DialContext dials.
func (w *wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	// The driver itself does not look at the context before it has signed in.
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	w.conn = conn
	return conn, nil
}

// signInTimeout bounds how long it may take until the server has let us in.
const signInTimeout = 30 * time.Second

// dial opens a connection and signs in.
func (d *dialect) dial(ctx context.Context) (*mssql.Conn, net.Conn, error) {
	w := &wire{Dialer: net.Dialer{KeepAlive: d.config.KeepAlive}}
	connector, err := d.connector(w)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	conn, err := connector.Connect(ctx)
	if err != nil {
		return nil, nil, d.explainConnect(errors.Join(w.unverified, err))
	}
	if err := w.conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, errors.Join(&sqlsink.ConnectionError{Err: err}, conn.Close())
	}
	return conn.(*mssql.Conn), w.conn, nil
}

// where names the server.
func (d *dialect) where() string {
	if d.config.Instance != "" && d.config.Port == 0 {
		return d.config.Host + `\` + d.config.Instance
	}
	port := d.config.Port
	if port == 0 {
		port = 1433
	}
	return net.JoinHostPort(d.config.Host, strconv.FormatUint(port, 10))
}

// explainConnect says what went wrong with a connection in words that help, and
// without any of the URL's secrets.
func (d *dialect) explainConnect(err error) error {
	where := d.where()
	e := mssql.Error{}
	if !errors.As(err, &e) {
		return &sqlsink.ConnectionError{Err: d.explainNetwork(where, err)}
	}
	s := newServerError("connect to "+where, e)
	user, database := d.config.User, d.config.Database
	switch s.number {
	case 18456:
		s.what = fmt.Sprintf("%s refuses the user %q or the password", where, user)
	case 18486, 18487, 18488, 18470:
		s.what = fmt.Sprintf("%s does not let user %q in", where, user)
	case 4060, 911:
		s.what = fmt.Sprintf("%s has no database %q, or user %q may not open it; run: CREATE DATABASE %s, and in it: CREATE USER %s FOR LOGIN %s", where, database, user, quote(database), quote(user), quote(user))
	case 916:
		s.what = fmt.Sprintf("user %q may not open database %q; run there: CREATE USER %s FOR LOGIN %s", user, database, quote(user), quote(user))
	case 40615, 47073:
		s.what = fmt.Sprintf("the firewall of %s does not let this address in; add a rule for it", where)
	}
	return &sqlsink.ConnectionError{Err: s}
}

// explainNetwork explains an error that came before the server said anything.
// What only the URL can put right is fatal.
func (d *dialect) explainNetwork(where string, err error) error {
	server := sqlsink.Server{Where: where, Authority: "give it with certificate=FILE", Name: "give it with hostNameInCertificate=NAME"}
	if explained := server.Explain(err); explained != nil {
		return explained
	}
	if d.entra {
		return fmt.Errorf("sign in to %s with Entra ID: %s", where, firstLine(err.Error()))
	}
	text := err.Error()
	if d.config.Password != "" {
		text = strings.ReplaceAll(text, d.config.Password, "***")
	}
	return fmt.Errorf("connect to %s: %s", where, text)
}

// firstLine returns the first line of an identity error, whose other lines hold
// the answer of the token service in full.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
