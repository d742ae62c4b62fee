package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// responseTimeout is the maximum time for the server to respond. It does not limit streams of
// progress.
const responseTimeout = 10 * time.Second

// Client sends requests to the server that runs with a data directory. An error of type *Error
// is the server's response. ErrNoServer means that no server runs. ErrConnectionLost means that
// the server ended during the request, and may or may not have handled the request.
type Client struct {
	dataDir string
	http    http.Client
}

// NewClient returns a client for the server that runs with a data directory. It does not
// connect yet.
func NewClient(dataDir string) *Client {
	return &Client{dataDir, http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket(dataDir))
		},
		ResponseHeaderTimeout: responseTimeout,
		DisableKeepAlives:     true,
	}}}
}

// Status returns the state of the server.
func (c *Client) Status(ctx context.Context) (server.Report, error) {
	var r server.Report
	return r, c.call(ctx, http.MethodGet, "/status", nil, &r)
}

// AcceptGap accepts the gap with the given id for one table, or for all tables of the gap if the
// parameter table is "". It returns the names of these tables.
func (c *Client) AcceptGap(ctx context.Context, id, table string) ([]string, error) {
	var r gapResponse
	err := c.call(ctx, http.MethodPost, "/accept-gap", gapRequest{id, table}, &r)
	return r.Tables, err
}

// Verified reports to the server that tables were compared and found equal. The parameter
// identity is the identity of the compared destination.
func (c *Client) Verified(ctx context.Context, identity string, v server.Verification) error {
	return c.call(ctx, http.MethodPost, "/verified", verifiedRequest{identity, v}, new(struct{}))
}

// CancelImport cancels an import. The tables of the import keep their rows.
func (c *Client) CancelImport(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, importPath(id), nil, new(struct{}))
}

// Import requests an import, calls the function accepted with the import's id, and then watches the
// import like WatchImport. If an import with the same ImportRequest.ID exists, Import only watches
// that import.
func (c *Client) Import(
	ctx context.Context, q ImportRequest, accepted func(id string), observe snapshot.Observer,
) (snapshot.Report, error) {
	return c.watch(ctx, http.MethodPost, "/import", q, accepted, observe)
}

// WatchImport calls the function observe with the progress of an import until the import ends, and
// returns its outcome. If ctx is done, the import continues. If the server ends, the error is
// ErrConnectionLost, and the next server resumes the import.
func (c *Client) WatchImport(ctx context.Context, id string, observe snapshot.Observer) (snapshot.Report, error) {
	return c.watch(ctx, http.MethodGet, importPath(id), nil, func(string) {}, observe)
}

func importPath(id string) string { return "/import?" + url.Values{"id": {id}}.Encode() }

func (c *Client) watch(
	ctx context.Context, method, path string, body any, accepted func(id string), observe snapshot.Observer,
) (snapshot.Report, error) {
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return snapshot.Report{}, err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var u importUpdate
		if err := decoder.Decode(&u); err != nil {
			return snapshot.Report{}, streamError(ctx, err)
		}
		switch {
		case u.ID != "":
			accepted(u.ID)
		case u.Progress != nil && u.Totals != nil:
			if observe != nil {
				observe(u.Progress.snapshot(), *u.Totals)
			}
		case u.Report != nil && u.Error != nil:
			return u.Report.snapshot(), u.Error
		case u.Report != nil:
			return u.Report.snapshot(), nil
		}
	}
}

// streamError returns the reason why the stream of progress ended early.
func streamError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("watch the import: %w; eds status says whether it continues", connectionError(err))
}

// connectionError returns ErrConnectionLost if err means that the server has ended the
// connection, and err otherwise.
func connectionError(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return ErrConnectionLost
		}
	}
	return err
}

// call sends a request, and decodes the response into the value that the parameter into points
// to.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, responseTimeout)
	defer cancel()
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("decode the response of the server: %w", connectionError(err))
	}
	return nil
}

// do sends a request. It returns a response with status 200, or an error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var text io.Reader = http.NoBody
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the request to the server: %w", err)
		}
		text = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://eds"+path, text)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if dial := new(net.OpError); errors.As(err, &dial) && dial.Op == "dial" {
		return nil, fmt.Errorf("%w for the data directory %s; start one with eds server, or name another with --data-dir: %w",
			ErrNoServer, c.dataDir, dial)
	}
	if failed := new(url.Error); errors.As(err, &failed) {
		if err = failed.Err; !failed.Timeout() && ctx.Err() == nil { // net/http has many errors for a lost connection
			err = ErrConnectionLost
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask the server of the data directory %s: %w", c.dataDir, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	refused := new(Error)
	if json.NewDecoder(io.LimitReader(response.Body, maxBody)).Decode(refused) != nil || refused.Message == "" {
		return nil, fmt.Errorf("the server of the data directory %s answers %s: it runs another version of eds",
			c.dataDir, response.Status)
	}
	return nil, refused
}
