package hq

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// natsTimeout is the time limit for one attempt to connect to NATS, and for each step of the
	// attempt.
	natsTimeout = 10 * time.Second
	// maxGreeting is the maximum size of a NATS server's greeting in bytes.
	maxGreeting = 1 << 20
)

// Connect connects to HQ's NATS servers at the addresses that Servers returned. The connection uses
// TLS if the parameter security requires TLS or the server offers TLS. The credential is not sent
// until Connect has determined whether the connection uses TLS. A lost connection is restored
// automatically under the same rules.
func Connect(servers string, credential Credential, security *Security, options ...nats.Option) (*nats.Conn, error) {
	return connect(servers, credential, &natsDialer{security: security, dial: new(net.Dialer).DialContext}, options...)
}

func connect(servers string, credential Credential, d *natsDialer, options ...nats.Option) (*nats.Conn, error) {
	if err := d.configure(servers); err != nil {
		return nil, err
	}
	all := []nats.Option{credential.Option(), nats.Timeout(natsTimeout), nats.SetCustomDialer(d), nats.SkipHostLookup()}
	if d.websocket && d.tls {
		all = append(all, d.overWSS)
	}
	return nats.Connect(servers, append(all, options...)...)
}

// natsDialer connects to NATS servers. It encrypts a connection before the NATS client reads from
// it. A natsDialer is safe for concurrent use.
type natsDialer struct {
	security *Security
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	roots    *x509.CertPool // trusted authorities, or nil for those of the system

	hosts     []string // names of the configured servers
	websocket bool     // the configured addresses are ws:// or wss://
	tls       bool     // a configured address is tls:// or wss://, so all servers must use TLS

	mu       sync.Mutex
	dialed   string // the host dialed last
	verified string // the host whose certificate was verified last
}

// configure parses servers, a comma-separated list of addresses.
func (d *natsDialer) configure(servers string) error {
	for server := range strings.SplitSeq(servers, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Hostname() == "" {
			return errors.New("the address of a nats server is not a url")
		}
		d.hosts = append(d.hosts, u.Hostname())
		d.websocket = d.websocket || strings.HasPrefix(u.Scheme, "ws")
		d.tls = d.tls || u.Scheme == "tls" || u.Scheme == "wss"
	}
	return nil
}

// overWSS configures the NATS client to encrypt wss:// connections itself. Such a connection is
// encrypted from its first byte, so an attacker has no plain-text offer of TLS to remove.
func (d *natsDialer) overWSS(o *nats.Options) error {
	o.TLSConfig = d.config("")
	o.TLSConfig.VerifyConnection = func(tls.ConnectionState) error {
		d.mu.Lock()
		host := d.dialed
		d.mu.Unlock()
		d.confirm(host)
		return nil
	}
	return nil
}

// SkipTLSHandshake reports whether the NATS client must skip its TLS handshake because Dial has
// already made one.
func (d *natsDialer) SkipTLSHandshake() bool { return !d.websocket }

// Dial implements nats.CustomDialer.
func (d *natsDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), natsTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("the address of a nats server is not host:port")
	}
	d.mu.Lock()
	d.dialed = host
	d.mu.Unlock()
	required := d.requires(host)
	switch {
	case d.websocket && d.tls:
		return d.dial(ctx, network, address)
	case d.websocket:
		if required == nil {
			required = d.security.plain(peerNATS, host)
		}
		if required != nil {
			return nil, required
		}
		return d.dial(ctx, network, address)
	}
	conn, err := d.greet(ctx, network, address, d.secure(host, required))
	if errors.As(err, new(*optionalError)) {
		// The host has never used TLS, and allows connections without TLS.
		conn, err = d.greet(ctx, network, address, d.unsecured(host))
	}
	return conn, err
}

// requires returns an error if the host must use TLS. If a configured address is tls:// or wss://,
// every host must use TLS. Otherwise, a host must use TLS if the field security requires TLS for
// this host. A host that was named by another server must also use TLS if the field security
// requires TLS for any configured host.
func (d *natsDialer) requires(host string) error {
	if d.tls {
		return &InsecureError{peerNATS, host, "an address of nats begins with tls:// or wss://", ""}
	}
	err := d.security.requires(peerNATS, host)
	if err != nil || slices.Contains(d.hosts, host) {
		return err
	}
	for _, other := range d.hosts {
		if d.security.requires(peerNATS, other) != nil {
			return &InsecureError{peerNATS, host, other + " of the same cluster must", ""}
		}
	}
	return nil
}

// greeting holds those fields of a server's first message that this package needs.
type greeting struct {
	Required  bool `json:"tls_required"`
	Available bool `json:"tls_available"`
}

// optionalError means that TLS with a server failed, and that the server does not require TLS.
type optionalError struct{ error }

func (e *optionalError) Unwrap() error { return e.error }

