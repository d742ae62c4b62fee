package hq

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/testing/natstest"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// authority is a certificate authority that signs the certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, root}
}

// certificate returns a TLS configuration with a certificate for the given host name.
func (a *authority) certificate(t *testing.T, host string) *tls.Config {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{host}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}}
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// startNATS starts a NATS server that also allows connections without TLS, and returns the address
// of the server.
func startNATS(t *testing.T, config *tls.Config, change func(*server.Options)) string {
	t.Helper()
	return startServer(t, config, change).Addr().String()
}

func startServer(t *testing.T, config *tls.Config, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		Username: "u", Password: "hunter2",
		TLSConfig: config, TLS: config != nil, AllowNonTLS: true, TLSTimeout: 10,
	}
	if change != nil {
		change(o)
	}
	return natstest.Start(t, o)
}

// attacker is a proxy between eds and a server. It changes the server's greeting and records the
// bytes that eds sends.
type attacker struct {
	t        *testing.T
	listener net.Listener
	server   string
	tasks    sync.WaitGroup

	mu    sync.Mutex
	greet func(string) string
	sent  bytes.Buffer
	dials int
	conns []net.Conn
}

func intercept(t *testing.T, server string) *attacker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &attacker{t: t, listener: listener, server: server, greet: func(text string) string { return text }}
	b.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.tasks.Go(func() { b.relay(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		b.cut()
		b.tasks.Wait()
	})
	return b
}

func (a *attacker) relay(client net.Conn) {
	defer client.Close()
	backend, err := net.Dial("tcp", a.server)
	if err != nil {
		return
	}
	defer backend.Close()
	a.mu.Lock()
	a.conns = append(a.conns, client, backend)
	a.dials++
	greet := a.greet
	a.mu.Unlock()
	r := bufio.NewReader(backend)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	if _, err := io.WriteString(client, greet(line)); err != nil {
		return
	}
	a.tasks.Go(func() {
		_, _ = io.Copy(client, r)
		_ = client.Close()
	})
	_, _ = io.Copy(io.MultiWriter(backend, a), client)
}

// Write records the bytes that eds sends.
func (a *attacker) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent.Write(p)
}

// change replaces the function that changes greetings, and ends all connections.
func (a *attacker) change(greet func(string) string) {
	a.mu.Lock()
	a.greet = greet
	a.mu.Unlock()
	a.cut()
}

func (a *attacker) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.conns = nil
}

func (a *attacker) address() string { return a.listener.Addr().String() }

// knows reports whether the credential was sent without encryption.
func (a *attacker) knows() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return bytes.Contains(a.sent.Bytes(), []byte("CONNECT")) || bytes.Contains(a.sent.Bytes(), []byte("hunter2"))
}

// strip removes both the offer of TLS and the demand for TLS from a greeting. In contrast, half
// removes only the demand.
func strip(text string) string {
	return half(strings.ReplaceAll(text, `"tls_available":true`, `"tls_available":false`))
}

func half(text string) string {
	return strings.ReplaceAll(text, `"tls_required":true`, `"tls_required":false`)
}

// world is a network in which host names resolve to addresses of this machine.
type world struct {
	*authority
	dir string // the data directory

	mu    sync.Mutex
	names map[string]string // address by host name
}

func newWorld(t *testing.T) *world {
	return &world{authority: newAuthority(t), dir: t.TempDir(), names: make(map[string]string)}
}

// lead makes a host name resolve to an address.
func (w *world) lead(host, address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[host] = address
}

func (w *world) address(host string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	address, ok := w.names[host]
	return address, ok
}

// warnings records the current warning of a Security for each peer.
type warnings struct {
	mu  sync.Mutex
	all map[string]string
	log bytes.Buffer
}

func (w *warnings) set(peer, warning string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[peer] = warning
}

func (w *warnings) of(peer string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[peer]
}

func (w *world) security(require *bool) (*Security, *warnings) {
	all := &warnings{all: make(map[string]string)}
	return &Security{Require: require, Hosts: tlshosts.In(w.dir), Warn: all.set, Logger: slog.New(slog.NewTextHandler(&all.log, nil))}, all
}

// connect connects in the same way as a new process.
func (w *world) connect(t *testing.T, servers string, security *Security, options ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	d := &natsDialer{security: security, roots: w.roots(), dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if to, ok := w.address(host); ok {
			address = to
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	options = append(options, nats.UserInfo("u", "hunter2"), nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	conn, err := connect(servers, Anonymous(), d, options...)
	if err == nil {
		t.Cleanup(conn.Close)
	}
	return conn, err
}

// works checks that the connection works.
func works(t *testing.T, conn *nats.Conn, err error) {
	t.Helper()
	if err == nil {
		err = conn.FlushTimeout(30 * time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const name = "nats.example.com"
