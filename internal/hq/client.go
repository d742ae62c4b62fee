// Package hq is the client of HQ, the control plane of eds. Over HTTP, it enrols servers, starts
// and ends sessions, and fetches schemas and snapshot exports. It also connects to HQ's NATS
// server, and provides the control channel there.
package hq

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

const (
	// maxResponse is the maximum size of a response in bytes. The schemas of a thousand tables
	// need about a hundredth of that.
	maxResponse = 256 << 20
	// callTimeout is the time limit for one attempt of a call.
	callTimeout = time.Minute
	// defaultPatience is the default of Options.Patience.
	defaultPatience = 30 * time.Second
	// lateTimeout is how long a call may still wait for a response after its context has ended.
	lateTimeout = 10 * time.Second
)

// Options configures a Client.
type Options struct {
	// BaseURL is the address of HQ's API, as returned by the function BaseURL or EnrollURL.
	BaseURL string
	// Key is the API key, or the zero Key for enrolment.
	Key Key
	// Version is the version of eds, sent in the User-Agent header.
	Version string
	// HTTP makes the requests. If it is nil, New creates a client that uses the proxy settings of
	// the environment.
	HTTP *http.Client
	// Logger logs the error and the wait before each retry, or is nil for no logging.
	Logger *slog.Logger
	// Security decides whether HQ may be reached without TLS. Nil has the effect of a zero Security.
	Security *Security
	// Patience is how long a failing call is retried; 0 means 30 s.
	Patience time.Duration
}

// Client calls HQ. While HQ cannot be reached or responds with 408, 429, 502, 503 or 504, the
// client retries the call with growing waits. A Client is safe for concurrent use.
type Client struct {
	base     string
	key      Key
	agent    string
	http     *http.Client
	log      *slog.Logger
	patience time.Duration // 0 means that calls are retried until the context ends
	skew     *atomic.Int64 // how far HQ's clock is behind the local clock, in nanoseconds
	security *Security
}

// New returns a client that retries a failing call for up to Options.Patience.
func New(o Options) *Client {
	c := &Client{
		base: o.BaseURL, key: o.Key, agent: "Shopmonkey EDS Server/" + o.Version,
		log: o.Logger, patience: cmp.Or(o.Patience, defaultPatience), skew: new(atomic.Int64),
		security: cmp.Or(o.Security, new(Security)),
	}
	c.http = &http.Client{Transport: newTransport()}
	if o.HTTP != nil {
		*c.http = *o.HTTP
	}
	c.http.CheckRedirect = c.checkRedirect
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// newTransport returns a new transport rather than the shared http.DefaultTransport, which other
// packages could change.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
		ExpectContinueTimeout: time.Second,
	}
}

// Patient returns a copy of the client that does not limit the time for retries. Each of its calls
// is retried until the call succeeds, HQ refuses it, or its context ends.
func (c *Client) Patient() *Client {
	patient := *c
	patient.patience = 0
	return &patient
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Present returns the current time by the local clock or by HQ's clock, whichever is earlier. It
// knows HQ's clock from HQ's latest response.
func (c *Client) Present() time.Time {
	return time.Now().Add(-max(0, c.Skew()))
}

// Skew returns how far HQ's clock was behind the local clock at HQ's latest response, accurate to
// a second. The result is negative if HQ's clock was ahead.
func (c *Client) Skew() time.Duration { return time.Duration(c.skew.Load()) }

// request describes one call.
type request struct {
	operation string // for errors, such as "start a session"
	method    string
	url       string
	body      []byte
	header    http.Header
	timeout   time.Duration
	// keyless means that the request is sent without the API key.
	keyless bool
	// awaited means that HQ creates something that the caller must know about. If the context ends
	// after the request was sent, the attempt waits for the response for up to another lateTimeout.
	awaited bool
	// waits is called before each wait for another attempt. It may be nil.
	waits func(err error, wait time.Duration)
}

// call makes a JSON call and decodes the data of HQ's response into the value that the parameter
// out points to.
func (c *Client) call(ctx context.Context, operation, method, path string, in, out any) error {
	response, err := c.exchange(ctx, operation, method, path, in)
	if err != nil {
		return err
	}
	return response.unwrap(out)
}

// exchange makes a JSON call and returns HQ's response.
func (c *Client) exchange(ctx context.Context, operation, method, path string, in any) (*apiResponse, error) {
	r, err := c.request(operation, method, path, in)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, r)
}

// request returns a JSON call. The parameter in is the body, or nil for no body.
func (c *Client) request(operation, method, path string, in any) (request, error) {
	r := request{operation: operation, method: method, url: c.base + path, timeout: callTimeout, header: http.Header{}}
	r.header.Set("Content-Type", "application/json")
	r.header.Set("Accept", "application/json")
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return request{}, fmt.Errorf("%s: encode the request: %w", operation, err)
		}
		r.body = body
	}
	return r, nil
}

