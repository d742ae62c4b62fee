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

// How long requests may take that belong to no call: those by which Snowflake's
// driver cancels a statement or ends the session after its caller has given up,
// and those that keep an idle session alive.
const (
	graceTime = 2 * time.Second
	idleTime  = time.Minute
)

// transport carries the requests of one session. Snowflake's driver makes some
// of them, such as uploads, under no context of ours, and would wait for their
// answers for a quarter of an hour; here each ends with the call it belongs to.
type transport struct {
	base *http.Transport

	mu          sync.Mutex
	idle        *sync.Cond
	call        context.Context // of the call at hand; nil between calls
	progress    func()          // notes that the service answers or takes something
	inFlight    int             // requests that have no answer yet
	httpRefusal httpRefusal     // the call's last
}

// httpRefusal is an answer of HTTP that is an error. Snowflake's driver tells little
// of it.
type httpRefusal struct {
	status int // 0: none
	after  time.Duration
}

func (r *httpRefusal) Error() string {
	return fmt.Sprintf("the service answered with HTTP status %d", r.status)
}

func newTransport() *transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	t := &transport{progress: func() {}, base: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 30 * time.Second, IdleConnTimeout: 5 * time.Minute, MaxIdleConnsPerHost: 8,
	}}
	t.idle = sync.NewCond(&t.mu)
	return t
}

// begin binds requests to ctx until the returned function is called, which ends
// those that are left. Meanwhile progress is called for what the service takes and
// answers.
func (t *transport) bind(ctx context.Context, progress func()) func() {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.call, t.progress, t.httpRefusal = ctx, progress, httpRefusal{}
	return func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.call, t.progress = nil, func() {}
	}
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	call, progress := t.call, t.progress
	t.inFlight++
	t.mu.Unlock()
	defer t.answered()
	ctx, cancel := context.WithCancel(r.Context())
	release := cancel
	switch {
	case call == nil:
		ctx, cancel = context.WithTimeout(ctx, idleTime)
	case call.Err() != nil:
		ctx, cancel = context.WithTimeout(ctx, graceTime)
	default:
		stop := context.AfterFunc(call, cancel)
		cancel = func() { stop() }
	}
	done := sync.OnceFunc(func() {
		cancel()
		release()
	})
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

// note remembers an answer that is an error.
func (t *transport) recordRefusal(r *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.httpRefusal = (httpRefusal{}); r.StatusCode >= 400 {
		t.httpRefusal = httpRefusal{r.StatusCode, fault.ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())}
	}
}

// refused returns the call's last refusal.
func (t *transport) refused() httpRefusal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.httpRefusal
}

func (t *transport) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	t.idle.Broadcast()
}

// close waits for the requests that are still on their way, and closes the
// connections.
func (t *transport) close() {
	t.mu.Lock()
	for t.inFlight > 0 {
		t.idle.Wait()
	}
	t.mu.Unlock()
	t.base.CloseIdleConnections()
}

// body is what a request sends, or its answer, which ends it when it is closed.
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
