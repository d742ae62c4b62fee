package eventhub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/shopmonkeyus/eds/internal/encode"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// choices are what the URL says.
type choices struct {
	connection
	name       *encode.Route
	credential azcore.TokenCredential // nil: the shared access key
	properties bool
	inFlight   int
	dial       dialer
	tls        *tls.Config // nil: the system's authorities
	patience   time.Duration
}

const errShape = "the eventhub url should read eventhub://example.servicebus.windows.net/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath=hub"

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL, lookup sink.Lookup) (choices, error) {
	var c choices
	if target.Opaque != "" || target.Fragment != "" || target.User != nil {
		return c, errors.New(errShape + "; write # as %23")
	}
	if lookup == nil {
		lookup = func(string) (string, bool) { return "", false }
	}
	var err error
	// A ; may come before the first /, and / is a digit of keys.
	if c.connection, err = parseConnection(target.Host + target.Path); err != nil {
		return c, err
	}
	query := target.Query()
	if named := query.Get("hub"); named != "" {
		if c.hub != "" && c.hub != named {
			return c, errors.New("the eventhub url names a hub in its connection string and another one in its option hub; leave one out")
		}
		c.hub = named
	}
	if c.name, err = parseHub(c.hub); err != nil {
		return c, err
	}
	if err := c.parseDelivery(query); err != nil {
		return c, err
	}
	if err := c.parseTransport(query, lookup); err != nil {
		return c, err
	}
	return c, c.parseAuth(query, lookup)
}

// parseDelivery reads how events are sent.
func (c *choices) parseDelivery(query url.Values) error {
	switch text := query.Get("properties"); text {
	case "", "true":
		c.properties = true
	case "false":
	default:
		return fmt.Errorf("option properties is %q; it should be true or false", text)
	}
	c.inFlight = 128
	if text := query.Get("in-flight"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostInFlight {
			return fmt.Errorf("option in-flight is %q; it should be a number from 1 to %d", text, mostInFlight)
		}
		c.inFlight = n
	}
	c.patience = 30 * time.Second
	if text := query.Get("timeout"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 100*time.Millisecond || d > time.Hour {
			return fmt.Errorf("option timeout is %q; it should be a duration like 500ms or 30s, from 100ms to 1h", text)
		}
		c.patience = d
	}
	return nil
}

// mostInFlight is more than Event Hubs lets wait on a link.
const mostInFlight = 1000

// parseTransport reads how the namespace is reached.
func (c *choices) parseTransport(query url.Values, lookup sink.Lookup) error {
	if path := query.Get("tls-ca"); path != "" {
		if c.emulator {
			return errors.New("option tls-ca has no effect with UseDevelopmentEmulator=true, which leaves encryption out")
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read tls-ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return fmt.Errorf("read tls-ca: %s holds no certificate in PEM", path)
		}
		c.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	transport, err := oneOf(query, "transport", "amqp", "websockets")
	if err != nil {
		return err
	}
	if transport == "amqp" {
		if query.Get("proxy") != "" {
			return errors.New("option proxy needs transport=websockets")
		}
		c.dial = c.overTCP()
		return nil
	}
	proxy, err := parseProxy(query.Get("proxy"), lookup)
	if err != nil {
		return err
	}
	c.dial = c.overWebSockets(proxy)
	return nil
}

// oneOf reads an option that has one of a few values; the first is its default.
func oneOf(query url.Values, name string, values ...string) (string, error) {
	text := query.Get(name)
	if text == "" {
		return values[0], nil
	}
	for _, v := range values {
		if text == v {
			return v, nil
		}
	}
	hint := ""
	if best := sink.Nearest(text, values); best != "" {
		hint = fmt.Sprintf("; did you mean %q?", best)
	}
	last := len(values) - 1
	return "", fmt.Errorf("option %s is %q; it should be %s or %s%s", name, text, strings.Join(values[:last], ", "), values[last], hint)
}
