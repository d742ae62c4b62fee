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

// config is a parsed destination URL.
type config struct {
	connectionString
	name       *encode.Route
	credential azcore.TokenCredential // nil if the shared access key is used
	properties bool
	inFlight   int
	dial       amqpDialer
	tls        *tls.Config // nil to trust the system's authorities
	patience   time.Duration
	renew      func() (config, error) // parses the URL again; nil if the config never changes
}

// now returns the config with the current secrets and certificates, which may have been
// rotated.
func (c *config) now() (config, error) {
	if c.renew == nil {
		return *c, nil
	}
	return c.renew()
}

const errShape = "the eventhub url should read " +
	"eventhub://example.servicebus.windows.net/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath=hub"

// parse reads a destination URL. An error contains no secret of the URL.
func parse(target *url.URL, lookup sink.Lookup) (config, error) {
	var c config
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return c, err
	}
	if target.Opaque != "" || target.Fragment != "" || target.User != nil {
		return c, errors.New(errShape + "; write # as %23")
	}
	if lookup == nil {
		lookup = func(string) (string, bool) { return "", false }
	}
	// Host and Path must be joined: the first / may come after a ;, and a key may contain a /.
	if c.connectionString, err = parseConnection(target.Host + target.Path); err != nil {
		return c, err
	}
	if named := v.Text("hub"); named != "" {
		if c.hub != "" && c.hub != named {
			return c, errors.New("the eventhub url names a hub in its connection string and another one in its option hub; leave one out")
		}
		c.hub = named
	}
	if c.name, err = parseHub(c.hub); err != nil {
		return c, err
	}
	c.properties, c.inFlight, c.patience = v.Bool("properties"), v.Int("in-flight"), v.Duration("timeout")
	if err := c.parseTransport(v, lookup); err != nil {
		return c, err
	}
	return c, c.parseAuth(v, lookup)
}

// maxInFlight is the maximum value of the option in-flight. Event Hubs lets fewer messages than
// that wait on a link.
const maxInFlight = 1000

// parseTransport reads the options that say how to connect to the namespace: transport, proxy and
// tls-ca.
func (c *config) parseTransport(v sink.Values, lookup sink.Lookup) error {
	if v.Given("tls-ca") {
		if c.emulator {
			return errors.New("option tls-ca has no effect with UseDevelopmentEmulator=true, which leaves encryption out")
		}
		c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if err := sink.Certificates(v, c.tls); err != nil {
			return err
		}
	}
	if v.Text("transport") == "amqp" {
		if v.Given("proxy") {
			return errors.New("option proxy needs transport=websockets")
		}
		c.dial = c.overTCP()
		return nil
	}
	proxy, err := parseProxy(v.Text("proxy"), lookup)
	if err != nil {
		return err
	}
	c.dial = c.overWebSockets(proxy)
	return nil
}
