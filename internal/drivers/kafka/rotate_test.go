package kafka

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestPassword_IsReadAtEachConnection(t *testing.T) {
	cluster := newCluster(t, kfake.SeedTopics(1, "topic"), kfake.EnableSASL(), kfake.Superuser("PLAIN", "one", "first"),
		kfake.Superuser("PLAIN", "two", "second"))
	var refuse atomic.Bool // whether to refuse user one
	cluster.KeepControl()
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if r := request.(*kmsg.SASLAuthenticateRequest); !refuse.Load() || !bytes.Contains(r.SASLAuthBytes, []byte("one")) {
			return nil, nil, false
		}
		answer := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		answer.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return answer, nil, true
	})
	files := sinktest.NewRotation(t)
	files.Put("user", []byte("one"))
	files.Put("password", []byte("first"))
	raw := "kafka://" + files.Placeholder("user") + ":" + files.Placeholder("password") + "@" + cluster.ListenAddrs()[0] +
		"/topic?timeout=2s"
	opened, err := files.Open(Driver(), raw, env)
	files.Works("the first user", err)
	s := opened.(*Sink)
	files.Works("a batch", s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 3)))
	refuse.Store(true)
	s.drop(s.session) // as if its connections had ended
	files.Waits("new connections", s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)), "the brokers refuse the user or the password",
		"first")
	files.Put("user", []byte("two"))
	files.Put("password", []byte("second"))
	files.Works("the second user", s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)))
}

func TestCertificates_AreReadAtEachConnection(t *testing.T) {
	first, second := newTestCA(t), newTestCA(t)
	var config atomic.Pointer[tls.Config]
	serve := func(a *testCA) {
		_, _, pair := a.issue("server", net.IPv4(127, 0, 0, 1))
		clients := x509.NewCertPool()
		clients.AddCert(a.cert)
		config.Store(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients})
	}
	serve(first)
	cluster := newCluster(t, kfake.SeedTopics(1, "topic"),
		kfake.TLS(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config.Load(), nil }}))
	files := sinktest.NewRotation(t)
	put := func(name, path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files.Put(name, text)
	}
	put("authority", filepath.Join(first.dir, "ca.pem"))
	certificate, key, _ := first.issue("client", net.IPv4(127, 0, 0, 1))
	put("certificate", certificate)
	put("key", key)
	raw := "kafka://" + cluster.ListenAddrs()[0] + "/topic?timeout=2s&tls=true&tls-ca=" + files.Path("authority") + "&tls-cert=" +
		files.Path("certificate") + "&tls-key=" + files.Path("key")
	opened, err := files.Open(Driver(), raw, env)
	files.Works("the first certificates", err)
	s := opened.(*Sink)
	files.Works("a batch", s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 3)))

	serve(second)
	s.drop(s.session) // as if its connections had ended
	apply := func() error { return s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)) }
	files.Waits("another server's certificate", apply(), "the broker's certificate is not trusted")
	put("authority", filepath.Join(second.dir, "ca.pem"))
	files.WaitsEventually("the first client's certificate", apply, "the broker refuses the TLS connection")
	certificate, key, _ = second.issue("client", net.IPv4(127, 0, 0, 1))
	put("certificate", certificate)
	files.Waits("half of the pair", apply(), "hold no certificate with its key")
	put("key", key)
	files.Works("the second certificates", apply())
}
