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

// answerTime bounds how long the server may take to answer, except that it streams the
// progress of an import for as long as that takes.
const answerTime = 10 * time.Second

// Client asks the server that runs with a data directory. ErrNoServer says that there is
// none, and ErrConnectionLost that it has ended meanwhile, so that it may or may not have
// done what was asked; an *Error is the server's answer.
type Client struct {
	dataDir string
	http    http.Client
}

// NewClient returns a client for the server of a data directory. It does not connect.
func NewClient(dataDir string) *Client {
	return &Client{dataDir, http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket(dataDir))
		},
		ResponseHeaderTimeout: answerTime,
		DisableKeepAlives:     true,
	}}}
}

// Status returns how the server is.
func (c *Client) Status(ctx context.Context) (server.Report, error) {
	var r server.Report
	return r, c.call(ctx, http.MethodGet, "/status", nil, &r)
}

// AcceptGap accepts a gap, of one table or, if that is "", of all its tables. It returns
// their names.
func (c *Client) AcceptGap(ctx context.Context, id, table string) ([]string, error) {
	var a gapAnswer
	err := c.call(ctx, http.MethodPost, "/accept-gap", gapRequest{id, table}, &a)
	return a.Tables, err
}

// Verified tells the server of the tables of a destination, of the given identity, whose
// rows were found equal.
func (c *Client) Verified(ctx context.Context, identity string, v server.Verification) error {
	return c.call(ctx, http.MethodPost, "/verified", verifiedRequest{identity, v}, new(struct{}))
}

// CancelImport ends an import. Its tables keep the rows that they have.
func (c *Client) CancelImport(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, importPath(id), nil, new(struct{}))
}

// Import requests an import, calls accepted with its id, and then does as WatchImport. It
// can be called again with the same ImportRequest.ID: then the import is only watched.
func (c *Client) Import(ctx context.Context, q ImportRequest, accepted func(id string), observe snapshot.Observer) (snapshot.Report, error) {
	return c.watch(ctx, http.MethodPost, "/import", q, accepted, observe)
}

// WatchImport calls observe with the progress of an import until it ends, and returns its
// outcome. If ctx ends, the import goes on. If the server ends, it is resumed by the next
// one, and the error is ErrConnectionLost.
func (c *Client) WatchImport(ctx context.Context, id string, observe snapshot.Observer) (snapshot.Report, error) {
	return c.watch(ctx, http.MethodGet, importPath(id), nil, func(string) {}, observe)
}

func importPath(id string) string { return "/import?" + url.Values{"id": {id}}.Encode() }

func (c *Client) watch(ctx context.Context, method, path string, body any, accepted func(id string), observe snapshot.Observer) (snapshot.Report, error) {
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return snapshot.Report{}, err
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for {
		var l line
		if err := lines.Decode(&l); err != nil {
			return snapshot.Report{}, cutOff(ctx, err)
		}
		switch {
		case l.ID != "":
			accepted(l.ID)
		case l.Progress != nil && l.Totals != nil:
			if observe != nil {
				observe(l.Progress.snapshot(), *l.Totals)
			}
		case l.Report != nil && l.Error != nil:
			return l.Report.snapshot(), l.Error
		case l.Report != nil:
			return l.Report.snapshot(), nil
		}
	}
}

// cutOff returns why the stream of progress ended early.
func cutOff(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("watch the import: %w; eds status says whether it goes on", lost(err))
}

// lost returns ErrConnectionLost if err says that the server has ended the connection,
// else err.
func lost(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return ErrConnectionLost
		}
	}
	return err
}

// call sends a request and decodes the answer.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	response, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("read the answer of the server: %w", lost(err))
	}
	return nil
}

// do sends a request. The answer is one of success.
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
		return nil, fmt.Errorf("%w for the data directory %s; start one with eds server, or name another with --data-dir: %w", ErrNoServer, c.dataDir, dial)
	}
	if failed := new(url.Error); errors.As(err, &failed) {
		if err = failed.Err; !failed.Timeout() && ctx.Err() == nil { // net/http has many errors for it
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
	if json.NewDecoder(io.LimitReader(response.Body, mostBody)).Decode(refused) != nil || refused.Message == "" {
		return nil, fmt.Errorf("the server of the data directory %s answers %s: it is of another version of eds", c.dataDir, response.Status)
	}
	return nil, refused
}
