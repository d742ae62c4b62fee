package hq

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

func TestConnect_RequiresTLSOnceAServerHasUsedIt(t *testing.T) {
	for how, greet := range map[string]func(string) string{"all of the offer": strip, "the demand": half} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			b := intercept(t, startNATS(t, w.certificate(t, name), nil))
			w.lead(name, b.address())
			security, warned := w.security(nil)
			conn, err := w.connect(t, "nats://"+name, security)
			works(t, conn, err)
			conn.Close()
			b.change(greet)
			security, _ = w.security(nil)
			conn, err = w.connect(t, "nats://"+name, security)
			if how == "the demand" {
				works(t, conn, err) // the connection uses the offered TLS
			} else if e := new(InsecureError); !errors.As(err, &e) || !strings.Contains(err.Error(), "has used TLS before") ||
				!strings.Contains(err.Error(), w.dir) {
				t.Errorf("got %v", err)
			}
			if b.knows() || warned.of("nats") != "" {
				t.Errorf("the credential was sent in the clear, or there is a warning: %q", warned.of("nats"))
			}
		})
	}
}

func TestConnect_UsesTLSThatIsOfferedToBeginWith(t *testing.T) {
	w := newWorld(t)
	b := intercept(t, startNATS(t, w.certificate(t, name), nil))
	b.change(half)
	w.lead(name, b.address())
	security, _ := w.security(nil)
	conn, err := w.connect(t, "nats://"+name, security)
	works(t, conn, err)
	if known, err := tlshosts.In(w.dir).Has("nats", name); !known || err != nil || b.knows() {
		t.Errorf("the host is known to use TLS: %v, %v; the credential was sent in the clear: %v", known, err, b.knows())
	}
}

func TestConnect_ReconnectsWithTLSOnly(t *testing.T) {
	w := newWorld(t)
	b := intercept(t, startNATS(t, w.certificate(t, name), nil))
	w.lead(name, b.address())
	security, _ := w.security(nil)
	refused, again := make(chan error, 1000), make(chan struct{}, 1000)
	conn, err := w.connect(t, "nats://"+name, security,
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if errors.As(err, new(*InsecureError)) {
				refused <- err
			}
		}), nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	works(t, conn, err)
	b.change(strip)
	<-refused
	<-refused
	b.change(func(text string) string { return text })
	<-again
	works(t, conn, nil)
	if b.knows() {
		t.Error("the credential was sent in the clear")
	}
}

// TestConnect_DoesNotTrustServersNamedInTheClear: an attacker inserts the names of other servers,
// for which the attacker has certificates of the trusted authority.
func TestConnect_DoesNotTrustServersNamedInTheClear(t *testing.T) {
	const evil = "evil.example.org"
	w := newWorld(t)
	b := intercept(t, startNATS(t, w.certificate(t, name), nil))
	his := intercept(t, startNATS(t, w.certificate(t, evil), nil))
	plain := intercept(t, startNATS(t, nil, nil))
	for host, to := range map[string]*attacker{name: b, evil: his, "192.0.2.1": his, "192.0.2.2": plain} {
		w.lead(host, to.address())
	}
	b.change(func(text string) string {
		return strings.Replace(text, "{", `{"connect_urls":["`+evil+`:4222","192.0.2.1:4222","192.0.2.2:4222"],`, 1)
	})
	security, _ := w.security(nil)
	failed := make(chan string, 1000)
	conn, err := w.connect(t, "nats://"+name, security, nats.NoEcho(), nats.DontRandomize(),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { failed <- err.Error() }))
	works(t, conn, err)
	w.lead(name, "127.0.0.1:1") // an address at which nothing listens
	b.cut()
	for want := range map[string]bool{
		"tls with nats at 192.0.2.1: ":                                      true,
		"nats at 192.0.2.2 offers no TLS, and must use TLS because " + name: true,
	} {
		for text := range failed {
			if strings.Contains(text, want) {
				break
			}
		}
	}
	discovered := slices.Sorted(slices.Values(conn.DiscoveredServers()))
	if diff := cmp.Diff([]string{"nats://192.0.2.1:4222", "nats://192.0.2.2:4222"}, discovered); diff != "" {
		t.Errorf("the client of NATS knows other servers\n%s", diff)
	}
	if his.knows() || plain.knows() {
		t.Error("the credential was sent to an untrusted server")
	}
}

