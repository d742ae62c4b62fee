// Package webhook is the destination that posts changes to an HTTP endpoint, in signed batches of
// NDJSON. It serves destinations that have no driver.
package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
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
		Options: options, OptionPrefix: prefix,
		Fields: []sink.Field{
			{Name: "URL", Type: "string", Description: "https:// address that takes the changes", Required: true},
			{Name: "Secret", Type: "string", Format: "password", Description: "secret that signs requests: whsec_ and base64"},
		},
		Limits:   limits,
		URL:      buildURL,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 1000, Bytes: 4 << 20, Stable: true}

const help = `The URL is that of your endpoint, with eds's options as its query; eds does not send
them. If the endpoint has a query of its own, eds's options begin with eds-:
https://example.com/in?tenant=7&eds-secret=${WEBHOOK_SECRET}. http:// is only for
this machine.

Each request is a POST of application/x-ndjson: one change per line, as JSON, in the
order of the stream. Answer 2xx once all of them are durable; before that eds sends
nothing more. Requests never overlap.

With secret= eds signs requests as standardwebhooks.com describes: webhook-signature
is v1, and base64 of HMAC-SHA256 over "<webhook-id>.<webhook-timestamp>.<body>", the
body as eds sent it. After a prefix whsec_, eds reads the secret as base64, as
printed by openssl rand -base64 32; without the prefix it uses the secret unchanged.

webhook-id consists of the batch's first and last position in the stream, and of the
ids and clocks of its changes, so that the same batch has the same id whenever eds
sends it, also after a crash: at least once, recognisable by id. After eds has halved a
batch, changes may come in other batches; each change's own "id" and "mvccTimestamp"
identify it.

eds retries 408, 425, 429 and 5xx until the endpoint takes the request, after the time
in Retry-After. 413 halves the batch; a single change that is refused so, or with 422,
is dead-lettered. 401 and 403 need another secret or header, 404 and 410 another URL:
they stop eds at the first start; once the endpoint has taken changes, eds waits and
retries. Any other answer stops eds. It does not follow redirects to another host.

An import adds a change for each row, an INSERT with "imported": true.`

var options = []sink.Option{
	{
		Name: "secret", Type: sink.SecretText{},
		Help: "secret that signs requests, such as `${WEBHOOK_SECRET}`; after a prefix `whsec_` it is read as base64, " +
			"otherwise used unchanged",
	},
	{
		Name: "header", Harmless: true,
		Help: "`Name:value`, a header of each request, such as `header=X-Team:shop`; may come several times",
	},
	{
		Name: "secret-header", Type: sink.SecretText{},
		Help: "a header that logs do not show, such as `secret-header=Authorization:Bearer%20${TOKEN}`; may come several times",
	},
	{Name: "gzip", Type: sink.Bool{}, Default: "false", Help: "`true` compresses the body, with `Content-Encoding: gzip`"},
	{
		Name: "timeout", Type: sink.Duration{Min: 100 * time.Millisecond, Max: time.Hour}, Default: "30s",
		Help: "how long a response may take",
	},
	{Name: "rows", Type: sink.Int{Min: 1, Max: 100_000}, Default: "1000", Help: "maximum number of changes in a request"},
	{
		Name: "bytes", Type: sink.Int{Min: 1, Max: 256 << 20}, Default: "4194304",
		Help: "maximum bytes of changes in a request, before compression; a single change may be larger",
	},
}

// prefix distinguishes options of eds from options of the endpoint.
const prefix = "eds-"

// config is a parsed destination URL.
type config struct {
	target   *url.URL // the URL from which the config was parsed
	endpoint *url.URL // the URL to post to, without the options of eds
	secret   []byte   // nil if requests are not signed
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
		env.Logger.Warn("requests to the webhook are not signed; " +
			"add secret=${WEBHOOK_SECRET} to its url, so that the endpoint can recognise them")
	}
	return newSink(c, env), nil
}

// identity returns the identity of the destination: the endpoint's URL, without the options of eds
// and without secret options of the endpoint.
func identity(target *url.URL) string {
	_, others := split(target)
	for name := range others {
		if sink.SecretOption(name) {
			others.Del(name)
		}
	}
	standard := map[string]string{"https": "443", "http": "80"}[target.Scheme]
	return sink.JoinIdentity(target.Scheme, sink.HostIdentity(target.Hostname(), target.Port(), standard), target.Path, others)
}

