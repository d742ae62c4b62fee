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
	// natsTimeout bounds an attempt to connect to NATS, and each step of it.
	natsTimeout = 10 * time.Second
	// maxGreeting bounds the greeting of a NATS server in bytes.
	maxGreeting = 1 << 20
)

// Connect connects to HQ's NATS at the addresses that Servers returned. It uses TLS if
// security requires it or the server offers it, and only then sends the credential. The
// connection reconnects by itself with the same rules.
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

// natsDialer connects to NATS servers, and encrypts the connection before the NATS client reads
// it. It is safe for concurrent use.
type natsDialer struct {
	security *Security
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	roots    *x509.CertPool // trusted authorities; nil: the system's

	hosts     []string // of the configured servers
	websocket bool     // they are ws:// or wss://
	tls       bool     // one of them is tls:// or wss://: all have to use TLS

	mu       sync.Mutex
	dialed   string // the last dialed host
	verified string // the last host whose certificate was verified
}

// configure parses the addresses, which are comma separated.
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

// overWSS lets the NATS client encrypt wss:// itself. That starts with the first byte, so
// there is no offer of TLS that could be stripped.
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

// SkipTLSHandshake reports to the NATS client that connections are encrypted already.
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
		// The host has never used TLS, and allows connections without it.
		conn, err = d.greet(ctx, network, address, d.unsecured(host))
	}
	return conn, err
}

// requires returns an error if the host must use TLS: a configured host because of security
// or an address, a host that another server named if any configured host must.
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

// greeting is the first message of a server, as far as it matters here.
type greeting struct {
	Required  bool `json:"tls_required"`
	Available bool `json:"tls_available"`
}

// optionalError says that a server does not require TLS, and that eds cannot use TLS there.
type optionalError struct{ error }

func (e *optionalError) Unwrap() error { return e.error }

// connUpgrade continues a connection after the greeting. It returns the connection to use, and
// the greeting that the NATS client may read.
type connUpgrade func(ctx context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error)

// greet connects to a server and reads its greeting.
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

// secure encrypts the connection if the server offers that, else it fails with required;
// nil: it continues without TLS.
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

// unsecured continues without encryption, if security allows that.
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

// readGreeting reads the first line, up to maxGreeting bytes.
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

// withoutNames removes the names of other servers from a greeting. The greeting was not
// encrypted, so an attacker may have written names that he has certificates for. Addresses
// stay: the server there has to show the certificate of a known name. Servers send the names
// again once the connection is encrypted.
func withoutNames(line []byte) []byte {
	const key = "connect_urls"
	var members map[string]json.RawMessage
	var others []string
	if json.Unmarshal(line[len(greetingPrefix):], &members) != nil || json.Unmarshal(members[key], &others) != nil {
		return line // it names none
	}
	others = slices.DeleteFunc(others, func(other string) bool {
		host, _, err := net.SplitHostPort(other)
		return err != nil || net.ParseIP(host) == nil
	})
	// Neither can fail: both were JSON.
	members[key], _ = json.Marshal(others)
	text, _ := json.Marshal(members)
	return slices.Concat([]byte(greetingPrefix), text, []byte("\r\n"))
}

// handshake encrypts the connection. The server has to show a certificate for its name. If
// only its address is known, because another server named it, the certificate has to be for
// the name of that server. If TLS is optional, it is an error that the server asks for a
// client certificate: eds has none, and the server would close the connection after the
// handshake.
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

// known returns the name whose certificate a server without a name has to show.
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

// bufferedConn is a connection whose bytes are read from r.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
