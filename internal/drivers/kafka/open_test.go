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

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// TestBadURLsAreRefusedWithWhatToChange: none of them gets as far as a broker.
func TestBadURLsAreRefusedWithWhatToChange(t *testing.T) {
	for raw, want := range map[string]string{
		"kafka://h:9092":                                            "names no topic",
		"kafka:///topic":                                            "should name brokers like",
		"kafka://h:0/topic":                                         "should name brokers like",
		"kafka://h:9092,:1/topic":                                   "should name brokers like",
		"kafka://h/a/b":                                             "slash",
		"kafka://h/t%C3%B6pic":                                      "letters, digits and . _ - only",
		"kafka://h/.":                                               "letters, digits and . _ - only",
		"kafka://h/{{.tabel}}":                                      `topic template: a change has no field "tabel"`,
		"kafka://h/{{.table":                                        "topic template",
		"kafka://h/one?topic=two":                                   "leave one out",
		"kafka://h/t#x":                                             "write # as %23",
		"kafka://h/t?key=rows":                                      `did you mean "row"?`,
		"kafka://h/t?format=avro":                                   "eds, flat or debezium",
		"kafka://h/t?compress=zst":                                  `did you mean "zstd"?`,
		"kafka://h/t?linger=5":                                      "a duration like",
		"kafka://h/t?timeout=1ms":                                   "from 100ms to 1h",
		"kafka://h/t?transactional=yes":                             "true or false",
		"kafka://h/t?headers=1":                                     "true or false",
		"kafka://h/t?create-topics=maybe":                           "true or false",
		"kafka://h/t?partitions=3":                                  "needs create-topics=true",
		"kafka://h/t?create-topics=true&partitions=0":               "from 1 to 100000",
		"kafka://h/t?create-topics=true&replication=x":              "from 1 to 1000",
		"kafka://h/t?acks=1":                                        `unknown option "acks"`,
		"kafka://h/t?tls=yes":                                       "false, true or skip-verify",
		"kafka://h/t?tls-ca=/nope":                                  "need tls=true",
		"kafka://h/t?tls=true&tls-ca=/nope":                         "read tls-ca",
		"kafka://h/t?tls=true&tls-cert=/nope":                       "go together",
		"kafka://h/t?tls=true&tls-cert=/n&tls-key=/n":               "read tls-cert and tls-key",
		"kafka://h/t?auth=kerberos":                                 "plain, scram-sha-256",
		"kafka://h/t?auth=scram-sha-256":                            "needs a user and a password",
		"kafka://HIDDEN@h/t":                                        "needs a user and a password",
		"kafka://h/t?token=HIDDEN":                                  "needs auth=oauthbearer",
		"kafka://h/t?auth=oauthbearer":                              "token, token-file and token-url",
		"kafka://h/t?auth=oauthbearer&token-file=/nope":             "read token-file",
		"kafka://u:HIDDEN@h/t?auth=oauthbearer&token-url=http://x/": "https://",
		"kafka://h/t?auth=oauthbearer&token-url=https://x/":         "client id and secret",
		"kafka://h/t?auth=aws-msk-iam":                              "needs tls=true",
		"kafka://h/t?auth=aws-msk-iam&tls=true":                     "needs brokers of MSK",
		"kafka://b-1.x.kafka.eu-west-1.amazonaws.com/t?auth=aws-msk-iam&tls=true": "AWS_ACCESS_KEY_ID",
	} {
		_, err := tryOpen(t, raw, env)
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HIDDEN") {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func TestManyBrokersAreReadAsTheyAreWritten(t *testing.T) {
	for list, want := range map[string]string{
		"a": "a:9092", "a,b:1": "a:9092 b:1", "a:9092,b:9093,c:9094": "a:9092 b:9093 c:9094", "[::1]:9092": "[::1]:9092", "[::1],10.0.0.1": "[::1]:9092 10.0.0.1:9092",
	} {
		got, err := parseBrokers(list)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", list, got, err)
		}
	}
}

func TestFieldsMakeAURL(t *testing.T) {
	for _, c := range []struct {
		host, port, topic string
		want              string // a URL, or the fields that are wrong
	}{
		{"broker.example.com", "9093", "eds", "kafka://broker.example.com:9093/eds"},
		{" broker ", "", " eds.changes ", "kafka://broker:9092/eds.changes"},
		{"::1", "9092", "t", "kafka://[::1]:9092/t"},
		{"h", "9092", "eds.{{.table}}", "kafka://h:9092/eds.%7B%7B.table%7D%7D"},
		{"h:1", "", "t", "kafka://[h:1]:9092/t"},
		{"kafka://h", "", "t", "Hostname"},
		{"h", "x", "a b", "Port Topic"},
		{"h", "70000", "", "Port Topic"},
	} {
		got, problems := urlOf(map[string]string{"Hostname": c.host, "Port": c.port, "Topic": c.topic})
		var wrong []string
		for _, p := range problems {
			wrong = append(wrong, p.Field)
		}
		if got+strings.Join(wrong, " ") != c.want {
			t.Errorf("%+v: %q, %+v", c, got, problems)
		}
	}
}

