package kafka

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestOpen_SignsIn(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "plain", "p@ss"), kfake.Superuser("SCRAM-SHA-256", "short",
		"p@ss"), kfake.Superuser("SCRAM-SHA-512", "long", "p@ss"))
	if err := cluster.CreateTopic("topic", 1, nil); err != nil {
		t.Fatal(err)
	}
	at := "@" + cluster.ListenAddrs()[0] + "/topic?timeout=2s"
	for _, ok := range []string{
		"plain:p%40ss" + at, "plain:p%40ss" + at + "&auth=plain", "short:p%40ss" + at + "&auth=scram-sha-256",
		"long:p%40ss" + at + "&auth=scram-sha-512",
	} {
		s, err := tryOpen(t, "kafka://"+ok, env)
		if err != nil {
			t.Errorf("%s: %v", ok, err)
			continue
		}
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	}
	for _, bad := range []string{"plain:SECRET" + at, "unknown:SECRET" + at, "short:SECRET" + at + "&auth=scram-sha-256", "long:SECRET" +
		at + "&auth=scram-sha-512", at[1:] + "&auth=oauthbearer&token=SECRET"} {
		// These brokers close the connection on wrong credentials, so the error depends on how far
		// the last attempt got before the timeout.
		if _, err := tryOpen(t, "kafka://"+bad, env); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := tryOpen(t, "kafka://"+at[1:], env); err == nil || !strings.Contains(err.Error(), "SASL") {
		t.Errorf("without credentials: %v", err)
	}
	// Kafka's own brokers return an error code instead.
	cluster.KeepControl()
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		answer.ErrorCode, answer.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("no SECRET")
		return answer, nil, true
	})
	_, err := tryOpen(t, "kafka://plain:SECRET"+at, env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "refuse the user or the password") ||
		strings.Contains(err.Error(), "SECRET") {
		t.Errorf("wrong credentials: %v: %v", fault.Of(err), err)
	}
}

func TestOpen_ChecksPermissions(t *testing.T) {
	allow := func(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	cluster := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, "topic"),
		kfake.User("PLAIN", "reader", "p", allow(kmsg.ACLResourceTypeTopic, "topic", kmsg.ACLOperationRead)),
		kfake.User("PLAIN", "writer", "p", allow(kmsg.ACLResourceTypeTopic, "topic", kmsg.ACLOperationWrite),
			allow(kmsg.ACLResourceTypeCluster, "kafka-cluster", kmsg.ACLOperationIdempotentWrite)),
		kfake.User("PLAIN", "unknown", "p"))
	at := ":p@" + cluster.ListenAddrs()[0] + "/topic?timeout=2s"
	for user, want := range map[string]string{"reader": "WRITE", "unknown": "DESCRIBE"} {
		_, err := tryOpen(t, "kafka://"+user+at, env)
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "may not write to the topic") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: %v", user, fault.Of(err), err)
		}
	}
	s, err := tryOpen(t, "kafka://writer"+at, env)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	_, err = tryOpen(t, "kafka://writer"+strings.Replace(at, "/topic?", "/other?create-topics=true&", 1), env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "CREATE") {
		t.Errorf("a topic that the user may not create: %v", err)
	}
}

// testCA is a certificate authority for tests.
type testCA struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	a := &testCA{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *testCA) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue writes a certificate and its key to files. It returns the paths, and the two as a pair.
func (a *testCA) issue(name string, ip net.IP) (cert, key string, pair tls.Certificate) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{ip}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", secret)
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pair
}

func TestOpen_VerifiesTheCertificate(t *testing.T) {
	a := newTestCA(t)
	ca := filepath.Join(a.dir, "ca.pem")
	cert, key, _ := a.issue("client", net.IPv4(127, 0, 0, 1))
	_, _, server := a.issue("server", net.IPv4(127, 0, 0, 1))
	_, _, elsewhere := a.issue("elsewhere", net.IPv4(192, 0, 2, 1))
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	serve := func(config *tls.Config) string {
		c := newCluster(t, kfake.TLS(config), kfake.SeedTopics(1, "topic"))
		return "kafka://" + c.ListenAddrs()[0] + "/topic?timeout=2s"
	}
	open := serve(&tls.Config{Certificates: []tls.Certificate{server}})
	mutual := serve(&tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients})
	misnamed := serve(&tls.Config{Certificates: []tls.Certificate{elsewhere}})
	other := httptest.NewServer(http.NotFoundHandler()) // answers without TLS
	t.Cleanup(other.Close)
	clear := "kafka://" + other.Listener.Addr().String() + "/topic?timeout=2s"
	for _, ok := range []string{
		open + "&tls=true&tls-ca=" + ca, open + "&tls=skip-verify", misnamed + "&tls=skip-verify",
		mutual + "&tls=true&tls-ca=" + ca + "&tls-cert=" + cert + "&tls-key=" + key,
	} {
		s, err := tryOpen(t, ok, env)
		if err != nil {
			t.Errorf("%s: %v", ok, err)
			continue
		}
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	}
	for raw, want := range map[string]string{
		open + "&tls=true":                  "tls-ca=",
		misnamed + "&tls=true&tls-ca=" + ca: "another name",
		mutual + "&tls=true&tls-ca=" + ca:   "tls-cert=",
		clear + "&tls=true":                 "does not speak TLS",
	} {
		_, err := tryOpen(t, raw, env)
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: %v", raw, fault.Of(err), err)
		}
	}
	if _, err := tryOpen(t, open, env); err == nil || !strings.Contains(err.Error(), "tls=") {
		t.Errorf("without encryption: %v", err)
	}
}