// send makes the request, and retries it for as long as the client's patience allows.
func (c *Client) send(ctx context.Context, r request) (*apiResponse, error) {
	var response *apiResponse
	var final error // an error that must not be retried
	err := retry.Do(ctx, retry.Policy{
		Backoff: retry.Backoff{Min: 250 * time.Millisecond}, Patience: c.patience, Since: time.Now(),
		Retryable: func(error) bool { return true },
		Failed: func(err error, wait time.Duration) {
			if r.waits != nil {
				r.waits(err, wait)
			}
			c.log.WarnContext(ctx, "hq does not answer; trying again", "wait", wait.Round(time.Millisecond), "error", err)
		},
	}, func() (err error) {
		response, err = c.attempt(ctx, r)
		retryable, ok := errors.AsType[*retryableError](err)
		if !ok {
			final = err
			return nil
		}
		return retryable.err
	})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", r.operation, err)
	}
	if err = cmp.Or(err, final); err != nil {
		return nil, err
	}
	return response, nil
}

// attempt makes the request a single time. If another attempt may succeed, the error is a
// *retryableError.
func (c *Client) attempt(ctx context.Context, r request) (*apiResponse, error) {
	if r.awaited && ctx.Err() == nil {
		late, cancel := outlast(ctx, lateTimeout)
		defer cancel()
		ctx = late
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("no response within %v", r.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("%s: the address of hq is not a url", r.operation))
	}
	if err := c.security.checkURL(req.URL); err != nil {
		return nil, fmt.Errorf("%s: %w", r.operation, err)
	}
	req.Header = r.header.Clone()
	req.Header.Set("User-Agent", c.agent)
	if !r.keyless && !c.key.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.key.reveal())
	}
	response, err := c.http.Do(req)
	if refused := new(redirectError); errors.As(err, &refused) {
		return nil, fmt.Errorf("%s: %w", r.operation, refused)
	}
	if err != nil {
		return nil, &retryableError{connectionError(ctx, r.operation, req, err)}
	}
	defer response.Body.Close()
	if req.URL.Scheme == "https" && !r.keyless {
		c.security.secured(peerAPI, req.URL.Hostname())
	}
	a := &apiResponse{operation: r.operation, status: response.StatusCode, requestID: response.Header.Get("X-Request-Id")}
	c.noteClock(response.Header)
	if a.body, err = readAll(response.Body); err != nil {
		if errors.Is(err, errTooLarge) {
			return nil, fmt.Errorf("%s: %w", r.operation, err)
		}
		return nil, &retryableError{connectionError(ctx, r.operation, req, err)}
	}
	if a.status/100 == 2 {
		return a, nil
	}
	return nil, c.refusal(a, response.Header, r.keyless)
}

// outlast returns a context for a request that may outlast ctx. If the request has not been sent
// when ctx ends, the new context ends at the same time. Otherwise the new context ends after the
// additional time d. The caller must call the returned function after it has received the response.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	late, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var sent atomic.Bool
	stop := context.AfterFunc(ctx, func() {
		if sent.Load() {
			_ = retry.Sleep(late, d) // an error means that the caller has called the returned function
		}
		end(context.Cause(ctx))
	})
	trace := &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) { sent.Store(i.Err == nil) }}
	return httptrace.WithClientTrace(late, trace), func() { stop(); end(nil) }
}

// maxRedirects is the maximum number of redirects that a call follows.
const maxRedirects = 10

// redirectError reports why a redirect was not followed.
type redirectError struct{ why string }

func (e *redirectError) Error() string { return "hq answers with a redirect " + e.why }

// checkRedirect refuses redirects from https:// to http://, because net/http would send the API key
// along. It also refuses redirects that the security rules forbid, and all redirects after the
// first maxRedirects.
func (c *Client) checkRedirect(next *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= maxRedirects:
		return &redirectError{fmt.Sprintf("for the %dth time", maxRedirects)}
	case next.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
		return &redirectError{"from https:// to " + next.URL.Scheme + "://, which is not followed"}
	}
	if err := c.security.checkURL(next.URL); err != nil {
		return &redirectError{"that is not followed: " + err.Error()}
	}
	return nil
}

var errTooLarge = errors.New("hq's response is larger than 256 MiB")

func readAll(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxResponse+1))
	if err == nil && len(text) > maxResponse {
		err = errTooLarge
	}
	return text, err
}

// noteClock records how far HQ's clock is behind the local clock.
func (c *Client) noteClock(h http.Header) {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		c.skew.Store(int64(time.Since(date)))
	}
}