func TestWhatIsNotThereIsNoticedAtOpen(t *testing.T) {
	cluster := newCluster(t)
	addr := cluster.ListenAddrs()[0]
	_, err := tryOpen(t, "kafka://"+addr+"/missing", env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), `topic "missing": the topic does not exist; make it, or add create-topics=true`) {
		t.Errorf("a missing topic: %v", err)
	}
	if _, err := tryOpen(t, "kafka://"+addr+"/made?create-topics=true&partitions=2&replication=1", env); err != nil {
		t.Errorf("a topic that may be made: %v", err)
	}
	if n := len(cluster.PartitionInfos("made")); n != 2 {
		t.Errorf("it was made with %d partitions, want 2", n)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	_, err = tryOpen(t, "kafka://"+closed.Addr().String()+"/topic?timeout=500ms", env)
	if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), closed.Addr().String()) {
		t.Errorf("nobody there: %v: %v", fault.Of(err), err)
	}
}

func TestATopicThatVanishesIsReported(t *testing.T) {
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/{{.table}}")
	err := s.Apply(t.Context(), run(t, 1, 3))
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), `topic "order": the topic does not exist`) {
		t.Errorf("a table whose topic is missing: %v: %v", fault.Of(err), err)
	}
	s = mustOpen(t, raw)
	mustApply(t, s, run(t, 1, 3))
	if err := cluster.DeleteTopic("topic"); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), run(t, 4, 6)); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "make it") {
		t.Errorf("a topic that was deleted: %v: %v", fault.Of(err), err)
	}
}

func TestCredentials(t *testing.T) {
	cluster := newCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "plain", "p@ss"), kfake.Superuser("SCRAM-SHA-256", "short", "p@ss"), kfake.Superuser("SCRAM-SHA-512", "long", "p@ss"))
	if err := cluster.CreateTopic("topic", 1, nil); err != nil {
		t.Fatal(err)
	}
	at := "@" + cluster.ListenAddrs()[0] + "/topic?timeout=2s"
	for _, ok := range []string{"plain:p%40ss" + at, "plain:p%40ss" + at + "&auth=plain", "short:p%40ss" + at + "&auth=scram-sha-256", "long:p%40ss" + at + "&auth=scram-sha-512"} {
		s, err := tryOpen(t, "kafka://"+ok, env)
		if err != nil {
			t.Errorf("%s: %v", ok, err)
			continue
		}
		mustApply(t, s, run(t, 1, 3))
	}
	for _, bad := range []string{"plain:SECRET" + at, "nobody:SECRET" + at, "short:SECRET" + at + "&auth=scram-sha-256", "long:SECRET" + at + "&auth=scram-sha-512", at[1:] + "&auth=oauthbearer&token=SECRET"} {
		if _, err := tryOpen(t, "kafka://"+bad, env); err == nil || !strings.Contains(err.Error(), "auth") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := tryOpen(t, "kafka://"+at[1:], env); err == nil || !strings.Contains(err.Error(), "SASL") {
		t.Errorf("without credentials: %v", err)
	}
	// These brokers hang up on wrong credentials. Kafka's own say so.
	cluster.KeepControl()
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		answer.ErrorCode, answer.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("no SECRET")
		return answer, nil, true
	})
	_, err := tryOpen(t, "kafka://plain:SECRET"+at, env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "refuse the user or the password") || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("wrong credentials: %v: %v", fault.Of(err), err)
	}
}

func TestPermissions(t *testing.T) {
	allow := func(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	cluster := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, "topic"),
		kfake.User("PLAIN", "reader", "p", allow(kmsg.ACLResourceTypeTopic, "topic", kmsg.ACLOperationRead)),
		kfake.User("PLAIN", "writer", "p", allow(kmsg.ACLResourceTypeTopic, "topic", kmsg.ACLOperationWrite), allow(kmsg.ACLResourceTypeCluster, "kafka-cluster", kmsg.ACLOperationIdempotentWrite)),
		kfake.User("PLAIN", "nobody", "p"))
	at := ":p@" + cluster.ListenAddrs()[0] + "/topic?timeout=2s"
	for user, want := range map[string]string{"reader": "WRITE", "nobody": "DESCRIBE"} {
		_, err := tryOpen(t, "kafka://"+user+at, env)
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "may not write to the topic") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v: %v", user, fault.Of(err), err)
		}
	}
	s, err := tryOpen(t, "kafka://writer"+at, env)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, run(t, 1, 3))
	_, err = tryOpen(t, "kafka://writer"+strings.Replace(at, "/topic?", "/other?create-topics=true&", 1), env)
	if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "CREATE") {
		t.Errorf("a topic that the user may not make: %v", err)
	}
}

