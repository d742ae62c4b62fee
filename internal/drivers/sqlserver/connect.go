package sqlserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	mssql "github.com/microsoft/go-mssqldb"
	"github.com/microsoft/go-mssqldb/azuread"
	"github.com/microsoft/go-mssqldb/msdsn"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parse reads the settings from a destination URL. An error contains no secret of the URL.
func parse(target *url.URL, env sink.Env) (*dialect, sqlsink.Options, error) {
	lower, known := lowerOptions(target)
	v, err := sink.ParseOptions(lower, known)
	if err != nil {
		return nil, sqlsink.Options{}, err
	}
	shared, err := sqlsink.ReadOptions(v)
	if err != nil {
		return nil, shared, err
	}
	d := &dialect{
		target: target, schema: v.Text("schema"), entra: v.Given("fedauth"), env: env.Complete(), timeouts: sqlsink.ReadTimeouts(v),
	}
	shared.LockTimeout = d.timeouts.Lock
	return d, shared, d.configure(target, lower.Query(), v)
}

// configure sets the connection settings of d for target. The parameter query is the query of
// target with option names in lower case.
func (d *dialect) configure(target *url.URL, query url.Values, v sink.Values) error {
	instance, database := v.Text("instance"), v.Text("database")
	if path := strings.Trim(target.Path, "/"); path != "" {
		switch {
		case database == "":
			database = path
		case instance == "":
			instance = path
		}
	}
	if database == "" {
		return errors.New("the sqlserver url names no database; write it after the host: sqlserver://user@host:1433/database")
	}
	if target.Hostname() == "" {
		return errors.New("the sqlserver url names no host; it should be like sqlserver://user:password@host:1433/database")
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
		query.Set("encrypt", "true") // the host is Azure SQL, in any of its clouds
	}
	plain := url.URL{Scheme: "sqlserver", User: target.User, Host: target.Host, Path: "/" + instance, RawQuery: query.Encode()}
	d.dsn = plain.String()
	for _, name := range []string{"certificate", "servercertificate", "clientcertpath", "tokenfilepath"} {
		if _, err := v.File(name); err != nil {
			return err
		}
	}
	var err error
	if d.config, err = msdsn.Parse(d.dsn); err != nil {
		return sink.RejectedOptions(query, func(one url.Values) bool {
			plain.RawQuery = one.Encode()
			_, err := msdsn.Parse(plain.String())
			return err == nil
		})
	}
	if !d.entra {
		return nil
	}
	// The error of NewConnector contains no values of options.
	if _, err := azuread.NewConnector(d.dsn); err != nil {
		return fmt.Errorf("read the options of the sqlserver url: %w", err)
	}
	return nil
}

// encryptModes are the values of the option encrypt. The synonyms are those of go-mssqldb.
var encryptModes = sink.Choice{
	Values: []string{"true", "strict", "false", "disable"},
	Synonyms: map[string]string{
		"yes": "true", "1": "true", "t": "true", "mandatory": "true", "no": "false", "0": "false", "f": "false", "optional": "false",
	},
}

// fedauths are the values of the option fedauth, which are the ways to sign in with Entra ID.
var fedauths = []string{
	azuread.ActiveDirectoryDefault, azuread.ActiveDirectoryPassword, azuread.ActiveDirectoryServicePrincipal,
	azuread.ActiveDirectoryApplication, azuread.ActiveDirectoryServicePrincipalAccessToken, azuread.ActiveDirectoryManagedIdentity,
	azuread.ActiveDirectoryMSI, azuread.ActiveDirectoryWorkloadIdentity, azuread.ActiveDirectoryEnvironment,
	azuread.ActiveDirectoryAzCli, azuread.ActiveDirectoryAzureDeveloperCli, azuread.ActiveDirectoryIntegrated,
	azuread.ActiveDirectoryInteractive, azuread.ActiveDirectoryDeviceCode, azuread.ActiveDirectoryAzurePipelines,
	azuread.ActiveDirectoryClientAssertion, azuread.ActiveDirectoryOnBehalfOf,
}

// packetSize is the maximum size of a packet of an encrypted connection, in bytes.
const packetSize = 16383

