package snowflake

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Timeouts of requests that belong to no running call. The driver sends such requests to cancel a
// statement or end the session after the caller has given up (graceTime), and to keep an idle
// session alive (idleTime).
const (
	graceTime = 2 * time.Second
	idleTime  = time.Minute
)

// transport sends the HTTP requests of one session. When a call of eds ends, transport cancels the
// requests that belong to the call. This is necessary because Snowflake's driver sends some
// requests, such as uploads, without the context of the call, and waits up to a quarter of an hour
// for the responses.
type transport struct {
	base *http.Transport

	mu       sync.Mutex
	idle     *sync.Cond
	call     *boundCall  // the current call, or nil between calls
	inFlight int         // the number of requests without a response
	refusal  httpRefusal // from the last response of the current call
}

// boundCall is a call of eds to which HTTP requests belong.
type boundCall struct {
	ended    func() bool
	onEnd    func(f func()) (stop func() bool) // makes f run when the call ends; stop undoes this
	progress func()                            // called whenever the service sends or accepts data
}

// httpRefusal describes an HTTP response with an error status. Errors of Snowflake's driver do not
// contain these details.
type httpRefusal struct {
	status int           // HTTP status, or 0 if there was no such response
	after  time.Duration // from the header Retry-After
}

func (r *httpRefusal) Error() string {
	return fmt.Sprintf("the service answered with HTTP status %d", r.status)
}

func newTransport() *transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	t := &transport{base: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 30 * time.Second, IdleConnTimeout: 5 * time.Minute, MaxIdleConnsPerHost: 8,
	}}
	t.idle = sync.NewCond(&t.mu)
	return t
}

// bind makes requests belong to a call with the context ctx, until the returned function is called.
// Requests of the call are canceled when ctx ends or the returned function is called. The transport
// calls the function progress whenever the service sends or accepts data for the call.
func (t *transport) bind(ctx context.Context, progress func()) func() {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusal = httpRefusal{}
	t.call = &boundCall{
		ended:    func() bool { return ctx.Err() != nil },
		onEnd:    func(f func()) func() bool { return context.AfterFunc(ctx, f) },
		progress: progress,
	}
	return func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.call = nil
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	call := t.call
	t.inFlight++
	t.mu.Unlock()
	defer t.answered()
	ctx, done := requestContext(r.Context(), call)
	progress := func() {}
	if call != nil {
		progress = call.progress
	}
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &trackedBody{r.Body, func() {}, progress}
	}
	response, err := t.base.RoundTrip(r)
	if err != nil {
		done()
		return nil, err
	}
	t.recordRefusal(response)
	progress()
	response.Body = &trackedBody{response.Body, done, progress}
	return response, nil
}

// requestContext returns the context for a request that belongs to call. If call is nil or has
// ended, the context has a timeout. The caller must call the function done when the request has
// ended.
func requestContext(parent context.Context, call *boundCall) (ctx context.Context, done func()) {
	switch {
	case call == nil:
		return context.WithTimeout(parent, idleTime)
	case call.ended():
		return context.WithTimeout(parent, graceTime)
	}
	ctx, cancel := context.WithCancel(parent)
	stop := call.onEnd(cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// recordRefusal stores r as the last refusal if r has an error status. Otherwise it forgets the
// previous refusal.
func (t *transport) recordRefusal(r *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refusal = (httpRefusal{}); r.StatusCode >= 400 {
		t.refusal = httpRefusal{r.StatusCode, fault.ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())}
	}
}

// lastRefusal returns the refusal in the last response of the call. If that response was not a
// refusal, the status of the result is 0.
func (t *transport) lastRefusal() httpRefusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refusal
}

func (t *transport) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	t.idle.Broadcast()
}

// close waits until all requests have ended, and closes the connections.
func (t *transport) close() {
	t.mu.Lock()
	for t.inFlight > 0 {
		t.idle.Wait()
	}
	t.mu.Unlock()
	t.base.CloseIdleConnections()
}

// trackedBody is the body of a request or response. It calls the function progress after each read,
// and the function done when the body ends or is closed.
type trackedBody struct {
	io.ReadCloser
	done, progress func()
}

func (b *trackedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.progress()
	if err != nil {
		b.done()
	}
	return n, err
}

func (b *trackedBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}
