package eventhub

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// issue writes a self-signed certificate for localhost and its key to files, and returns their
// paths.
func issue(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "PRIVATE KEY", secret)
}

func writePEM(t testing.TB, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secureAddress adds a TLS listener for localhost to the namespace. It returns the address and the
// path of the certificate.
func secureAddress(t testing.TB) (address, certificate string) {
	t.Helper()
	certificate, key := issue(t)
	_, port, err := net.SplitHostPort(namespace.TLS(t, certificate, key))
	if err != nil {
		t.Fatal(err)
	}
	return "localhost:" + port, certificate
}

func TestOpen_VerifiesTheCertificate(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	address, certificate := secureAddress(t)
	at := func(address, query string) string {
		return strings.Replace(urlAt(address, hub.Name, query), ";UseDevelopmentEmulator=true", "", 1)
	}
	s := mustOpen(t, at(address, "?tls-ca="+certificate))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	wantOnce(t, hub, 1, 3)
	_, err := tryOpen(t, at(address, ""), env)
	if fault.Of(err) != fault.Fatal ||
		!strings.Contains(err.Error(), "not trusted; if a proxy or gateway has its own, name its authority with tls-ca=") {
		t.Errorf("an unknown certificate: %v: %v", fault.Of(err), err)
	}
	_, err = tryOpen(t, at(strings.Replace(address, "localhost", "127.0.0.1", 1), "?tls-ca="+certificate), env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "certificate is for another name") {
		t.Errorf("a certificate for another name: %v: %v", fault.Of(err), err)
	}
}

func TestApply_OverWebSockets(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{Max: 20 << 20})
	s := mustOpen(t, urlAt(namespace.WebSocket, hub.Name, "?transport=websockets"))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	large := sinktest.Event(t, 31, fmt.Sprintf(`{"operation":"UPDATE","id":"ev31","table":"order","key":["k1"],"companyId":"c",`+
		`"after":{"id":"k1","x":%q},"mvccTimestamp":"1"}`, strings.Repeat("x", 3<<20)))
	sinktest.Apply(t, s, sinktest.Batch(large))
	hub.Fail(t, peer.Fault{Kind: "close", Condition: "amqp:connection:forced", After: 1, Times: 1})
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 32, 60))
	wantInOrder(t, hub, 1, 60)

	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	_, err := tryOpen(t, urlAt(web.Listener.Addr().String(), hub.Name, "?transport=websockets"), env)
	if err == nil || !strings.Contains(err.Error(), "open a WebSocket: the server answers 404 Not Found") {
		t.Errorf("no WebSockets there: %v", err)
	}
}

// TestApply_OverWebSocketsUsesTheProxy checks that connections go through the proxy that option
// proxy names.
func TestApply_OverWebSocketsUsesTheProxy(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	var mu sync.Mutex
	asked := 0
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = namespace.WebSocket }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked++
		mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	s := mustOpen(t, urlAt("namespace.invalid:80", hub.Name, "?transport=websockets&proxy="+proxy.URL))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	wantOnce(t, hub, 1, 3)
	mu.Lock()
	defer mu.Unlock()
	if asked != 2 { // one connection to probe and one to send
		t.Errorf("the proxy was asked %d times", asked)
	}
}

func TestParseProxy_HonoursTheEnvironment(t *testing.T) {
	environment := func(name string) (string, bool) {
		value, ok := map[string]string{"https_proxy": "http://u:p@proxy:3128", "NO_PROXY": ".inside.example"}[name]
		return value, ok
	}
	for option, hosts := range map[string]map[string]string{
		"":               {"ns.servicebus.windows.net": "http://u:p@proxy:3128", "ns.inside.example": ""},
		"http://other:1": {"ns.servicebus.windows.net": "http://other:1", "ns.inside.example": "http://other:1"},
		"none":           {"ns.servicebus.windows.net": ""},
	} {
		choose, err := parseProxy(option, environment)
		if err != nil {
			t.Fatal(err)
		}
		for host, want := range hosts {
			got := ""
			if choose != nil {
				u, err := choose(&http.Request{URL: &url.URL{Scheme: "wss", Host: host}})
				if err != nil {
					t.Fatal(err)
				}
				if u != nil {
					got = u.String()
				}
			}
			if got != want {
				t.Errorf("proxy=%s: %s is reached by %q, want %q", option, host, got, want)
			}
		}
	}
}

// entra is a fake of Entra ID for clients with a secret, a certificate or a federated token.
type entra struct {
	token  string
	status int // status of replies to token requests; 0 means 200
	err    error
	forms  []url.Values
}

