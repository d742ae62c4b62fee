package eventhub

import (
	"crypto/tls"
	"errors"
	"net/url"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
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
	renew      func() (choices, error) // nil: they stay as they are
}

// now returns the choices with the secrets and certificates that there are now.
func (c *choices) now() (choices, error) {
	if c.renew == nil {
		return *c, nil
	}
	return c.renew()
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
	var err error
	if c.properties, err = sink.BoolOf(query, "properties", true); err != nil {
		return err
	}
	if c.inFlight, err = sink.IntOf(query, "in-flight", 128, 1, mostInFlight); err != nil {
		return err
	}
	c.patience, err = sink.DurationOf(query, "timeout", 30*time.Second, 100*time.Millisecond, time.Hour)
	return err
}

// mostInFlight is more than Event Hubs lets wait on a link.
const mostInFlight = 1000

// parseTransport reads how the namespace is reached.
func (c *choices) parseTransport(query url.Values, lookup sink.Lookup) error {
	if query.Get("tls-ca") != "" {
		if c.emulator {
			return errors.New("option tls-ca has no effect with UseDevelopmentEmulator=true, which leaves encryption out")
		}
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if err := sink.Certificates(query, c.tls); err != nil {
			return err
		}
	}
	transport, err := sink.ChoiceOf(query, "transport", "amqp", "websockets")
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
