package s3

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// interceptor is a proxy in front of the server that answers some requests itself.
type interceptor struct {
	*httptest.Server
	answer atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	asked  atomic.Int64
}

func newInterceptor(t testing.TB) *interceptor {
	t.Helper()
	f := &interceptor{}
	server := peers.S3(t)
	forward := &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
		Rewrite: func(r *httputil.ProxyRequest) { // keep the host's name, which the signature covers
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", server.Addr(), r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		if answer := f.answer.Load(); answer != nil && (*answer)(w, r) {
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		f.Close()
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	return f
}

// set makes the interceptor call answer for each request. If answer returns true, it has answered
// the request. Otherwise the request goes to the server.
func (f *interceptor) set(answer func(w http.ResponseWriter, r *http.Request) bool) {
	f.answer.Store(&answer)
}

func (f *interceptor) passAll() { f.answer.Store(nil) }

func (f *interceptor) addr() string { return strings.TrimPrefix(f.URL, "http://") }

// refuse writes an error response in the form of S3.
func refuse(w http.ResponseWriter, r *http.Request, status int, code string) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("X-Amz-Request-Id", "REQUEST1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<Error><Code>%s</Code><Message>SECRET %s</Message></Error>`, code, r.URL.Path)
	return true
}