// mechanismOf returns the SASL mechanism for a URL with one broker.
func mechanismOf(t testing.TB, raw string) sasl.Mechanism {
	t.Helper()
	u := parsed(t, raw)
	v, err := sink.ParseOptions(u, options)
	if err != nil {
		t.Fatal(err)
	}
	mechanism, err := parseAuth(v, u.User, []string{u.Host}, true)
	if err != nil {
		t.Fatal(err)
	}
	return mechanism
}

// initial returns the first message that a mechanism sends to a broker.
func initial(t testing.TB, raw, broker string) string {
	t.Helper()
	_, said, err := mechanismOf(t, raw).Authenticate(t.Context(), broker+":9098")
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

const mskBroker = "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"

// TestMSK_TakesCredentialsFromTheURLOrTheSDK gives the SDK its credentials in the environment,
// which the SDK reads first.
func TestMSK_TakesCredentialsFromTheURLOrTheSDK(t *testing.T) {
	says := func(t *testing.T, user string, want ...string) {
		t.Helper()
		said := initial(t, "kafka://"+user+mskBroker+":9098/t?auth=aws-msk-iam", mskBroker)
		for _, part := range want {
			if !strings.Contains(said, part) {
				t.Errorf("it says %s, which lacks %s", said, part)
			}
		}
	}
	t.Run("the url", func(t *testing.T) {
		says(t, "AKURL:secret@", "AKURL/", "/eu-west-1/kafka-cluster/aws4_request")
	})
	t.Run("the environment", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "AKENV")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
		t.Setenv("AWS_SESSION_TOKEN", "session")
		says(t, "", "AKENV/", "/eu-west-1/kafka-cluster/aws4_request", `"session"`, mskBroker)
	})
	t.Run("a profile", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(file, []byte("[shop]\naws_access_key_id = AKPROFILE\naws_secret_access_key = s\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		t.Setenv("AWS_PROFILE", "shop")
		says(t, "", "AKPROFILE/")
	})
	t.Run("the role of a container", func(t *testing.T) {
		agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "pod-token" {
				http.Error(w, "who are you?", http.StatusForbidden)
				return
			}
			_, _ = w.Write([]byte(`{"AccessKeyId":"AKROLE","SecretAccessKey":"s","Token":"role-session",` +
				`"Expiration":"2099-01-01T00:00:00Z"}`))
		}))
		t.Cleanup(agent.Close)
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
		says(t, "", "AKROLE/", `"role-session"`)
	})
}

// TestMSK_ReportsMissingCredentials checks that the error says where to put credentials.
func TestMSK_ReportsMissingCredentials(t *testing.T) {
	mechanism := mechanismOf(t, "kafka://"+mskBroker+":9098/t?auth=aws-msk-iam")
	_, _, err := mechanism.Authenticate(t.Context(), mskBroker+":9098")
	if fault.Of(err) != fault.Refused || !strings.Contains(err.Error(), "there are no AWS credentials: put them in the kafka url") {
		t.Errorf("without any: %v", err)
	}
}

func TestOAuth_Tokens(t *testing.T) {
	asked := 0
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		id, secret, _ := r.BasicAuth()
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.Form.Get("grant_type") != "client_credentials" ||
			r.Form.Get("scope") != "kafka" {
			t.Errorf("asked by %s with %v: %v", r.Method, r.Form, err)
		}
		if id != "id" || secret != "p%40ss" {
			http.Error(w, `{"error":"SECRET"}`, http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"access_token":"granted","token_type":"bearer"}`))
	}))
	t.Cleanup(endpoint.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"kafka://h/t?auth=oauthbearer&token=given":                                           "auth=Bearer given",
		"kafka://h/t?auth=oauthbearer&token-file=" + file:                                    "auth=Bearer from-file",
		"kafka://id:p%40ss@h/t?auth=oauthbearer&token-scope=kafka&token-url=" + endpoint.URL: "auth=Bearer granted",
	} {
		if said := initial(t, raw, "h"); !strings.Contains(said, want+"\x01") {
			t.Errorf("%s says %q, want %q", raw, said, want)
		}
	}
	mechanism := mechanismOf(t, "kafka://id:wrong@h/t?auth=oauthbearer&token-scope=kafka&token-url="+endpoint.URL)
	_, _, err := mechanism.Authenticate(t.Context(), "h")
	if fault.Of(err) != fault.Refused || strings.Contains(err.Error(), "SECRET") || asked != 2 {
		t.Errorf("wrong credentials, %d requests: %v", asked, err)
	}
}
