// Package webhook is the destination that posts changes to an HTTP endpoint, in
// signed batches of NDJSON: the way to whatever has no driver of its own.
package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "webhook", Title: "Webhook", Schemes: []string{"https", "http"},
		Example: "https://example.com/changes?secret=${WEBHOOK_SECRET}",
		Summary: "Posts signed batches of changes, as NDJSON, to an HTTP endpoint.",
		Help:    help,
		Options: options,
		Fields: []sink.Field{
			{Name: "URL", Type: "string", Description: "https:// address that takes the changes", Required: true},
			{Name: "Secret", Type: "string", Format: "password", Description: "secret that requests are signed with, whsec_ and base64"},
		},
		Limits:   limits,
		URL:      urlOf,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 1000, Bytes: 4 << 20, Stable: true}

const help = `The URL is that of your endpoint, with eds's options as its query; they are not
sent. Where the endpoint has a query of its own, eds's options begin with eds-, as
https://example.com/in?tenant=7&eds-secret=${WEBHOOK_SECRET}. http:// is for this
machine alone.

Each request is a POST of application/x-ndjson: a change a line, as JSON, in the
order of the stream. Answer 2xx once all of them are durable; nothing is sent on
before. Requests never overlap.

With secret= requests are signed as standardwebhooks.com says: webhook-signature
is v1, and base64 of HMAC-SHA256 over "<webhook-id>.<webhook-timestamp>.<body>",
the body as it was sent. The secret is base64 after whsec_, as
openssl rand -base64 32 makes it, else the text itself.

webhook-id is made of the batch's first and last place in the stream, and of the
ids and clocks of its changes, so that the same batch has the same id whenever it
is sent, also after a crash of eds: at least once, recognisable by id. After a
batch was halved changes may come in other batches; then each change's own "id"
and "mvccTimestamp" tell.

408, 425, 429 and 5xx are tried again, for as long as it takes, after what
Retry-After says. 413 halves the batch; a single change that is refused so, or
with 422, goes to the dead letters. 401 and 403 want another secret or header, 404
and 410 another URL: they stop eds at the first start, and are waited for once the
endpoint has taken changes. Any other answer stops eds. Redirects to another host
are not followed.

An import adds a change for each row, an INSERT with "imported": true.`

var options = []sink.Option{
	{Name: "secret", Description: "what requests are signed with, as ${WEBHOOK_SECRET}"},
	{Name: "header", Description: "a header for each request, as header=X-Team:shop; may come several times"},
	{Name: "secret-header", Description: "a header that logs do not show, as secret-header=Authorization:Bearer%20${TOKEN}"},
	{Name: "gzip", Default: "false", Description: "true compresses the body"},
	{Name: "timeout", Default: "30s", Description: "how long an answer may take"},
	{Name: "rows", Default: "1000", Description: "changes a request at most"},
	{Name: "bytes", Default: "4194304", Description: "bytes of changes a request at most, before compression; a single change may have more"},
}

// prefix sets eds's options apart from those of the endpoint.
const prefix = "eds-"

// choices are what the URL says.
type choices struct {
	target   *url.URL // as it was when the destination was opened
	endpoint *url.URL // without eds's options
	secret   []byte   // nil: requests are not signed
	headers  http.Header
	gzip     bool
	timeout  time.Duration
	limits   sink.Limits
}