func TestConnect_TrustsServersNamedOverTLS(t *testing.T) {
	const other = "other.example.com"
	w := newWorld(t)
	cluster := server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: -1}
	first := startServer(t, w.certificate(t, name), func(o *server.Options) { o.Cluster = cluster })
	second := startServer(t, w.certificate(t, other), func(o *server.Options) {
		o.Cluster, o.ClientAdvertise = cluster, other+":4222"
		o.Routes = server.RoutesFromStr("nats://" + first.ClusterAddr().String())
	})
	b, c := intercept(t, first.Addr().String()), intercept(t, second.Addr().String())
	w.lead(name, b.address())
	w.lead(other, c.address())
	security, _ := w.security(nil)
	found, again := make(chan struct{}, 10), make(chan struct{}, 10)
	conn, err := w.connect(t, "nats://"+name, security, nats.DiscoveredServersHandler(func(*nats.Conn) { found <- struct{}{} }),
		nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	works(t, conn, err)
	for !slices.Contains(conn.DiscoveredServers(), "nats://"+other+":4222") {
		select {
		case <-found:
		case <-time.After(30 * time.Second):
			t.Fatalf("it knows %q alone", conn.DiscoveredServers())
		}
	}
	w.lead(name, "127.0.0.1:1") // an address at which nothing listens
	b.cut()
	<-again
	works(t, conn, nil)
	if b.knows() || c.knows() {
		t.Error("the credential was sent in the clear")
	}
}

func TestConnect_WarnsOfServersWithoutTLS(t *testing.T) {
	for host, warns := range map[string]bool{name: true, "192.0.2.1": true, "127.0.0.1": false, "localhost": false} {
		t.Run(host, func(t *testing.T) {
			w := newWorld(t)
			w.lead(host, startNATS(t, nil, nil))
			security, warned := w.security(nil)
			for range 2 {
				conn, err := w.connect(t, "nats://"+host, security)
				works(t, conn, err)
			}
			if got := warned.of("nats") != ""; got != warns {
				t.Errorf("a warning: %q", warned.of("nats"))
			}
			if got := strings.Count(warned.log.String(), "is not encrypted"); got != map[bool]int{true: 1}[warns] {
				t.Errorf("%d lines of the log\n%s", got, &warned.log)
			}
			if known, err := tlshosts.In(w.dir).Has("nats", host); known || err != nil {
				t.Errorf("the host is known to use TLS: %v, %v", known, err)
			}
		})
	}
}

func TestConnect_EndsItsWarning(t *testing.T) {
	w := newWorld(t)
	b := intercept(t, startNATS(t, w.certificate(t, name), nil))
	b.change(strip)
	w.lead(name, b.address())
	security, warned := w.security(nil)
	again := make(chan struct{}, 10)
	conn, err := w.connect(t, "nats://"+name, security, nats.ReconnectHandler(func(*nats.Conn) { again <- struct{}{} }))
	works(t, conn, err)
	if warned.of("nats") == "" {
		t.Error("there is no warning")
	}
	b.change(func(text string) string { return text })
	<-again
	if warned.of("nats") != "" {
		t.Errorf("the warning stays: %s", warned.of("nats"))
	}
}

