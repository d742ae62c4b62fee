package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// gate is a proxy in front of NATS. It offers TLS, or strips the offer and reads the traffic.
type gate struct {
	listener net.Listener
	backend  string
	config   *tls.Config
	tasks    sync.WaitGroup

	mu    sync.Mutex
	strip bool
	read  bytes.Buffer // plain text
	conns []net.Conn
}

// newGate opens a gate to NATS, and makes the program trust its certificate.
func newGate(t *testing.T, nats string) *gate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", file)
	u, err := url.Parse(nats)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{
		listener: listener, backend: u.Host,
		config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}
	g.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.tasks.Go(func() { g.relay(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		g.change(false)
		g.tasks.Wait()
	})
	return g
}

func (g *gate) url() string {
	return strings.Replace("nats://"+g.listener.Addr().String(), "127.0.0.1", "localhost", 1)
}

// change ends all connections; later ones are stripped, or not.
func (g *gate) change(strip bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.strip = strip
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

func (g *gate) relay(client net.Conn) {
	defer client.Close()
	backend, err := net.Dial("tcp", g.backend)
	if err != nil {
		return
	}
	defer backend.Close()
	g.mu.Lock()
	g.conns = append(g.conns, client, backend)
	strip := g.strip
	g.mu.Unlock()
	r := bufio.NewReader(backend)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	if !strip {
		line = strings.Replace(line, "{", `{"tls_required":true,`, 1)
	}
	if _, err := io.WriteString(client, line); err != nil {
		return
	}
	to := io.Writer(backend)
	if strip {
		to = io.MultiWriter(backend, g)
	} else {
		client = tls.Server(client, g.config)
	}
	g.tasks.Go(func() {
		_, _ = io.Copy(client, r)
		_ = client.Close()
	})
	_, _ = io.Copy(to, client)
}

// Write keeps the plain text.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.read.Write(p)
}

func (g *gate) overheard() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.read.String()
}

// TestServer_SendsNoCredentialToNATSThatStopsOfferingTLS strips the offer of TLS, between two runs
// of the server and during one.
func TestServer_SendsNoCredentialToNATSThatStopsOfferingTLS(t *testing.T) {
	w := newWorld(t, "", devhq.Options{})
	g := newGate(t, w.hq.NATSURL())
	w.nats = g.url()
	p := w.serve()
	w.session(p, "")
	p.stop()

	g.change(true)
	p = w.serve("--restart")
	refused := func() {
		t.Helper()
		eventually(t, "the server is unhealthy because of NATS", func() bool {
			code, body := p.get("")
			return code == http.StatusServiceUnavailable && strings.Contains(body, "must use TLS because it has used TLS before") ||
				g.overheard() != ""
		}, p.output)
		if text := g.overheard(); text != "" {
			t.Fatalf("it was sent in the clear: %.40s", text)
		}
	}
	refused()
	g.change(false)
	w.session(p, "")
	eventually(t, "the server is healthy", func() bool { code, _ := p.get(""); return code == http.StatusOK }, p.output)
	g.change(true)
	refused()
	g.change(false)
	eventually(t, "the server is healthy again", func() bool { code, _ := p.get(""); return code == http.StatusOK }, p.output)
	p.stop()
}
