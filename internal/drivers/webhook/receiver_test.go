package webhook

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// receiver is an endpoint as a user might write it. It verifies signatures without code of eds, and
// keeps the changes.
type receiver struct {
	*httptest.Server
	t      testing.TB
	answer func(w http.ResponseWriter, body []byte) bool // returns false if it has written the response

	mu       sync.Mutex
	ids      []string
	requests []*http.Request
	lines    map[string][]string // accepted lines by path
	count    int
}

func newReceiver(t testing.TB) *receiver {
	e := &receiver{t: t, lines: make(map[string][]string)}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return // the request was cut off
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	e.verify(r, raw)
	text := raw
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err == nil {
			text, err = io.ReadAll(z)
		}
		if err != nil {
			e.t.Errorf("a compressed body: %v", err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, r)
	if e.answer != nil && !e.answer(w, text) {
		return
	}
	e.ids = append(e.ids, r.Header.Get("webhook-id"))
	e.lines[r.URL.Path] = append(e.lines[r.URL.Path], strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	w.WriteHeader(http.StatusNoContent)
}

// verify checks a signature as standardwebhooks.com defines it.
func (e *receiver) verify(r *http.Request, body []byte) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		e.t.Error(err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if got := r.Header.Get("webhook-signature"); got != want || r.Method != http.MethodPost ||
		r.Header.Get("Content-Type") != "application/x-ndjson" {
		e.t.Errorf("a %s of %s is signed %q, want %q", r.Method, r.Header.Get("Content-Type"), got, want)
	}
}

// taken returns the lines that the endpoint has accepted at a path.
func (e *receiver) taken(path string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.lines[path]...)
}

func (e *receiver) url(query string) string { return e.URL + "/in?secret=" + secret + query }