// lowerOptions returns a copy of target, and the declared options. Both results have option names
// in lower case, because go-mssqldb ignores the case of option names.
func lowerOptions(target *url.URL) (*url.URL, []sink.Option) {
	known := slices.Clone(options)
	for i := range known {
		known[i].Name = strings.ToLower(known[i].Name)
	}
	query := make(url.Values)
	for name, values := range target.Query() {
		query[strings.ToLower(name)] = values
	}
	lower := *target
	lower.RawQuery = query.Encode()
	return &lower, known
}

// connector returns a connector that uses w to dial and to verify certificates.
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

// wire is a dialer that keeps the newest connection. With the connection, eds can set a deadline
// that ends a call to the driver.
type wire struct {
	net.Dialer
	conn net.Conn
	// The field unverified is the error that says why the server's certificate was refused. The
	// driver returns only the text of that error.
	unverified error
}

// verifying returns a copy of config that verifies certificates as crypto/tls does and keeps the
// error in w.unverified. If config skips the standard verification, verifying returns config
// unchanged.
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
			options.DNSName = given // an IP address, which the handshake does not send
		}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, w.unverified = state.PeerCertificates[0].Verify(options)
		return w.unverified
	}
	return config
}

// DialContext connects to address. The deadline of ctx also becomes the deadline of the connection.
func (w *wire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	// The driver ignores the context while it signs in.
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	w.conn = conn
	return conn, nil
}

// signInTimeout is the maximum time to connect and sign in.
const signInTimeout = 30 * time.Second

// dial opens a connection and signs in. It returns the driver's connection and the network
// connection below it.
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

// address returns the server's address for messages: host:port, or host\instance if the port is
// not known.
func (d *dialect) address() string {
	if d.config.Instance != "" && d.config.Port == 0 {
		return d.config.Host + `\` + d.config.Instance
	}
	port := d.config.Port
	if port == 0 {
		port = 1433
	}
	return net.JoinHostPort(d.config.Host, strconv.FormatUint(port, 10))
}

// explainConnect describes why a connection failed and how to fix the failure. The error contains
// no secret of the URL.
func (d *dialect) explainConnect(err error) error {
	address := d.address()
	e := mssql.Error{}
	if !errors.As(err, &e) {
		return &sqlsink.ConnectionError{Err: d.explainNetwork(address, err)}
	}
	s := newServerError("connect to "+address, e)
	user, database := d.config.User, d.config.Database
	switch s.number {
	case 18456:
		s.what = fmt.Sprintf("%s refuses the user %q or the password", address, user)
	case 18486, 18487, 18488, 18470:
		s.what = fmt.Sprintf("%s does not let user %q in", address, user)
	case 4060, 911:
		s.what = fmt.Sprintf("%s has no database %q, or user %q may not open it; "+
			"run: CREATE DATABASE %s, and in it: CREATE USER %s FOR LOGIN %s",
			address, database, user, quote(database), quote(user), quote(user))
	case 916:
		s.what = fmt.Sprintf("user %q may not open database %q; run there: CREATE USER %s FOR LOGIN %s",
			user, database, quote(user), quote(user))
	case 40615, 47073:
		s.what = fmt.Sprintf("the firewall of %s does not let this address in; add a rule for it", address)
	}
	return &sqlsink.ConnectionError{Err: s}
}

// explainNetwork describes the failure of a connection if the server sent no error message. It
// marks a failure of TLS as refused.
func (d *dialect) explainNetwork(address string, err error) error {
	server := sqlsink.ServerAddress{
		Address: address, Authority: "give it with certificate=FILE", Name: "give it with hostNameInCertificate=NAME",
	}
	if explained := server.ConnectError(err); explained != nil {
		return explained
	}
	if d.entra {
		return fmt.Errorf("sign in to %s with Entra ID: %s", address, firstLine(err.Error()))
	}
	text := err.Error()
	if d.config.Password != "" {
		text = strings.ReplaceAll(text, d.config.Password, "***")
	}
	return fmt.Errorf("connect to %s: %s", address, text)
}

// firstLine returns the first line of the text of an Entra ID error. The other lines contain the
// whole response of the token service.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
