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

// overTCP returns a dialer for the namespace's AMQP port.
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

// overWebSockets returns a dialer for the namespace's HTTPS port.
func (c *config) overWebSockets(proxy proxyFunc) dialer {
	scheme := "wss://"
	if c.emulator {
		scheme = "ws://" // it has no certificate
	}
	address := scheme + c.host + "/$servicebus/websocket"
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		// The transport gives up the connection, so it keeps no idle one.
		transport := &http.Transport{Proxy: proxy, TLSClientConfig: c.tls.Clone()}
		conn, answer, err := websocket.Dial(ctx, address, &websocket.DialOptions{
			Subprotocols: []string{"amqp"},
			HTTPClient:   &http.Client{Transport: transport},
		})
		if err != nil {
			if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
				return nil, fmt.Errorf("open a WebSocket: the server answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
			}
			return nil, fmt.Errorf("open a WebSocket: %w", err)
		}
		conn.SetReadLimit(-1) // AMQP has limits of its own
		return websocket.NetConn(context.Background(), conn, websocket.MessageBinary), nil
	}
}

// proxyFunc returns the proxy for a request's URL; nil: none.
type proxyFunc func(*http.Request) (*url.URL, error)

// parseProxy reads the option proxy, or the environment's proxies.
func parseProxy(option string, lookup sink.Lookup) (proxyFunc, error) {
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
		return nil, errors.New("option proxy should hold no password, which logs would show; put the proxy with its user and password " +
			"into the environment, as HTTPS_PROXY")
	}
	return http.ProxyURL(u), nil
}

// environmentProxy returns a proxyFunc that follows HTTPS_PROXY and NO_PROXY.
func environmentProxy(lookup sink.Lookup) proxyFunc {
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
		u := *r.URL // a WebSocket's scheme, while proxies are configured for HTTP
		u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
		return choose(&u)
	}
}