func (e *entra) Do(r *http.Request) (*http.Response, error) {
	if e.err != nil {
		return nil, e.err
	}
	const authority = "https://login.microsoftonline.com/tenant"
	body, status := "", http.StatusOK
	switch {
	case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
		body = `{"tenant_discovery_endpoint":"` + authority +
			`/v2.0/.well-known/openid-configuration","metadata":[{"preferred_network":"login.microsoftonline.com",` +
			`"preferred_cache":"login.windows.net","aliases":["login.microsoftonline.com"]}]}`
	case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
		body = `{"token_endpoint":"` + authority + `/oauth2/v2.0/token","authorization_endpoint":"` + authority +
			`/oauth2/v2.0/authorize","issuer":"` + authority + `/v2.0"}`
	default:
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		form, err := url.ParseQuery(string(text))
		if err != nil {
			return nil, err
		}
		e.forms = append(e.forms, form)
		body = `{"access_token":"` + e.token + `","token_type":"Bearer","expires_in":3600}`
		if e.status != 0 {
			status = e.status
			body = `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret SECRET provided."}`
		}
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewBufferString(body)), Request: r,
	}, nil
}

// TestEntraID_Tokens sends with each kind of credential that requests tokens over HTTP.
func TestEntraID_Tokens(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	address, authority := secureAddress(t)
	federated := filepath.Join(t.TempDir(), "federated")
	if err := os.WriteFile(federated, []byte("federated"), 0o600); err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{
		"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "SECRET",
		"AZURE_CLIENT_CERTIFICATE_PATH": clientCertificate(t), "AZURE_FEDERATED_TOKEN_FILE": federated,
	}
	environment := func(name string) (string, bool) {
		value, ok := variables[name]
		return value, ok
	}
	opened := func(auth string, e *entra) *Sink {
		target := parsed(t, "eventhub://"+address+"/"+hub.Name+"?tls-ca="+authority+"&auth="+auth)
		c, err := parse(target, environment)
		if err != nil {
			t.Fatal(err)
		}
		v, err := sink.ParseOptions(target, options)
		if err != nil {
			t.Fatal(err)
		}
		id := identityOf(v, environment)
		c.credential = newLazyCredential(func() (azcore.TokenCredential, error) {
			return id.credential(auth, azcore.ClientOptions{Transport: e, Retry: policy.RetryOptions{MaxRetries: -1}})
		})
		s := newSink(c, env.Complete())
		t.Cleanup(func() { _ = s.Close(t.Context()) })
		return s
	}
	hub.Accept(t, "the token")
	n := 0
	for auth, field := range map[string]string{
		"client-secret": "client_secret", "client-certificate": "client_assertion",
		"workload-identity": "client_assertion",
	} {
		e := &entra{token: "the token"}
		s := opened(auth, e)
		if err := s.Probe(t.Context()); err != nil {
			t.Errorf("auth=%s: %v", auth, err)
			continue
		}
		s.env.Adjusted = func(_, _, _ string) {}
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, n+1, n+3))
		n += 3
		if len(e.forms) != 1 || e.forms[0].Get(field) == "" || e.forms[0].Get("client_id") != "client" ||
			!strings.Contains(e.forms[0].Get("scope"), "eventhubs.azure.net") {
			t.Errorf("auth=%s: Entra ID was asked %v", auth, e.forms)
		}
	}
	wantOnce(t, hub, 1, n)
	for what, c := range map[string]struct {
		e     *entra
		class fault.Class
		want  string
	}{
		"a token without the role": {&entra{token: "SECRET"}, fault.Fatal, "role Azure Event Hubs Data Sender"},
		"a wrong secret": {&entra{status: 401}, fault.Fatal, "refuses the identity; check AZURE_TENANT_ID, AZURE_CLIENT_ID and " +
			"its secret or certificate (AADSTS7000215)"},
		"a failure of Entra ID": {&entra{status: 503}, fault.Transient, "gives no token now"},
		"no Entra ID":           {&entra{err: &net.OpError{Op: "dial", Err: errors.New("SECRET")}}, fault.Transient, "Entra ID"},
	} {
		err := opened("client-secret", c.e).Probe(t.Context())
		if fault.Of(err) != c.class || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v: %v", what, fault.Of(err), err)
		}
	}
}

// clientCertificate writes an RSA certificate and its key to one file.
func clientCertificate(t testing.TB) string {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"},
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := writePEM(t, "CERTIFICATE", der)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCredentials_AreCreatedOnFirstUse checks that an unusable credential is reported on first use,
// not earlier.
func TestCredentials_AreCreatedOnFirstUse(t *testing.T) {
	environment := func(name string) (string, bool) {
		value, ok := map[string]string{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_CERTIFICATE_PATH": "/nope"}[name]
		return value, ok
	}
	for _, auth := range []string{"managed-identity", "managed-identity&client-id=x", "azure-cli", "default", "client-certificate"} {
		if _, err := parse(parsed(t, "eventhub://h/e?auth="+auth), environment); err != nil {
			t.Errorf("auth=%s: %v", auth, err)
		}
	}
	c, err := parse(parsed(t, "eventhub://h/e?auth=client-certificate"), environment)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.credential.GetToken(t.Context(), policy.TokenRequestOptions{})
	err = newHubSession(&c).classify(err)
	if fault.Of(err) != fault.Refused || !strings.Contains(err.Error(), "read AZURE_CLIENT_CERTIFICATE_PATH") {
		t.Errorf("%v: %v", fault.Of(err), err)
	}
}
