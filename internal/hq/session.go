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
	"github.com/shopmonkeyus/eds/internal/retry"
)

const (
	// conflictWait is the wait before another attempt while another server is running with the
	// same server id.
	conflictWait = 5 * time.Second
	// uploadTimeout is the time limit for one attempt to upload a log.
	uploadTimeout = 15 * time.Minute
)

// Enrolment is HQ's response to an enrolment code.
type Enrolment struct {
	Token    string `json:"token"` // the API key, a secret
	ServerID string `json:"serverId"`
}

// String hides the token.
func (e Enrolment) String() string { return fmt.Sprintf("{%s %s}", redacted, e.ServerID) }

func (e Enrolment) GoString() string             { return e.String() }
func (e Enrolment) MarshalJSON() ([]byte, error) { return json.Marshal(e.String()) }
func (e Enrolment) LogValue() slog.Value         { return slog.StringValue(e.String()) }

// Enroll redeems an enrolment code, which works only once. If NotFound returns true for the error,
// the code is unknown or was already used.
func (c *Client) Enroll(ctx context.Context, code string) (Enrolment, error) {
	// If the response to an attempt is lost, the code is used up nevertheless.
	var e Enrolment
	if err := c.call(ctx, "enroll", http.MethodGet, "/v3/eds/internal/enroll/"+url.PathEscape(code), nil, &e); err != nil {
		if NotFound(err) {
			return Enrolment{}, fmt.Errorf("the code is unknown or was used already; make a new one: %w", err)
		}
		return Enrolment{}, err
	}
	if e.Token == "" {
		return Enrolment{}, errors.New("enroll: hq's response has no token")
	}
	return e, nil
}

// SessionStart is the description of this server that HQ receives at the start of a session.
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

// SessionDriver describes the destination to HQ.
type SessionDriver struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	URL         string `json:"url"` // with secrets masked
}

// Session is a session that HQ has started.
type Session struct {
	ID string
	// Credential authenticates the session to NATS. It is Anonymous if HQ sent no credential.
	Credential Credential
}

// StartSession starts a session. If Conflict returns true for the error, another server is running
// with the same server id. If ctx ends while HQ handles the request, StartSession waits another 10
// s for the response, so that the caller can end the session.
func (c *Client) StartSession(ctx context.Context, start SessionStart) (Session, error) {
	return c.startSession(ctx, start, nil)
}

func (c *Client) startSession(ctx context.Context, start SessionStart, waits func(err error, wait time.Duration)) (Session, error) {
	var data struct {
		SessionID  string `json:"sessionId"`
		Credential string `json:"credential"`
	}
	r, err := c.request("start a session", http.MethodPost, "/v3/eds/internal", start)
	if err != nil {
		return Session{}, err
	}
	r.awaited, r.waits = true, waits
	response, err := c.send(ctx, r)
	if err != nil {
		return Session{}, err
	}
	if err := response.unwrap(&data); err != nil {
		return Session{}, err
	}
	if data.SessionID == "" {
		return Session{}, errors.New("start a session: hq's response has no session id")
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

// AwaitSession starts a session like StartSession, but retries until ctx ends. It also retries
// while another server is running with the same server id. Before each wait, it calls the function
// waits, unless that is nil, with the error and the length of the wait. In the case of another
// server, the wait is 5 s, and Conflict returns true for the error.
func (c *Client) AwaitSession(ctx context.Context, start SessionStart, waits func(err error, wait time.Duration)) (Session, error) {
	patient := c.Patient()
	for {
		s, err := patient.startSession(ctx, start, waits)
		if !Conflict(err) {
			return s, err
		}
		if waits != nil {
			waits(err, conflictWait)
		}
		if err := retry.Sleep(ctx, conflictWait); err != nil {
			return Session{}, fmt.Errorf("start a session: another server runs with this id: %w", err)
		}
	}
}

// SessionEnd holds the upload URLs for the last logs of a session. Both URLs are secrets.
type SessionEnd struct {
	URL      string `json:"url"`      // for the main log
	ErrorURL string `json:"errorUrl"` // for the standard error of a server that crashed
}

// String hides the URLs.
func (SessionEnd) String() string { return redacted }

func (SessionEnd) GoString() string             { return redacted }
func (SessionEnd) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (SessionEnd) LogValue() slog.Value         { return slog.StringValue(redacted) }

// EndSession ends a session, and returns the URLs for its last logs. The parameter errored says
// whether the session failed.
func (c *Client) EndSession(ctx context.Context, session string, errored bool) (SessionEnd, error) {
	in := struct {
		Errored bool `json:"errored"`
	}{errored}
	var end SessionEnd
	err := c.call(ctx, "end the session", http.MethodPost, "/v3/eds/internal/"+url.PathEscape(session), in, &end)
	return end, err
}

// AwaitSessionEnd ends a session that has not failed. It retries until ctx ends.
func (c *Client) AwaitSessionEnd(ctx context.Context, session string) error {
	_, err := c.Patient().EndSession(ctx, session, false)
	return err
}

// LogURL returns a URL to which one log of the session can be uploaded. The URL is a secret.
func (c *Client) LogURL(ctx context.Context, session string) (string, error) {
	var data struct {
		URL string `json:"url"`
	}
	const operation = "ask where to upload a log"
	err := c.call(ctx, operation, http.MethodPost, "/v3/eds/internal/"+url.PathEscape(session)+"/log", struct{}{}, &data)
	if err == nil && data.URL == "" {
		err = errors.New(operation + ": hq's response has no url")
	}
	return data.URL, err
}

// Upload uploads a gzipped log to uploadURL. It reads the log from the start, and returns the log's
// storage path, which is the path of uploadURL.
func (c *Client) Upload(ctx context.Context, uploadURL string, log io.ReadSeeker) (string, error) {
	const operation = "upload a log"
	u, err := url.Parse(uploadURL)
	if err != nil || u.Host == "" {
		return "", fault.Mark(fault.Fatal, errors.New(operation+": hq sent an upload url that is malformed"))
	}
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	// Logs are compressed and rotated at a few megabytes, so the body fits in memory.
	var body bytes.Buffer
	if _, err := io.Copy(&body, io.LimitReader(log, maxResponse)); err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	header := http.Header{}
	header.Set("Content-Type", "application/x-tgz")
	r := request{
		operation: operation, method: http.MethodPut, url: uploadURL, body: body.Bytes(), header: header,
		timeout: uploadTimeout, keyless: true,
	}
	if _, err := c.send(ctx, r); err != nil {
		return "", err
	}
	return u.Path, nil
}
