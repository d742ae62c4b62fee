// Package hq is the client of HQ, the control plane of eds: enrolment,
// sessions, schemas and snapshot exports over HTTP, and the credential that
// opens its NATS.
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
	// maxAnswer bounds an answer in bytes. The schemas of a thousand tables are
	// a hundredth of it.
	maxAnswer = 256 << 20
	// callTimeout bounds one attempt of a call.
	callTimeout = time.Minute
	// defaultPatience is how long a bounded call is tried.
	defaultPatience = 30 * time.Second
	// lateAnswer bounds the wait for an answer that is awaited although the call's
	// context has ended.
	lateAnswer = 10 * time.Second
)

// Options configure a Client.
type Options struct {
	// BaseURL is where HQ's API is, as BaseURL or EnrollURL resolved it.
	BaseURL string
	// Key is the API key; the zero Key for enrolment.
	Key Key
	// Version of eds, told in the User-Agent.
	Version string
	// HTTP makes the requests; nil means a client that heeds the proxy settings
	// of the environment.
	HTTP *http.Client
	// Logger is told of each wait before another attempt.
	Logger *slog.Logger
	// Security decides whether HQ may be reached without TLS; nil: the zero one.
	Security *Security
	// Patience bounds how long a call is tried, from its first attempt to the
	// beginning of its last; 0 means 30 s.
	Patience time.Duration
}

// Client calls HQ. A call is tried again, with growing waits, while HQ can't be
// reached or answers 408, 429, 502, 503 or 504. It is safe for concurrent use.
type Client struct {
	base     string
	key      Key
	agent    string
	http     *http.Client
	log      *slog.Logger
	patience time.Duration // negative: as long as the context lasts
	waits    func(error)   // told before each wait
	skew     *atomic.Int64 // how far HQ's clock is behind ours, nanoseconds
	security *Security
}

// New returns a client. Calls give up after Options.Patience.
func New(o Options) *Client {
	c := &Client{
		base: o.BaseURL, key: o.Key, agent: "Shopmonkey EDS Server/" + o.Version,
		log: o.Logger, patience: o.Patience, skew: new(atomic.Int64), waits: func(error) {},
		security: cmp.Or(o.Security, new(Security)),
	}
	c.http = &http.Client{Transport: newTransport()}
	if o.HTTP != nil {
		*c.http = *o.HTTP
	}
	c.http.CheckRedirect = c.redirects
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.patience == 0 {
		c.patience = defaultPatience
	}
	return c
}

// newTransport returns a transport of our own, so that nobody else's settings
// change what a request does.
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

// Patient returns a client whose calls are tried until they succeed, are
// refused, or their context ends.
func (c *Client) Patient() *Client {
	patient := *c
	patient.patience = -1
	return &patient
}

// Telling returns a client that calls waits before each wait for HQ, with what
// has gone wrong.
func (c *Client) Telling(waits func(error)) *Client {
	telling := *c
	telling.waits = waits
	return &telling
}

// Close closes the connections that no call uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Present returns the present time by our clock or, where HQ's latest answer
// showed its clock to be behind ours, by HQ's: never later than either.
func (c *Client) Present() time.Time {
	return time.Now().Add(-max(0, c.Skew()))
}

// Skew returns how far HQ's clock was behind ours at its latest answer, negative
// where it was ahead, to the second.
func (c *Client) Skew() time.Duration { return time.Duration(c.skew.Load()) }

// request is one call.
type request struct {
	operation string // for errors: "start a session"
	method    string
	url       string
	body      []byte
	header    http.Header
	timeout   time.Duration
	keyless   bool
	// awaited says that HQ keeps what the call makes: once it is on its way, its answer is
	// awaited for up to lateAnswer after the context has ended.
	awaited bool
}

// call makes a JSON call and decodes the data of HQ's answer into out.
func (c *Client) call(ctx context.Context, operation, method, path string, in, out any) error {
	answer, err := c.exchange(ctx, operation, method, path, in)
	if err != nil {
		return err
	}
	return answer.unwrap(out)
}

// exchange makes a JSON call and returns HQ's answer as it came.
func (c *Client) exchange(ctx context.Context, operation, method, path string, in any) (*answer, error) {
	r, err := c.request(operation, method, path, in)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, r)
}

// request returns a JSON call; in is nil if it has no body.
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

// send tries r until it is answered for good.
func (c *Client) send(ctx context.Context, r request) (*answer, error) {
	backoff := retry.Backoff{Min: 250 * time.Millisecond, Max: 30 * time.Second}
	began := time.Now()
	for {
		a, err := c.attempt(ctx, r)
		if err == nil {
			return a, nil
		}
		var retry *retryable
		if !errors.As(err, &retry) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.operation, context.Cause(ctx))
		}
		wait := backoff.Next(err)
		if c.patience >= 0 && time.Since(began)+wait > c.patience {
			return nil, retry.err
		}
		c.waits(retry.err)
		c.log.WarnContext(ctx, "hq does not answer; trying again", "wait", wait.Round(time.Millisecond), "error", retry.err)
		if err := sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("%s: %w", r.operation, err)
		}
	}
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// attempt makes the request once. Errors worth another attempt are retryable.
func (c *Client) attempt(ctx context.Context, r request) (*answer, error) {
	if r.awaited && ctx.Err() == nil {
		late, cancel := outlast(ctx, lateAnswer)
		defer cancel()
		ctx = late
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("no answer in %v", r.timeout))
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
		return nil, &retryable{err: connectionError(ctx, r.operation, req, err)}
	}
	defer response.Body.Close()
	if req.URL.Scheme == "https" && !r.keyless {
		c.security.secured(peerAPI, req.URL.Hostname())
	}
	a := &answer{operation: r.operation, status: response.StatusCode, requestID: response.Header.Get("X-Request-Id")}
	c.noteTime(response.Header)
	if a.body, err = readAll(response.Body); err != nil {
		if errors.Is(err, errTooLarge) {
			return nil, fmt.Errorf("%s: %w", r.operation, err)
		}
		return nil, &retryable{err: connectionError(ctx, r.operation, req, err)}
	}
	if a.status/100 == 2 {
		return a, nil
	}
	return nil, c.refusal(a, response.Header, r.keyless)
}

// outlast returns a context for a request that ends with ctx unless the request has been
// sent by then, else d later. The caller calls the function once the answer is there.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	late, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var sent atomic.Bool
	stop := context.AfterFunc(ctx, func() {
		if sent.Load() {
			_ = sleep(late, d) // whether the caller ends it or the time, it has ended
		}
		end(context.Cause(ctx))
	})
	trace := &httptrace.ClientTrace{WroteRequest: func(i httptrace.WroteRequestInfo) { sent.Store(i.Err == nil) }}
	return httptrace.WithClientTrace(late, trace), func() { stop(); end(nil) }
}

// maxRedirects is how many redirects a call follows.
const maxRedirects = 10

// redirectError says why a redirect is not followed.
type redirectError struct{ why string }

func (e *redirectError) Error() string { return "hq answers with a redirect " + e.why }

// redirects refuses redirects that leave TLS: net/http would send the key along.
func (c *Client) redirects(next *http.Request, via []*http.Request) error {
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

var errTooLarge = errors.New("hq's answer is larger than 256 MiB")

func readAll(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errTooLarge
	}
	return text, err
}

// noteTime notes by how much HQ's clock is behind ours.
func (c *Client) noteTime(h http.Header) {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		c.skew.Store(int64(time.Since(date)))
	}
}