// connUpgrade prepares a connection for use after the greeting has been read. The parameter line is
// the raw greeting, and offer is the parsed greeting. It returns the connection to use, and the
// greeting that the NATS client may read.
type connUpgrade func(ctx context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error)

// greet connects to a server, reads the server's greeting, and passes the connection and the
// greeting to the function upgrade.
func (d *natsDialer) greet(ctx context.Context, network, address string, upgrade connUpgrade) (_ net.Conn, err error) {
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	line, err := readGreeting(r)
	if err != nil {
		return nil, fmt.Errorf("read the greeting of nats at %s: %w", address, err)
	}
	var offer greeting
	if json.Unmarshal(line[len(greetingPrefix):], &offer) != nil {
		return nil, fmt.Errorf("read the greeting of nats at %s: %w", address, errNotNATS)
	}
	// Unencrypted bytes after the greeting become part of the handshake, which then fails.
	upgraded, line, err := upgrade(ctx, &bufferedConn{conn, r}, line, offer)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &bufferedConn{upgraded, io.MultiReader(bytes.NewReader(line), upgraded)}, nil
}

// secure returns a connUpgrade that encrypts the connection if the server offers TLS. Without that
// offer, the connUpgrade returns the error that was passed to secure. If that error is nil, the
// connUpgrade continues without TLS.
func (d *natsDialer) secure(host string, required error) connUpgrade {
	return func(ctx context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error) {
		if !offer.Required && !offer.Available {
			if required != nil {
				return nil, nil, required
			}
			return d.unsecured(host)(ctx, conn, line, offer)
		}
		optional := !offer.Required && required == nil
		encrypted, err := d.handshake(ctx, conn, host, optional)
		if err != nil {
			err = fmt.Errorf("tls with nats at %s: %w", host, err)
			if optional {
				err = &optionalError{err}
			}
			return nil, nil, err
		}
		return encrypted, withoutNames(line), nil
	}
}

// unsecured returns a connUpgrade that continues without TLS, if security allows that.
func (d *natsDialer) unsecured(host string) connUpgrade {
	return func(_ context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error) {
		if offer.Required {
			return nil, nil, fmt.Errorf("nats at %s requires TLS, and did not a moment ago", host)
		}
		return conn, line, d.security.plain(peerNATS, host)
	}
}

const greetingPrefix = "INFO "

var errNotNATS = errors.New("the server there is not a nats server")

// readGreeting reads the first line, which may have up to maxGreeting bytes.
func readGreeting(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) < len(greetingPrefix), len(line) > maxGreeting,
			!strings.EqualFold(string(line[:len(greetingPrefix)]), greetingPrefix):
			return nil, errNotNATS
		case err == nil:
			return line, nil
		}
	}
}

// withoutNames removes the host names of other servers from a greeting. The greeting was not
// encrypted, so an attacker may have inserted names for which the attacker has certificates. IP
// addresses are kept, because a server at an IP address must show a certificate for a known name.
// Servers send the names again after the connection has been encrypted.
func withoutNames(line []byte) []byte {
	const key = "connect_urls"
	var members map[string]json.RawMessage
	var others []string
	if json.Unmarshal(line[len(greetingPrefix):], &members) != nil || json.Unmarshal(members[key], &others) != nil {
		return line // the greeting names no other servers
	}
	others = slices.DeleteFunc(others, func(other string) bool {
		host, _, err := net.SplitHostPort(other)
		return err != nil || net.ParseIP(host) == nil
	})
	// Neither call can fail: both values were decoded from JSON.
	members[key], _ = json.Marshal(others)
	text, _ := json.Marshal(members)
	return slices.Concat([]byte(greetingPrefix), text, []byte("\r\n"))
}

// handshake encrypts the connection. The server must show a certificate for host. If host is an IP
// address that another server named, the certificate must be for the name of a verified or
// configured server instead. If the parameter optional is true and the server requests a client
// certificate, handshake fails. The reason is that eds has no client certificate, and the server
// would close the connection after the handshake.
func (d *natsDialer) handshake(ctx context.Context, conn net.Conn, host string, optional bool) (net.Conn, error) {
	name := host
	if net.ParseIP(host) != nil && !slices.Contains(d.hosts, host) {
		name = d.known()
	}
	config := d.config(name)
	if optional {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return nil, errClientCertificate
		}
	}
	encrypted := tls.Client(conn, config)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	d.confirm(name)
	return encrypted, nil
}

var errClientCertificate = errors.New("the server asks for a certificate of its client")

func (d *natsDialer) config(name string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.roots, ServerName: name}
}

// known returns the name that must be in the certificate of a server known only by its IP address.
func (d *natsDialer) known() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.verified, d.hosts[0])
}

func (d *natsDialer) confirm(name string) {
	d.security.secured(peerNATS, name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verified = name
}

// bufferedConn is a connection that is read through its field r.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