// parse reads a destination URL. An error contains no secret of the URL.
func parse(target *url.URL) (config, error) {
	c := config{target: target, headers: make(http.Header), limits: limits}
	if target.Opaque != "" || target.Hostname() == "" || target.Fragment != "" {
		return c, errors.New("the webhook's url should read https://host/path")
	}
	if target.Scheme != "https" && !sink.Loopback(target.Hostname()) {
		return c, errors.New("the webhook's url should begin with https://; http:// is only for this machine")
	}
	own, others := split(target)
	v, err := sink.ParseOptions(&url.URL{Scheme: target.Scheme, RawQuery: own.Encode()}, options)
	if err != nil {
		return c, fmt.Errorf("%w; if the endpoint has options of its own, "+
			"eds's should begin with %s, as %srows=1000", err, prefix, prefix)
	}
	endpoint := *target
	endpoint.RawQuery = others.Encode()
	c.endpoint = &endpoint
	return c, c.read(v)
}

// split separates the options of eds from the options of the endpoint. If any name starts with the
// prefix, the options with the prefix belong to eds and all others to the endpoint. Otherwise all
// options belong to eds.
func split(target *url.URL) (own, others url.Values) {
	own, others = make(url.Values), make(url.Values)
	prefixed := false
	for name := range target.Query() {
		prefixed = prefixed || strings.HasPrefix(name, prefix)
	}
	for name, values := range target.Query() {
		switch bare, ok := strings.CutPrefix(name, prefix); {
		case prefixed && !ok:
			others[name] = values
		default:
			own[bare] = values
		}
	}
	return own, others
}

func (c *config) read(v sink.Values) error {
	var err error
	if c.secret, err = parseSecret(v.Text("secret")); err != nil {
		return err
	}
	for _, option := range []string{"header", "secret-header"} {
		for _, header := range v.All(option) {
			if err := c.readHeader(option, header); err != nil {
				return err
			}
		}
	}
	c.gzip, c.timeout, c.limits.Rows, c.limits.Bytes = v.Bool("gzip"), v.Duration("timeout"), v.Int("rows"), v.Int("bytes")
	return nil
}

// readHeader reads a header in the form Name:value, which every request will have.
func (c *config) readHeader(option, text string) error {
	name, value, ok := strings.Cut(text, ":")
	name = http.CanonicalHeaderKey(strings.TrimSpace(name))
	if !ok || name == "" || strings.ContainsFunc(name, notInToken) || strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("option %[1]s should read like %[1]s=Name:value", option)
	}
	switch name {
	case "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Content-Type", "Content-Encoding", "Content-Length", "Host",
		"Transfer-Encoding", "Connection":
		return fmt.Errorf("option %s cannot set %s, which eds sets itself", option, name)
	}
	if option == "header" && confidential.MatchString(name) {
		return fmt.Errorf("option header sets %s, which logs would show; write secret-header= instead", name)
	}
	c.headers.Add(name, strings.TrimSpace(value))
	return nil
}

// The pattern confidential matches the names of headers whose values should not be shown.
var confidential = regexp.MustCompile(`(?i)auth|cookie|token|key|secret|sign|credential|pass`)

// parseSecret returns the key that signs requests, or nil if text is empty. A text that starts with
// whsec_ contains the key in base64.
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
		return nil, errors.New("option secret begins with whsec_, so base64 should follow; " +
			"write + as %2B, or put it in the environment")
	}
	return key, nil
}

// notInToken reports whether r is not allowed in a header's name (RFC 9110, section 5.6.2).
func notInToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

// buildURL builds a destination URL from the values of the driver's fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	address, secret := strings.TrimSpace(values["URL"]), values["Secret"]
	u, err := url.Parse(address)
	switch {
	case address == "":
		return "", []sink.FieldError{{Field: "URL", Error: "name the address that takes the changes"}}
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && (u.Scheme != "http" || !sink.Loopback(u.Hostname())):
		return "", []sink.FieldError{{Field: "URL", Error: "it should read https://host/path"}}
	}
	if _, err := parseSecret(secret); err != nil {
		return "", []sink.FieldError{{Field: "Secret", Error: "base64 should follow whsec_"}}
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