// authority issues certificates for tests.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
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

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue writes a certificate and its key, and returns both.
func (a *authority) issue(name string, ip net.IP) (cert, key string, pair tls.Certificate) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
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

func TestEncryption(t *testing.T) {
	a := newAuthority(t)
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
	other := httptest.NewServer(http.NotFoundHandler()) // it answers in the clear
	t.Cleanup(other.Close)
	clear := "kafka://" + other.Listener.Addr().String() + "/topic?timeout=2s"
	for _, ok := range []string{open + "&tls=true&tls-ca=" + ca, open + "&tls=skip-verify", misnamed + "&tls=skip-verify", mutual + "&tls=true&tls-ca=" + ca + "&tls-cert=" + cert + "&tls-key=" + key} {
		s, err := tryOpen(t, ok, env)
		if err != nil {
			t.Errorf("%s: %v", ok, err)
			continue
		}
		mustApply(t, s, run(t, 1, 3))
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

// initial returns what a mechanism first says to a broker.
func initial(t testing.TB, raw, broker string, lookup sink.Lookup) string {
	t.Helper()
	u := parsed(t, raw)
	mechanism, err := parseAuth(u, []string{u.Host}, true, lookup)
	if err != nil {
		t.Fatal(err)
	}
	_, said, err := mechanism.Authenticate(t.Context(), broker+":9098")
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

func TestMSKCredentialsComeFromTheURLOrTheEnvironment(t *testing.T) {
	const host = "b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com"
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "session"}[name]
		return v, ok
	}
	for raw, want := range map[string][]string{
		"kafka://" + host + ":9098/t?auth=aws-msk-iam":              {"AKENV/", "/eu-west-1/kafka-cluster/aws4_request", `"session"`, host},
		"kafka://AKURL:secret@" + host + ":9098/t?auth=aws-msk-iam": {"AKURL/", "/eu-west-1/kafka-cluster/aws4_request"},
	} {
		said := initial(t, raw, host, lookup)
		for _, part := range want {
			if !strings.Contains(said, part) {
				t.Errorf("%s says %s, which lacks %s", raw, said, part)
			}
		}
	}
}

func TestTokens(t *testing.T) {
	asked := 0
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		id, secret, _ := r.BasicAuth()
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || r.Form.Get("grant_type") != "client_credentials" || r.Form.Get("scope") != "kafka" {
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
		if said := initial(t, raw, "h", nil); !strings.Contains(said, want+"\x01") {
			t.Errorf("%s says %q, want %q", raw, said, want)
		}
	}
	u := parsed(t, "kafka://id:wrong@h/t?auth=oauthbearer&token-scope=kafka&token-url="+endpoint.URL)
	mechanism, err := parseAuth(u, []string{"h:9092"}, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = mechanism.Authenticate(t.Context(), "h")
	if fault.Of(err) != fault.Fatal || strings.Contains(err.Error(), "SECRET") || asked != 2 {
		t.Errorf("wrong credentials, %d requests: %v", asked, err)
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"kafka://a:1,b:2/t", "kafka://u:p@h/{{.table}}?key=row&format=flat", "kafka://h/t?auth=oauthbearer&token=x&linger=1s", "kafka://[::1]/{{index .key 1}}"} {
		f.Add(seed)
	}
	e := numbered(f, 1)
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
		if err != nil || strings.Contains(raw, "-file") || strings.Contains(raw, "tls-") {
			return // files are not for a fuzzer to choose
		}
		c, err := parse(target, nil)
		if err != nil {
			return
		}
		for _, broker := range c.brokers {
			if host, port, err := net.SplitHostPort(broker); err != nil || host == "" || port == "" {
				t.Errorf("broker %q of %q", broker, raw)
			}
		}
		topic, err := c.topic.of(e, make(map[string]string))
		if err != nil {
			if fault.Of(err) != fault.Poison {
				t.Errorf("topic of %q: %v", raw, err)
			}
			return
		}
		if topic == "" || len(topic) > maxTopic || legal(topic) != topic {
			t.Errorf("topic %q of %q", topic, raw)
		}
	})
}
