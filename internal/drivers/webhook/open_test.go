package webhook

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
)

func TestOpen_RejectsBadURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"http://example.com/in":                    "https://",
		"https:///in":                              "https://host/path",
		"https://h/in#x":                           "https://host/path",
		"https://h/in?tenant=1":                    `unknown option "tenant"`,
		"https://h/in?eds-row=1&tenant=1":          `did you mean "rows"?`,
		"https://h/in?secret=whsec_HIDDEN%20":      "base64",
		"https://h/in?gzip=HIDDEN1":                "true or false",
		"https://h/in?timeout=5":                   "a duration",
		"https://h/in?rows=0":                      "from 1 to",
		"https://h/in?bytes=x":                     "from 1 to",
		"https://h/in?header=HIDDEN":               "Name:value",
		"https://h/in?header=A%20B:HIDDEN":         "Name:value",
		"https://h/in?header=webhook-id:HIDDEN":    "Webhook-Id",
		"https://h/in?header=authorization:HIDDEN": "secret-header",
		"https://h/in?header=A:x%0d%0aB:%20HIDDEN": "Name:value",
	} {
		_, err := openURL(t, raw)
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "HIDDEN ") ||
			strings.Contains(err.Error(), "HIDDEN:") {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func TestOpen_AllowsHTTPOnlyForLoopback(t *testing.T) {
	for host, own := range map[string]bool{
		"localhost": true, "LocalHost:80": true, "127.0.0.1": true, "127.5.5.5:80": true, "[::1]:80": true,
		"localhost.example.com": false, "127.0.0.1.example.com": false, "0.0.0.0": false, "[::]": false, "10.0.0.1": false, "127.1": false,
	} {
		_, err := openURL(t, "http://"+host+"/in")
		if own && err != nil || !own && (fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "https://")) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestApply_RejectsAnUntrustedCertificate(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	s := mustOpen(t, server.URL)
	for _, err := range []error{s.Apply(t.Context(), run(t, 1, 1)), s.Probe(t.Context())} {
		if fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "certificate is not trusted") {
			t.Errorf("got %v: %v", fault.Of(err), err)
		}
	}
}
