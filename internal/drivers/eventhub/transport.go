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

// amqpDialer opens a connection that carries AMQP to the namespace.
type amqpDialer func(ctx context.Context) (net.Conn, error)

// Ports of AMQP with TLS and without TLS.
const (
	securePort = "5671"
	plainPort  = "5672"
)

// overTCP returns a dialer for the namespace's AMQP port, with TLS unless the namespace is the
// emulator.
func (c *config) overTCP() amqpDialer {
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

// dialTimeout is the maximum time to open a connection.
const dialTimeout = 10 * time.Second

// overWebSockets returns a dialer that carries AMQP over a WebSocket to the namespace's HTTPS port.
func (c *config) overWebSockets(proxy proxyFunc) amqpDialer {
	scheme := "wss://"
	if c.emulator {
		scheme = "ws://" // the emulator has no certificate
	}
	address := scheme + c.host + "/$servicebus/websocket"
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		// The WebSocket takes the connection over, so no idle connection stays in the transport.
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
		conn.SetReadLimit(-1) // no limit, because AMQP limits its frames itself
		return websocket.NetConn(context.Background(), conn, websocket.MessageBinary), nil
	}
}

// proxyFunc returns the proxy for a request, or nil if the request needs no proxy.
type proxyFunc func(*http.Request) (*url.URL, error)

// parseProxy reads the option proxy. If the option is empty, the proxies of the environment apply.
// If it is "none", parseProxy returns nil.
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

// environmentProxy returns a proxyFunc that follows HTTPS_PROXY and NO_PROXY, in upper or lower
// case.
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
		u := *r.URL // its scheme is ws or wss, but proxies are chosen by http or https
		u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
		return choose(&u)
	}
}
