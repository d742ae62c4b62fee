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

// Error is an answer in which HQ refuses.
type Error struct {
	Operation string // what was asked, as "start a session"
	Status    int    // of HTTP
	Message   string // HQ's own words; may be ""
	RequestID string // by which HQ's people find the request; may be ""
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

// NotFound reports whether HQ knows nothing of what was asked for: an enrolment
// code unknown or used, a schema version, an export job.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound }

// definite reports whether HQ would answer the same request the same way again,
// whoever has a key that it accepts.
func (e *Error) definite() bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return e.Status/100 == 4 || e.Status/100 == 2
}

// NotFound reports whether err is HQ's answer that it knows nothing of what was
// asked for.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.NotFound()
}

// Conflict reports whether err is HQ's answer that another server runs with
// this server's id.
func Conflict(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusConflict
}

// KeyProblem is what is wrong with an API key.
type KeyProblem uint8

const (
	KeyMissing   KeyProblem = iota + 1
	KeyMalformed            // not a JWT
	KeyExpired              // its own expiry has passed
	KeyRefused              // HQ does not accept it
)

// Unauthorized says why there is no access to HQ. It is fatal.
type Unauthorized struct {
	Problem KeyProblem
	Detail  string // more about it, for people; may be ""
	Err     error  // HQ's answer, where it was asked; may be nil
}

func (e *Unauthorized) Error() string {
	var text string
	switch e.Problem {
	case KeyMissing:
		text = "there is no api key; run eds enroll, or pass --api-key"
	case KeyMalformed:
		text = "the api key is not one: copy it whole, it has three parts with dots between them"
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

// retryable marks an error that another attempt may not meet.
type retryable struct{ err error }

func (e *retryable) Error() string { return e.err.Error() }
func (e *retryable) Unwrap() error { return e.err }

// connectionError describes a request that got no answer. Of the URL it holds
// the host alone: paths and queries of upload URLs are secrets.
func connectionError(ctx context.Context, operation string, req *http.Request, err error) error {
	if e := new(url.Error); errors.As(err, &e) {
		err = e.Err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%s: no answer from %s: %w", operation, req.URL.Host, err)
}

// refusal turns an answer other than 2xx into an error.
func (c *Client) refusal(a *answer, h http.Header, keyless bool) error {
	err := error(a.refused())
	switch a.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return &retryable{&fault.Error{Class: fault.Transient, RetryAfter: fault.ParseRetryAfter(h.Get("Retry-After"), time.Now()), Err: err}}
	case http.StatusUnauthorized, http.StatusForbidden:
		if keyless {
			return fault.Mark(fault.Fatal, err)
		}
		return c.keyRefused(err)
	}
	if a.status/100 == 4 {
		return fault.Mark(fault.Fatal, err)
	}
	return err
}

// keyRefused finds the reason why HQ did not accept the key.
func (c *Client) keyRefused(err error) error {
	if c.key.IsZero() {
		return unauthorized(KeyMissing, "", err)
	}
	if e := new(Unauthorized); errors.As(c.key.Check(time.Now()), &e) {
		return unauthorized(e.Problem, e.Detail, err)
	}
	return unauthorized(KeyRefused, "", err)
}

// answer is what HQ answered.
type answer struct {
	operation string
	status    int
	requestID string
	body      []byte
}

// envelope wraps the data of most answers, and the message of errors.
type envelope struct {
	Success *bool           `json:"success"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// refused returns the error that the answer is. A body that is not HQ's, as a
// proxy's page, has no message.
func (a *answer) refused() *Error {
	var e envelope
	_ = json.Unmarshal(a.body, &e)
	message := strings.Join(strings.Fields(e.Message), " ")
	if len(message) > 500 {
		message = strings.ToValidUTF8(message[:500], "") + "..."
	}
	return &Error{Operation: a.operation, Status: a.status, Message: message, RequestID: a.requestID}
}

// unwrap decodes the data of the answer into out.
func (a *answer) unwrap(out any) error {
	var e envelope
	if err := json.Unmarshal(a.body, &e); err != nil {
		return a.undecodable(err)
	}
	if e.Success != nil && !*e.Success {
		return a.refused()
	}
	if out == nil {
		return nil
	}
	if len(e.Data) == 0 || string(e.Data) == "null" {
		return a.undecodable(errors.New("it has no data"))
	}
	if err := json.Unmarshal(e.Data, out); err != nil {
		return a.undecodable(err)
	}
	return nil
}

// bare returns the body of an answer that is not wrapped; where it is wrapped
// all the same, what is inside.
func (a *answer) bare() (json.RawMessage, error) {
	var e envelope
	var probe map[string]json.RawMessage
	if err := json.Unmarshal(a.body, &probe); err != nil {
		return nil, a.undecodable(err)
	}
	if _, wrapped := probe["success"]; wrapped && json.Unmarshal(a.body, &e) == nil && e.Success != nil {
		if !*e.Success {
			return nil, a.refused()
		}
		if len(e.Data) > 0 {
			return e.Data, nil
		}
	}
	return a.body, nil
}

// undecodable says that the answer is not of the form that was expected. The
// cause is of encoding/json, whose errors quote at most a character or a name.
func (a *answer) undecodable(err error) error {
	id := ""
	if a.requestID != "" {
		id = " (request " + a.requestID + ")"
	}
	return fmt.Errorf("%s: understand hq's answer%s: %w", a.operation, id, err)
}
