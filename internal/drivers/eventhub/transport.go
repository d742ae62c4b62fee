package eventhub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http/httpproxy"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// dialer opens a connection to the namespace that carries AMQP.
type dialer func(ctx context.Context) (net.Conn, error)

// Ports of AMQP, with TLS and without.
const (
	securePort = "5671"
	plainPort  = "5672"
)

// overTCP returns what opens connections to the namespace's port of AMQP.
func (c *config) overTCP() dialer {
	port := securePort
	if c.emulator {
		port = plainPort
	}
	address := c.host
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, port)
	}
	network := &net.Dialer{Timeout: dialTimeout}
	if c.emulator {
		return func(ctx context.Context) (net.Conn, error) { return network.DialContext(ctx, "tcp", address) }
	}
	secure := &tls.Dialer{NetDialer: network, Config: c.tls}
	return func(ctx context.Context) (net.Conn, error) { return secure.DialContext(ctx, "tcp", address) }
}

// dialTimeout bounds how long a connection may take to open.
const dialTimeout = 10 * time.Second

// overWebSockets returns what opens connections to the namespace's port of HTTPS.
func (c *config) overWebSockets(proxy proxyOf) dialer {
	scheme := "wss://"
	if c.emulator {
		scheme = "ws://" // it has no certificate
	}
	address := scheme + c.host + "/$servicebus/websocket"
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		// The connection leaves this transport's hands: nothing stays idle in it.
		transport := &http.Transport{Proxy: proxy, TLSClientConfig: c.tls.Clone()}
		conn, answer, err := websocket.Dial(ctx, address, &websocket.DialOptions{Subprotocols: []string{"amqp"}, HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
				return nil, fmt.Errorf("open a WebSocket: the other side answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
			}
			return nil, fmt.Errorf("open a WebSocket: %w", err)
		}
		conn.SetReadLimit(-1) // AMQP has limits of its own
		return websocket.NetConn(context.Background(), conn, websocket.MessageBinary), nil
	}
}

// proxyOf says by which proxy a URL is reached; a nil URL is by none.
type proxyOf func(*http.Request) (*url.URL, error)

// parseProxy reads the option proxy, or the environment's proxies.
func parseProxy(option string, lookup sink.Lookup) (proxyOf, error) {
	switch option {
	case "":
		return environmentProxy(lookup), nil
	case "none":
		return nil, nil
	}
	u, err := url.Parse(option)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, errors.New("option proxy should be like http://proxy:8080, or none")
	}
	if u.User != nil {
		return nil, errors.New("option proxy should hold no password, which logs would show; put the proxy with its user and password into the environment, as HTTPS_PROXY")
	}
	return http.ProxyURL(u), nil
}

// environmentProxy returns the proxies that HTTPS_PROXY and NO_PROXY name.
func environmentProxy(lookup sink.Lookup) proxyOf {
	first := func(names ...string) string {
		for _, name := range names {
			if value, ok := lookup(name); ok && value != "" {
				return value
			}
		}
		return ""
	}
	config := httpproxy.Config{HTTPSProxy: first("HTTPS_PROXY", "https_proxy"), NoProxy: first("NO_PROXY", "no_proxy")}
	choose := config.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) {
		u := *r.URL // of a WebSocket, which proxies take for what it is over
		u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
		return choose(&u)
	}
}
