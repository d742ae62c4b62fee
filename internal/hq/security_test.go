package hq_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// answers is an HQ that starts exports, and counts the requests that contain the key.
type answers struct{ keys atomic.Int64 }

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		a.keys.Add(1)
	}
	fmt.Fprint(w, `{"success":true,"data":{"jobId":"j"}}`)
}

// calling returns a client of the HQ at the given URL, as a new process would create it.
func calling(t *testing.T, base, dataDir string, require *bool, transport http.RoundTripper) (
	*hq.Client, *hq.Security, map[string]string, *strings.Builder,
) {
	t.Helper()
	warned, log := make(map[string]string), new(strings.Builder)
	security := &hq.Security{
		Require: require, Hosts: tlshosts.In(dataDir),
		Warn: func(peer, warning string) { warned[peer] = warning }, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	client := hq.New(hq.Options{
		BaseURL: base, Key: parseKey(t, `{}`), HTTP: &http.Client{Transport: transport}, Security: security, Patience: 1,
	})
	return client, security, warned, log
}

func TestClient_RefusesHTTPOnceHTTPSHasWorked(t *testing.T) {
	secure, plain, dir := new(answers), new(answers), t.TempDir()
	https := httptest.NewTLSServer(secure)
	defer https.Close()
	http := httptest.NewServer(plain)
	defer http.Close()
	for range 2 { // TLS still works
		c, _, _, _ := calling(t, https.URL, dir, nil, https.Client().Transport)
		if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	c, _, _, _ := calling(t, http.URL, dir, nil, http.Client().Transport)
	_, err := c.Patient().StartExport(t.Context(), hq.ExportRequest{})
	if !errors.As(err, new(*hq.InsecureError)) || fault.Of(err) != fault.Fatal ||
		!strings.Contains(err.Error(), "it has used TLS before") || plain.keys.Load() != 0 {
		t.Errorf("%v; %d requests had the key", err, plain.keys.Load())
	}
}

func TestClient_DoesNotRememberWhatFailed(t *testing.T) {
	dir := t.TempDir()
	https := httptest.NewUnstartedServer(new(answers))
	https.Config.ErrorLog = log.New(io.Discard, "", 0)
	https.StartTLS()
	defer https.Close()
	transport := new(http.Transport) // a transport that does not trust the certificate
	defer transport.CloseIdleConnections()
	c, _, _, _ := calling(t, https.URL, dir, nil, transport)
	if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); !errors.As(err, new(*tls.CertificateVerificationError)) {
		t.Fatalf("an untrusted certificate is accepted: %v", err)
	}
	if known, err := tlshosts.In(dir).Has("hq", "127.0.0.1"); known || err != nil {
		t.Errorf("a host that has shown no certificate is known: %v", err)
	}
}

func TestClient_WarnsOfHTTP(t *testing.T) {
	for host, warns := range map[string]bool{
		"hq.example.com": true, "192.0.2.1:3101": true, "localhost:3101": false, "127.0.0.1": false, "[::1]:80": false,
	} {
		plain := new(answers)
		c, _, warned, log := calling(t, "http://"+host, t.TempDir(), nil, handling(plain))
		for range 2 {
			if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
		if got := warned["hq"] != ""; got != warns {
			t.Errorf("%s: a warning: %q", host, warned["hq"])
		}
		if got := strings.Count(log.String(), "is not encrypted"); got != map[bool]int{true: 1}[warns] {
			t.Errorf("%s: %d lines of the log\n%s", host, got, log)
		}
	}
}

func TestClient_RequireTLS(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		url     string
		require *bool
		refused bool
	}{
		{"http://127.0.0.1", nil, false},
		{"http://127.0.0.1", &yes, true},
		{"http://hq.example.com", &no, false},
		{"http://hq.example.com", &yes, true},
		{"https://hq.example.com", &yes, false},
		{"http://api.shopmonkey.cloud", nil, true},
		{"http://SANDBOX-api.shopmonkey.cloud.:80", nil, true},
		{"http://api.shopmonkey.cloud", &no, false},
	} {
		plain := new(answers)
		client, _, _, _ := calling(t, c.url, t.TempDir(), c.require, handling(plain))
		_, err := client.StartExport(t.Context(), hq.ExportRequest{})
		if errors.As(err, new(*hq.InsecureError)) != c.refused || (plain.keys.Load() == 0) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v; %d requests had the key", c.url, err, plain.keys.Load())
		}
	}
}

// handlingFunc returns a transport that answers the requests to every host with h.
func handlingFunc(h http.HandlerFunc) http.RoundTripper { return handling(h) }

// handling returns a transport that answers the requests to every host with h.
func handling(h http.Handler) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		response := w.Result()
		response.Request = r
		return response, nil
	})
}

func TestClient_NeverTakesTheKeyFromHTTPSToHTTP(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{
			"http://hq.example.com/x", "http://hq.example.com:443/x", "http://sub.hq.example.com/x", "http://127.0.0.1/x",
			"HTTP://hq.example.com/",
		} {
			plain := new(answers)
			c, _, _, _ := calling(t, "https://hq.example.com", t.TempDir(), nil, handlingFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Scheme == "https" {
					http.Redirect(w, r, to, status)
					return
				}
				plain.ServeHTTP(w, r)
			}))
			if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err == nil || plain.keys.Load() != 0 {
				t.Errorf("%d to %s: %v; %d requests had the key", status, to, err, plain.keys.Load())
			}
		}
	}
}

func TestClient_FollowsOtherRedirects(t *testing.T) {
	hops := 0
	c, _, _, _ := calling(t, "https://hq.example.com", t.TempDir(), nil, handlingFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/there" {
			http.Redirect(w, r, "https://hq.example.com/there", http.StatusTemporaryRedirect)
			return
		}
		new(answers).ServeHTTP(w, r)
	}))
	if job, err := c.StartExport(t.Context(), hq.ExportRequest{}); err != nil || job != "j" {
		t.Errorf("%q, %v", job, err)
	}
	c, _, _, _ = calling(t, "https://hq.example.com", t.TempDir(), nil, handlingFunc(func(w http.ResponseWriter, r *http.Request) {
		hops++
		http.Redirect(w, r, "https://hq.example.com/", http.StatusTemporaryRedirect)
	}))
	if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err == nil || hops != 10 {
		t.Errorf("%v after %d requests", err, hops)
	}
}