func TestConnect_RequireTLS(t *testing.T) {
	yes, no := true, false
	public, err := url.Parse(DefaultServer)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url     string
		require *bool
		refused string // part of the error, or "" if the connection is not refused
	}{
		{"nats://127.0.0.1", nil, ""},
		{"nats://127.0.0.1", &yes, "require_tls is set"},
		{"nats://" + name, nil, ""},
		{"nats://" + name, &no, ""},
		{"nats://" + name, &yes, "require_tls is set"},
		{"tls://" + name, nil, "begins with tls://"},
		{"tls://" + name, &no, "begins with tls://"},
		{DefaultServer, nil, "it is Shopmonkey's own"},
		{DefaultServer, &no, ""},
		{"nats://CONNECT.nats.shopmonkey.pub.", nil, "it is Shopmonkey's own"},
		{"ws://" + name, &yes, "require_tls is set"},
	} {
		t.Run(fmt.Sprint(c.url, c.require), func(t *testing.T) {
			w := newWorld(t)
			b := intercept(t, startNATS(t, nil, nil))
			for _, host := range []string{name, "127.0.0.1", public.Hostname(), "CONNECT.nats.shopmonkey.pub."} {
				w.lead(host, b.address())
			}
			security, _ := w.security(c.require)
			conn, err := w.connect(t, c.url, security)
			if c.refused == "" {
				works(t, conn, err)
				return
			}
			if !errors.As(err, new(*InsecureError)) || !strings.Contains(err.Error(), c.refused) || b.knows() {
				t.Errorf("got %v; the credential was sent: %v", err, b.knows())
			}
		})
	}
}

// TestConnect_OptionalTLSWithAnUnknownAuthority: eds can use a private server without TLS if the
// server's authority is unknown.
func TestConnect_OptionalTLSWithAnUnknownAuthority(t *testing.T) {
	w := newWorld(t)
	stranger := newAuthority(t).certificate(t, name)
	optional := startNATS(t, stranger, nil)
	b := intercept(t, optional)
	b.change(half)
	w.lead(name, b.address())
	security, warned := w.security(nil)
	conn, err := w.connect(t, "nats://"+name, security)
	works(t, conn, err)
	if warned.of("nats") == "" {
		t.Error("there is no warning")
	}
	conn.Close()

	if err := tlshosts.In(w.dir).Add("nats", name); err != nil {
		t.Fatal(err)
	}
	fresh := intercept(t, optional)
	fresh.change(half)
	w.lead(name, fresh.address())
	security, _ = w.security(nil)
	if _, err := w.connect(t, "nats://"+name, security); !errors.As(err, new(*tls.CertificateVerificationError)) || fresh.knows() {
		t.Errorf("got %v; the credential was sent: %v", err, fresh.knows())
	}
}

// TestConnect_OptionalTLSThatEdsCannotUse: eds can use the servers without TLS. With TLS, the
// servers require a client certificate or an old version.
func TestConnect_OptionalTLSThatEdsCannotUse(t *testing.T) {
	for how, change := range map[string]func(*server.Options){
		"certificates of clients": func(o *server.Options) { o.TLSVerify, o.TLSConfig.ClientAuth = true, tls.RequireAndVerifyClientCert },
		"certificates of clients, TLS1.2": func(o *server.Options) {
			o.TLSVerify, o.TLSConfig.ClientAuth, o.TLSConfig.MaxVersion = true, tls.RequireAndVerifyClientCert, tls.VersionTLS12
		},
		"old versions": func(o *server.Options) {
			o.TLSConfig.MinVersion, o.TLSConfig.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		},
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			config := w.certificate(t, name)
			config.ClientCAs = w.roots()
			b := intercept(t, startNATS(t, config, change))
			w.lead(name, b.address())
			security, warned := w.security(nil)
			conn, err := w.connect(t, "nats://"+name, security)
			works(t, conn, err)
			if known, err := tlshosts.In(w.dir).Has("nats", name); known || err != nil || warned.of("nats") == "" {
				t.Errorf("TLS is required from now on: %v, %v; warned of: %q", known, err, warned.of("nats"))
			}

			if err := tlshosts.In(w.dir).Add("nats", name); err != nil {
				t.Fatal(err)
			}
			fresh := intercept(t, b.server)
			w.lead(name, fresh.address())
			security, _ = w.security(nil)
			if _, err := w.connect(t, "nats://"+name, security); err == nil || fresh.knows() {
				t.Errorf("got %v; the credential was sent in clear text: %v", err, fresh.knows())
			}
		})
	}
}

