package hq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

const (
	// conflictWait is how long to wait for another server of our id to end.
	conflictWait = 5 * time.Second
	// uploadTimeout bounds one attempt to upload a log.
	uploadTimeout = 15 * time.Minute
)

// Enrolment is what an enrolment code is worth.
type Enrolment struct {
	Token    string `json:"token"` // the API key: a secret
	ServerID string `json:"serverId"`
}

// String hides the token.
func (e Enrolment) String() string { return fmt.Sprintf("{%s %s}", redacted, e.ServerID) }

func (e Enrolment) GoString() string             { return e.String() }
func (e Enrolment) MarshalJSON() ([]byte, error) { return json.Marshal(e.String()) }
func (e Enrolment) LogValue() slog.Value         { return slog.StringValue(e.String()) }

// Enroll redeems an enrolment code, which works once. An error for which
// NotFound reports true means that the code is unknown or used.
func (c *Client) Enroll(ctx context.Context, code string) (Enrolment, error) {
	// A code that was redeemed by an attempt whose answer was lost is used.
	var e Enrolment
	if err := c.call(ctx, "enroll", http.MethodGet, "/v3/eds/internal/enroll/"+url.PathEscape(code), nil, &e); err != nil {
		if NotFound(err) {
			return Enrolment{}, fmt.Errorf("the code is unknown, or was used already; make a new one: %w", err)
		}
		return Enrolment{}, err
	}
	if e.Token == "" {
		return Enrolment{}, errors.New("enroll: hq's answer has no token")
	}
	return e, nil
}

// SessionStart is what HQ is told when a server starts.
type SessionStart struct {
	Version    string         `json:"version"`
	Hostname   string         `json:"hostname"`
	IPAddress  string         `json:"ipAddress"`
	MachineID  string         `json:"machineId"`
	OSInfo     OSInfo         `json:"osinfo"`
	Driver     *SessionDriver `json:"driver,omitempty"`
	ServerID   string         `json:"serverId"`
	CompanyIDs []string       `json:"companyIds,omitempty"`
}

// SessionDriver is the destination, as HQ is told of it.
type SessionDriver struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	URL         string `json:"url"` // masked
}

// Session is what a started session is.
type Session struct {
	ID string
	// Credential opens NATS. It is Anonymous where HQ sent none.
	Credential Credential
}

// StartSession starts a session. An error for which Conflict reports true means
// that another server runs with this server's id. If ctx ends while HQ starts one, the
// answer is awaited for another 10 s, so that the caller can end that session.
func (c *Client) StartSession(ctx context.Context, start SessionStart) (Session, error) {
	var data struct {
		SessionID  string `json:"sessionId"`
		Credential string `json:"credential"`
	}
	r, err := c.request("start a session", http.MethodPost, "/v3/eds/internal", start)
	if err != nil {
		return Session{}, err
	}
	r.awaited = true
	answer, err := c.send(ctx, r)
	if err != nil {
		return Session{}, err
	}
	if err := answer.unwrap(&data); err != nil {
		return Session{}, err
	}
	if data.SessionID == "" {
		return Session{}, errors.New("start a session: hq's answer has no session id")
	}
	s := Session{ID: data.SessionID, Credential: Anonymous()}
	if data.Credential != "" {
		credential, err := ParseCredential(data.Credential)
		if err != nil {
			return Session{}, fmt.Errorf("start a session: %w", err)
		}
		s.Credential = credential
	}
	return s, nil
}

// AwaitSession starts a session; while another server runs with this server's
// id it waits 5 s and tries again, until ctx ends. It calls waiting, where set,
// before each wait.
func (c *Client) AwaitSession(ctx context.Context, start SessionStart, waiting func(err error, wait time.Duration)) (Session, error) {
	for {
		s, err := c.StartSession(ctx, start)
		if !Conflict(err) {
			return s, err
		}
		if waiting != nil {
			waiting(err, conflictWait)
		}
		if err := sleep(ctx, conflictWait); err != nil {
			return Session{}, fmt.Errorf("start a session: another server runs with this id: %w", err)
		}
	}
}

// SessionEnd holds the upload URLs for the last log of a session; secrets, both.
type SessionEnd struct {
	URL      string `json:"url"`      // for the log
	ErrorURL string `json:"errorUrl"` // for the standard error of a server that crashed
}

// String hides the URLs.
func (SessionEnd) String() string { return redacted }

func (SessionEnd) GoString() string             { return redacted }
func (SessionEnd) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (SessionEnd) LogValue() slog.Value         { return slog.StringValue(redacted) }

// EndSession ends a session; errored says whether by a failure.
func (c *Client) EndSession(ctx context.Context, session string, errored bool) (SessionEnd, error) {
	in := struct {
		Errored bool `json:"errored"`
	}{errored}
	var end SessionEnd
	err := c.call(ctx, "end the session", http.MethodPost, "/v3/eds/internal/"+url.PathEscape(session), in, &end)
	return end, err
}

// LogURL asks for a URL to which a log of the session can be uploaded: a secret.
func (c *Client) LogURL(ctx context.Context, session string) (string, error) {
	var data struct {
		URL string `json:"url"`
	}
	err := c.call(ctx, "ask where to upload a log", http.MethodPost, "/v3/eds/internal/"+url.PathEscape(session)+"/log", struct{}{}, &data)
	if err == nil && data.URL == "" {
		err = errors.New("ask where to upload a log: hq's answer has no url")
	}
	return data.URL, err
}

// Upload puts a gzipped log at an upload URL and returns its storage path, the
// path of that URL. It reads the log from its start for each attempt.
func (c *Client) Upload(ctx context.Context, uploadURL string, log io.ReadSeeker) (string, error) {
	const operation = "upload a log"
	u, err := url.Parse(uploadURL)
	if err != nil || u.Host == "" {
		return "", fault.Mark(fault.Fatal, errors.New(operation+": hq gave an upload url that is not one"))
	}
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	// Logs are rotated at some megabytes; what is sent is one of these, packed.
	var body bytes.Buffer
	if _, err := io.Copy(&body, io.LimitReader(log, maxAnswer)); err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	header := http.Header{}
	header.Set("Content-Type", "application/x-tgz")
	r := request{operation: operation, method: http.MethodPut, url: uploadURL, body: body.Bytes(), header: header, timeout: uploadTimeout, keyless: true}
	if _, err := c.send(ctx, r); err != nil {
		return "", err
	}
	return u.Path, nil
}
