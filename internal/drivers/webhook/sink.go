package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// Sink posts batches of events to an endpoint.
type Sink struct {
	config
	env       sink.Env
	transport *http.Transport
	client    *http.Client
	loader    encode.Loader
	now       func() time.Time

	mu    sync.Mutex // held while a batch is posted
	spare []byte     // memory for the lines of the next request
	zip   *gzip.Writer

	state  sync.Mutex
	closed bool
	abort  context.CancelFunc // cancels the running batch; nil if there is none
}

var (
	_ sink.Sink  = (*Sink)(nil)
	_ sink.Pacer = (*Sink)(nil)
)

var (
	errClosed   = errors.New("the sink is closed")
	errURL      = fault.Mark(fault.Fatal, errors.New("the url is not an endpoint's"))
	errTooLarge = errors.New("the endpoint says that the request is too large")
	errRedirect = fault.Mark(fault.Fatal, errors.New("the endpoint redirects to another host or without encryption; put its address into "+
		"the url, if you trust it"))
)

func newSink(c config, env sink.Env) *Sink {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: c.timeout, ResponseHeaderTimeout: c.timeout,
		IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 1,
	}
	s := &Sink{config: c, env: env, transport: transport, now: time.Now}
	s.client = &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 5 || r.URL.Host != c.endpoint.Host || r.URL.Scheme != c.endpoint.Scheme || r.Method != http.MethodPost {
			return errRedirect
		}
		return nil
	}}
	s.loader = encode.Loader{Apply: s.Apply, Limits: c.limits}
	return s
}

// Limits returns the batch limits that the URL sets.
func (s *Sink) Limits() sink.Limits { return s.limits }

// Apply posts the batch's events in as many requests as needed, in stream order.
func (s *Sink) Apply(ctx context.Context, b *change.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b.Events) == 0 {
		return nil
	}
	ctx, done, err := s.begin(ctx)
	if err == nil {
		err = s.deliver(ctx, b.Events)
		done()
	}
	if err != nil {
		err = fmt.Errorf("post %d changes: %w", len(b.Events), err)
	}
	return s.env.Access.Outcome(err)
}

// begin returns a context that Close cancels, and a function that ends the call.
func (s *Sink) begin(ctx context.Context) (context.Context, func(), error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	s.abort = cancel
	return ctx, func() {
		s.state.Lock()
		defer s.state.Unlock()
		s.abort = nil
		cancel()
	}, nil
}

// deliver posts the events in stream order, with as many events in each request as the endpoint
// accepts. If the endpoint rejects a request as too large, deliver retries with half of the
// request's events.
func (s *Sink) deliver(ctx context.Context, events []*cdc.Event) error {
	now, err := sink.Renew(s.env.Access, s.target, parse)
	if err != nil {
		return err
	}
	s.secret, s.headers = now.secret, now.headers
	for len(events) > 0 {
		n := s.fitting(events)
		err := s.post(ctx, events[:n])
		for ; errors.Is(err, errTooLarge) && n > 1; err = s.post(ctx, events[:n]) {
			n = (n + 1) / 2
		}
		if errors.Is(err, errTooLarge) {
			err = fault.Mark(fault.Poison, err)
		}
		if err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// fitting returns how many of the events, counted from the first one, fit into one request. The
// result is at least 1.
func (s *Sink) fitting(events []*cdc.Event) int {
	bytes := 0
	for i, e := range events {
		if bytes += len(e.Payload) + 1; i > 0 && bytes > s.limits.Bytes || i == s.limits.Rows {
			return i
		}
	}
	return len(events)
}

// post sends the events in a single request and waits for the endpoint's response.
func (s *Sink) post(ctx context.Context, events []*cdc.Event) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	request, body, err := s.request(ctx, events)
	if err != nil {
		return err
	}
	defer s.reuse(body)
	response, err := s.client.Do(request)
	if err != nil {
		return classify(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // an unread response prevents reuse of its connection
	return s.classifyResponse(response, len(events))
}

// classifyResponse returns an error with a fault class for the response to a request of n events,
// or nil if the response means success. The error does not include the response body, which may
// repeat a change.
func (s *Sink) classifyResponse(response *http.Response, n int) error {
	code := response.StatusCode
	err := fmt.Errorf("the endpoint returned %d %s", code, http.StatusText(code))
	class := fault.Fatal
	switch {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusRequestEntityTooLarge:
		return errTooLarge
	case code == http.StatusUnprocessableEntity && n == 1:
		return fault.Mark(fault.Poison, err)
	case code == http.StatusUnprocessableEntity:
		return fault.Mark(fault.Poison, fmt.Errorf("%w for one of %d changes", err, n))
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500 &&
		code != http.StatusNotImplemented:
		return &fault.Error{
			Class: fault.Transient, RetryAfter: fault.ParseRetryAfter(response.Header.Get("Retry-After"), s.now()),
			Err: err,
		}
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		class, err = fault.Refused, fmt.Errorf("%w; check secret= and header= in the url", err)
	case code == http.StatusNotFound, code == http.StatusGone:
		class, err = fault.Refused, fmt.Errorf("%w; check the path of the url", err)
	case code >= 300 && code < 400:
		err = fmt.Errorf("%w; put its address into the url", err)
	}
	return fault.Mark(class, err)
}

// classify removes the URL from an error of the HTTP client, and adds the fault class.
func classify(err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		err = e.Err
	}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var verify *tls.CertificateVerificationError
	if errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &verify) {
		return fault.Mark(fault.Refused, fmt.Errorf("the endpoint's certificate is not trusted: %w", err))
	}
	return err
}

// Probe sends a HEAD request to check that the endpoint can be reached. Any response is a success,
// because only the first batch shows whether the endpoint accepts changes.
func (s *Sink) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	now, err := sink.Renew(s.env.Access, s.target, parse)
	if err != nil {
		return s.env.Access.Outcome(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, s.endpoint.String(), http.NoBody)
	if err != nil {
		return errURL
	}
	request.Header = now.headers
	response, err := s.transport.RoundTrip(request) // does not follow redirects
	if err != nil {
		return s.env.Access.Outcome(fmt.Errorf("reach the endpoint: %w", classify(err)))
	}
	return response.Body.Close()
}

// BeginLoad begins the load of one table. The load posts its rows in batches.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return s.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close interrupts a running batch and closes idle connections. It does not wait.
func (s *Sink) Close(context.Context) error {
	s.state.Lock()
	defer s.state.Unlock()
	s.closed = true
	if s.abort != nil {
		s.abort()
	}
	s.transport.CloseIdleConnections()
	return nil
}
