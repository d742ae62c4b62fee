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
	// natsTimeout bounds the making of a connection to NATS, and each step of it.
	natsTimeout = 10 * time.Second
	// maxGreeting bounds the greeting of a NATS server in bytes.
	maxGreeting = 1 << 20
)

// Connect connects to HQ's NATS, at addresses as Servers returns them, with TLS as
// security says. The credential is sent only once it does. The connection repairs
// itself under the same rules.
func Connect(servers string, credential Credential, security *Security, options ...nats.Option) (*nats.Conn, error) {
	return connect(servers, credential, &dialer{security: security, dial: new(net.Dialer).DialContext}, options...)
}

func connect(servers string, credential Credential, d *dialer, options ...nats.Option) (*nats.Conn, error) {
	if err := d.configure(servers); err != nil {
		return nil, err
	}
	all := []nats.Option{credential.Option(), nats.Timeout(natsTimeout), nats.SetCustomDialer(d), nats.SkipHostLookup()}
	if d.websocket && d.tls {
		all = append(all, d.overWSS)
	}
	return nats.Connect(servers, append(all, options...)...)
}

// dialer makes connections to NATS servers, and encrypts them before the client of
// NATS sees them. It is safe for concurrent use.
type dialer struct {
	security *Security
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	roots    *x509.CertPool // trusted authorities; nil: the system's

	hosts     []string // of the configured servers
	websocket bool     // they are ws:// or wss://
	tls       bool     // one of them is tls:// or wss://, so that all have to use TLS

	mu       sync.Mutex
	dialed   string // the host that was dialed last
	verified string // the host whose certificate was verified last
}

// configure reads the addresses, which are comma separated.
func (d *dialer) configure(servers string) error {
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

// overWSS has the client of NATS encrypt wss:// itself, from the first byte on:
// nothing announces it that could be stripped.
func (d *dialer) overWSS(o *nats.Options) error {
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

// SkipTLSHandshake tells the client of NATS that connections are encrypted already.
func (d *dialer) SkipTLSHandshake() bool { return !d.websocket }

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
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
		// Until a host has used TLS, one that can do without goes on without.
		conn, err = d.greet(ctx, network, address, d.unsecured(host))
	}
	return conn, err
}

// requires returns an error if the host must use TLS: a configured one as security
// or an address says, one that another server has named if any of those must.
func (d *dialer) requires(host string) error {
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

// greeting is what a server says first, as far as it matters here.
type greeting struct {
	Required  bool `json:"tls_required"`
	Available bool `json:"tls_available"`
}

// optionalError says that a server does not insist on TLS, and that eds cannot use it
// there.
type optionalError struct{ error }

func (e *optionalError) Unwrap() error { return e.error }

// talk begins to talk to a server after its greeting, of which it returns what the
// client of NATS may see.
type talk func(ctx context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error)

// greet connects to a server and reads its greeting.
func (d *dialer) greet(ctx context.Context, network, address string, begin talk) (_ net.Conn, err error) {
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
	// What comes behind the greeting, unencrypted, is part of a handshake, which fails
	// by it.
	talking, line, err := begin(ctx, &reading{conn, r}, line, offer)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return &reading{talking, io.MultiReader(bytes.NewReader(line), talking)}, nil
}

// secure encrypts the connection if the server offers that. If it does not, required
// is the error, nil if it may go on.
func (d *dialer) secure(host string, required error) talk {
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

// unsecured goes on without encryption, if that may be.
func (d *dialer) unsecured(host string) talk {
	return func(_ context.Context, conn net.Conn, line []byte, offer greeting) (net.Conn, []byte, error) {
		if offer.Required {
			return nil, nil, fmt.Errorf("nats at %s asks for TLS, and did not a moment ago", host)
		}
		return conn, line, d.security.plain(peerNATS, host)
	}
}

const greetingPrefix = "INFO "

var errNotNATS = errors.New("what answers is no nats server")

// readGreeting reads the first line.
func readGreeting(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) < len(greetingPrefix), !strings.EqualFold(string(line[:len(greetingPrefix)]), greetingPrefix), len(line) > maxGreeting:
			return nil, errNotNATS
		case err == nil:
			return line, nil
		}
	}
}

// withoutNames takes the names of other servers out of a greeting, which was not
// encrypted: anybody can have written them, with a certificate of their own. An
// address may stay, as the server there has to show the certificate of a name that
// is known. Servers tell of the others again once the connection is encrypted.
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
	// Neither can fail: both are JSON again.
	members[key], _ = json.Marshal(others)
	text, _ := json.Marshal(members)
	return slices.Concat([]byte(greetingPrefix), text, []byte("\r\n"))
}

// handshake encrypts the connection. The server has to show a certificate for its
// name; one that is known by its address alone, because another server has named
// it, for the name of that one. If TLS is optional, a server that asks for a certificate
// of its client, which eds does not have, is an error: it would close the connection
// after the handshake.
func (d *dialer) handshake(ctx context.Context, conn net.Conn, host string, optional bool) (net.Conn, error) {
	name := host
	if net.ParseIP(host) != nil && !slices.Contains(d.hosts, host) {
		name = d.known()
	}
	config := d.config(name)
	if optional {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errClientCertificate }
	}
	encrypted := tls.Client(conn, config)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	d.confirm(name)
	return encrypted, nil
}

var errClientCertificate = errors.New("the server asks for a certificate of its client")

func (d *dialer) config(name string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.roots, ServerName: name}
}

// known returns the name that servers known by an address have to prove.
func (d *dialer) known() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return cmp.Or(d.verified, d.hosts[0])
}

func (d *dialer) confirm(name string) {
	d.security.secured(peerNATS, name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.verified = name
}

// reading is a connection that is read by way of r.
type reading struct {
	net.Conn
	r io.Reader
}

func (c *reading) Read(p []byte) (int, error) { return c.r.Read(p) }
