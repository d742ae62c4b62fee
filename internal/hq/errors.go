package hq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Error means that HQ refused a request.
type Error struct {
	Operation string // for example "start a session"
	Status    int    // HTTP status code
	Message   string // HQ's message; may be ""
	RequestID string // identifies the request in HQ's logs; may be ""
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Operation)
	b.WriteString(": hq answers ")
	if e.Message != "" {
		fmt.Fprintf(&b, "%q", e.Message)
	}
	if e.Message == "" || e.Status/100 != 2 {
		if e.Message != "" {
			b.WriteString(" with ")
		}
		fmt.Fprintf(&b, "%d %s", e.Status, http.StatusText(e.Status))
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	return b.String()
}

// NotFound reports whether HQ does not know the requested enrolment code, schema version or export
// job. HQ also does not know an enrolment code that was already used.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound }

// definite reports whether HQ would refuse the same request again, even if the request came with
// another valid API key.
func (e *Error) definite() bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return e.Status/100 == 4 || e.Status/100 == 2
}

// NotFound reports whether err wraps an *Error for which Error.NotFound returns true.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.NotFound()
}

// Conflict reports whether err means that HQ refused a session because another server is running
// with the same server id.
func Conflict(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusConflict
}

// KeyProblem is the reason why an API key was rejected.
type KeyProblem uint8

const (
	KeyMissing   KeyProblem = iota + 1
	KeyMalformed            // not a JWT
	KeyExpired              // its own expiry time has passed
	KeyRefused              // HQ does not accept it
)

// Unauthorized reports why eds cannot access HQ. The error is fatal.
type Unauthorized struct {
	Problem KeyProblem
	Detail  string // details of the problem, for the operator; may be ""
	Err     error  // HQ's response, or nil if HQ was not asked
}

func (e *Unauthorized) Error() string {
	var text string
	switch e.Problem {
	case KeyMissing:
		text = "there is no api key; run eds enroll, or pass --api-key"
	case KeyMalformed:
		text = "the api key is malformed: copy it whole, it has three parts with dots between them"
	case KeyExpired:
		text = "the api key has expired; make a new one, or run eds enroll again"
	default:
		text = "hq refuses the api key; it was revoked, or belongs to another environment"
	}
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Unauthorized) Unwrap() error { return e.Err }

// unauthorized returns a fatal Unauthorized.
func unauthorized(problem KeyProblem, detail string, err error) error {
	return fault.Mark(fault.Fatal, &Unauthorized{Problem: problem, Detail: detail, Err: err})
}

// retryableError marks an error as temporary: another attempt may succeed.
type retryableError struct{ err error }

func (e *retryableError) Error() string { return e.err.Error() }
func (e *retryableError) Unwrap() error { return e.err }

// connectionError returns the error for a request that got no response. The error names only the
// host of the URL, because the path and query of an upload URL are secret.
func connectionError(ctx context.Context, operation string, req *http.Request, err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		err = e.Err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%s: no response from %s: %w", operation, req.URL.Host, err)
}

// refusal returns the error for a response whose status is not 2xx.
func (c *Client) refusal(r *apiResponse, h http.Header, keyless bool) error {
	err := error(r.refused())
	switch r.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		after := fault.ParseRetryAfter(h.Get("Retry-After"), time.Now())
		return &retryableError{&fault.Error{Class: fault.Transient, RetryAfter: after, Err: err}}
	case http.StatusUnauthorized, http.StatusForbidden:
		if keyless {
			return fault.Mark(fault.Fatal, err)
		}
		return c.keyRefused(err)
	}
	if r.status/100 == 4 {
		return fault.Mark(fault.Fatal, err)
	}
	return err
}

// keyRefused returns an error with the reason why HQ did not accept the API key. The parameter err
// is HQ's response.
func (c *Client) keyRefused(err error) error {
	if c.key.IsZero() {
		return unauthorized(KeyMissing, "", err)
	}
	if e := new(Unauthorized); errors.As(c.key.Check(time.Now()), &e) {
		return unauthorized(e.Problem, e.Detail, err)
	}
	return unauthorized(KeyRefused, "", err)
}

// apiResponse is a response of HQ's API.
type apiResponse struct {
	operation string
	status    int
	requestID string
	body      []byte
}

// envelope is the JSON object that wraps the data of most responses, and the message of errors.
type envelope struct {
	Success *bool           `json:"success"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// refused returns the response as an error. If the body did not come from HQ, for example if it is
// the error page of a proxy, the error has no message.
func (r *apiResponse) refused() *Error {
	var e envelope
	_ = json.Unmarshal(r.body, &e)
	message := strings.Join(strings.Fields(e.Message), " ")
	if len(message) > 500 {
		message = strings.ToValidUTF8(message[:500], "") + "..."
	}
	return &Error{Operation: r.operation, Status: r.status, Message: message, RequestID: r.requestID}
}

// unwrap decodes the data in the response's envelope into the value that the parameter out points
// to. If out is nil, unwrap only checks for success.
func (r *apiResponse) unwrap(out any) error {
	var e envelope
	if err := json.Unmarshal(r.body, &e); err != nil {
		return r.undecodable(err)
	}
	if e.Success != nil && !*e.Success {
		return r.refused()
	}
	if out == nil {
		return nil
	}
	if len(e.Data) == 0 || string(e.Data) == "null" {
		return r.undecodable(errors.New("it has no data"))
	}
	if err := json.Unmarshal(e.Data, out); err != nil {
		return r.undecodable(err)
	}
	return nil
}

// bare returns the data of a response whose envelope is optional: the data in the envelope, or the
// whole body if there is no envelope.
func (r *apiResponse) bare() (json.RawMessage, error) {
	var e envelope
	var probe map[string]json.RawMessage
	if err := json.Unmarshal(r.body, &probe); err != nil {
		return nil, r.undecodable(err)
	}
	if _, wrapped := probe["success"]; wrapped && json.Unmarshal(r.body, &e) == nil && e.Success != nil {
		if !*e.Success {
			return nil, r.refused()
		}
		if len(e.Data) > 0 {
			return e.Data, nil
		}
	}
	return r.body, nil
}

// undecodable returns the error for a response that cannot be decoded. The text of the parameter
// err must not quote the response. Errors of encoding/json quote no more than one character or
// name.
func (r *apiResponse) undecodable(err error) error {
	id := ""
	if r.requestID != "" {
		id = " (request " + r.requestID + ")"
	}
	return fmt.Errorf("%s: decode hq's response%s: %w", r.operation, id, err)
}
