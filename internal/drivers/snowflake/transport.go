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

// Timeouts of requests that belong to no running call: the driver cancels a statement or ends the
// session after its caller has given up, and it keeps an idle session alive.
const (
	graceTime = 2 * time.Second
	idleTime  = time.Minute
)

// transport sends the requests of one session. Snowflake's driver sends some of them, such as
// uploads, without a context of ours, and would wait a quarter of an hour for their responses. The
// transport ends each request with the call that it belongs to.
type transport struct {
	base *http.Transport

	mu       sync.Mutex
	idle     *sync.Cond
	call     *boundCall  // nil between calls
	inFlight int         // requests without a response
	refusal  httpRefusal // the call's last
}

// boundCall is the call that requests currently belong to.
type boundCall struct {
	ended    func() bool
	onEnd    func(f func()) (stop func() bool) // calls f when the call ends
	progress func()                            // notes that the service sent or accepted data
}

// httpRefusal is an HTTP response with an error status. Snowflake's driver hides most of it.
type httpRefusal struct {
	status int // 0: none
	after  time.Duration
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

// bind ends requests with ctx until the returned function is called, which ends the remaining ones.
// Meanwhile it calls progress whenever the service sends or accepts data.
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

// requestContext returns the context of a request of call, which may be nil or have ended. done
// releases it.
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

// recordRefusal records a response with an error status.
func (t *transport) recordRefusal(r *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refusal = (httpRefusal{}); r.StatusCode >= 400 {
		t.refusal = httpRefusal{r.StatusCode, fault.ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())}
	}
}

// lastRefusal returns the call's last refusal.
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

// close waits for the requests in flight, and closes the connections.
func (t *transport) close() {
	t.mu.Lock()
	for t.inFlight > 0 {
		t.idle.Wait()
	}
	t.mu.Unlock()
	t.base.CloseIdleConnections()
}

// trackedBody is the body of a request or response. It reports progress, and calls done when it
// ends or is closed.
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