func TestConnect_NeverFallsBackFromRequiredTLS(t *testing.T) {
	w := newWorld(t)
	b := intercept(t, startNATS(t, newAuthority(t).certificate(t, name), func(o *server.Options) { o.AllowNonTLS = false }))
	w.lead(name, b.address())
	security, _ := w.security(nil)
	if _, err := w.connect(t, "nats://"+name, security); !errors.As(err, new(*tls.CertificateVerificationError)) || b.knows() {
		t.Errorf("got %v; the credential was sent: %v", err, b.knows())
	}
	// Nor does eds fall back if the server demands TLS only at the second attempt.
	var second sync.Once
	demand := func(text string) string { return text }
	b.change(func(text string) string {
		out := demand(text)
		second.Do(func() { out = strings.ReplaceAll(half(text), `"tls_required"`, `"tls_available":true,"tls_required"`) })
		return out
	})
	if _, err := w.connect(t, "nats://"+name, security); err == nil || b.knows() {
		t.Errorf("got %v; the credential was sent: %v", err, b.knows())
	}
}

func TestConnect_FailsIfBytesAreInsertedBeforeTheHandshake(t *testing.T) {
	w := newWorld(t)
	b := intercept(t, startNATS(t, w.certificate(t, name), func(o *server.Options) { o.AllowNonTLS = false }))
	b.change(func(text string) string { return text + "MSG eds.notify.s.shutdown 1 2\r\n{}\r\n" })
	w.lead(name, b.address())
	security, _ := w.security(nil)
	if _, err := w.connect(t, "nats://"+name, security); err == nil || b.knows() {
		t.Errorf("got %v; the credential was sent: %v", err, b.knows())
	}
}

func TestConnect_RefusesOtherGreetings(t *testing.T) {
	for _, text := range []string{
		"\n", "X\n", "INFO\n", "INFO x\n", "HTTP/1.1 400 Bad Request\r\n",
		"INFO {\"a\":\"" + strings.Repeat("x", maxGreeting) + "\"}\r\n", strings.Repeat("x", 100_000),
	} {
		w := newWorld(t)
		b := intercept(t, startNATS(t, nil, nil))
		b.change(func(string) string { return text })
		w.lead(name, b.address())
		security, _ := w.security(nil)
		if _, err := w.connect(t, "nats://"+name, security); !errors.Is(err, errNotNATS) || b.knows() {
			t.Errorf("%.40q: %v; the credential was sent: %v", text, err, b.knows())
		}
	}
}

func TestConnect_WebSockets(t *testing.T) {
	w := newWorld(t)
	listen := func(config *tls.Config) string {
		port := 0
		startNATS(t, nil, func(o *server.Options) {
			o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: freePort(t), NoTLS: config == nil, TLSConfig: config}
			port = o.Websocket.Port
		})
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	w.lead(name, listen(nil))
	security, warned := w.security(nil)
	conn, err := w.connect(t, "ws://"+name, security)
	works(t, conn, err)
	if warned.of("nats") == "" {
		t.Error("there is no warning")
	}
	w.lead(name, listen(w.certificate(t, name)))
	conn, err = w.connect(t, "wss://"+name, security)
	works(t, conn, err)
	if known, err := tlshosts.In(w.dir).Has("nats", name); !known || err != nil {
		t.Errorf("the host is known to use TLS: %v, %v", known, err)
	}
	security, _ = w.security(nil)
	if _, err := w.connect(t, "ws://"+name, security); !errors.As(err, new(*InsecureError)) {
		t.Errorf("got %v", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