func open(_ context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	c, err := parse(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	if c.secret == nil {
		env.Logger.Warn("requests to the webhook are not signed; add secret=${WEBHOOK_SECRET} to its url, so that the endpoint can tell them from others'")
	}
	return newSink(c, env), nil
}

// identity returns the endpoint without eds's options, and without its own that are
// secrets.
func identity(target *url.URL) string {
	_, theirs, err := split(target)
	if err != nil {
		theirs = nil
	}
	for name := range theirs {
		if sink.SecretOption(name) {
			theirs.Del(name)
		}
	}
	standard := map[string]string{"https": "443", "http": "80"}[target.Scheme]
	return sink.JoinIdentity(target.Scheme, sink.HostIdentity(target.Hostname(), target.Port(), standard), target.Path, theirs)
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL) (choices, error) {
	c := choices{target: target, headers: make(http.Header), timeout: 30 * time.Second, limits: limits}
	if target.Opaque != "" || target.Hostname() == "" || target.Fragment != "" {
		return c, errors.New("the webhook's url should read https://host/path")
	}
	if target.Scheme != "https" && !loopback(target.Hostname()) {
		return c, errors.New("the webhook's url should begin with https://; http:// is for this machine alone")
	}
	endpoint := *target
	c.endpoint = &endpoint
	mine, theirs, err := split(target)
	if err != nil {
		return c, err
	}
	endpoint.RawQuery = theirs.Encode()
	return c, c.read(mine)
}

// split tells eds's options from the endpoint's own: an endpoint that has any
// has them all, and eds's begin with the prefix.
func split(target *url.URL) (mine, theirs url.Values, err error) {
	mine, theirs = make(url.Values), make(url.Values)
	prefixed := false
	for name := range target.Query() {
		prefixed = prefixed || strings.HasPrefix(name, prefix)
	}
	for name, values := range target.Query() {
		switch own, ok := strings.CutPrefix(name, prefix); {
		case prefixed && !ok:
			theirs[name] = values
		default:
			mine[own] = values
		}
	}
	if err := sink.CheckOptions(&url.URL{Scheme: target.Scheme, RawQuery: mine.Encode()}, options); err != nil {
		return nil, nil, fmt.Errorf("%w; where the endpoint has options of its own, eds's should begin with %s, as %srows=1000", err, prefix, prefix)
	}
	return mine, theirs, nil
}

func (c *choices) read(query url.Values) error {
	var err error
	if c.secret, err = parseSecret(query.Get("secret")); err != nil {
		return err
	}
	for _, option := range []string{"header", "secret-header"} {
		for _, header := range query[option] {
			if err := c.readHeader(option, header); err != nil {
				return err
			}
		}
	}
	if c.gzip, err = sink.BoolOf(query, "gzip", false); err != nil {
		return err
	}
	if c.timeout, err = sink.DurationOf(query, "timeout", c.timeout, 100*time.Millisecond, time.Hour); err != nil {
		return err
	}
	if c.limits.Rows, err = sink.IntOf(query, "rows", limits.Rows, 1, 100_000); err != nil {
		return err
	}
	c.limits.Bytes, err = sink.IntOf(query, "bytes", limits.Bytes, 1, 256<<20)
	return err
}

// readHeader reads a header of every request.
func (c *choices) readHeader(option, text string) error {
	name, value, ok := strings.Cut(text, ":")
	name = http.CanonicalHeaderKey(strings.TrimSpace(name))
	if !ok || name == "" || strings.ContainsFunc(name, notInToken) || strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("option %[1]s should read like %[1]s=Name:value", option)
	}
	switch name {
	case "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Content-Type", "Content-Encoding", "Content-Length", "Host", "Transfer-Encoding", "Connection":
		return fmt.Errorf("option %s can not set %s, which eds does", option, name)
	}
	if option == "header" && confidential.MatchString(name) {
		return fmt.Errorf("option header sets %s, which logs would show; write secret-header= instead", name)
	}
	c.headers.Add(name, strings.TrimSpace(value))
	return nil
}

// confidential are names of headers that should not be shown.
var confidential = regexp.MustCompile(`(?i)auth|cookie|token|key|secret|sign|credential|pass`)

// parseSecret returns the key of signatures.
func parseSecret(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	encoded, ok := strings.CutPrefix(text, "whsec_")
	if !ok {
		return []byte(text), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, errors.New("option secret begins with whsec_, so base64 should follow; write + as %2B, or put it in the environment")
	}
	return key, nil
}

// notInToken reports whether a header's name can't have r (RFC 9110, 5.6.2).
func notInToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// urlOf makes a URL of the values of the driver's fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
	address, secret := strings.TrimSpace(values["URL"]), values["Secret"]
	u, err := url.Parse(address)
	switch {
	case address == "":
		return "", []sink.FieldError{{Field: "URL", Error: "name the address that takes the changes"}}
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())):
		return "", []sink.FieldError{{Field: "URL", Error: "it should read https://host/path"}}
	}
	if _, err := parseSecret(secret); err != nil {
		return "", []sink.FieldError{{Field: "Secret", Error: "after whsec_ should follow base64"}}
	}
	query := u.Query()
	if secret != "" && len(query) > 0 {
		query.Set(prefix+"secret", secret)
	} else if secret != "" {
		query.Set("secret", secret)
	}
	u.RawQuery = query.Encode()
	if _, err := parse(u); err != nil {
		return "", []sink.FieldError{{Field: "URL", Error: err.Error()}}
	}
	return u.String(), nil
}
