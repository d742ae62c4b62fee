// Package eventhub is a namespace of Azure Event Hubs for tests. It is an AMQP 1.0 server that
// checks everything that the service checks of a producer: tokens and their signatures, claims,
// sizes, and partition keys. It is stricter than the service about the protocol. On request, its
// hubs fail in the ways in which the service fails.
//
// Only tests import this package.
package eventhub

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/shopmonkeyus/eds/internal/testing/peers/amqp"
)

// Namespace is a running namespace, with its hubs and clients.
type Namespace struct {
	Addr      string // host:port of the listener for AMQP without TLS
	WebSocket string // host:port of the listener for AMQP over WebSockets

	log   *os.File       // file that records the events that hubs store; nil for none
	group sync.WaitGroup // goroutines of listeners and connections
	dead  chan struct{}  // closed by the fault "die"

	mu         sync.Mutex // guards the fields below, and the state of hubs and clients
	hubs       map[string]*Hub
	clients    map[*client]struct{}
	listeners  []io.Closer
	ended      bool
	violations []error // violations of the protocol by clients
}

// Start starts a namespace that has no hubs and keeps events in memory only.
func Start() (*Namespace, error) { return start("127.0.0.1:0", nil) }

// StartAt starts a namespace at an address. The address may be that of a namespace that has died.
// The new namespace keeps events in the file at path. A new hub starts with the events that the
// file contains for the hub's name.
func StartAt(addr, path string) (*Namespace, error) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := start(addr, log)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return n, nil
}

func start(addr string, log *os.File) (*Namespace, error) {
	n := &Namespace{log: log, dead: make(chan struct{}), hubs: make(map[string]*Hub), clients: make(map[*client]struct{})}
	plain, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	n.Addr = plain.Addr().String()
	n.listen(plain)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	n.WebSocket = web.Addr().String()
	n.listenWebSocket(web)
	return n, nil
}

// Stop ends the namespace. It returns an error if clients have violated the protocol.
func (n *Namespace) Stop() error {
	n.end()
	n.group.Wait()
	if n.log != nil {
		n.violations = append(n.violations, n.log.Close())
	}
	return errors.Join(n.violations...)
}

// AwaitDeath waits until the fault "die" has ended the namespace, and returns the error of Stop.
func (n *Namespace) AwaitDeath() error {
	<-n.dead
	return n.Stop()
}

// end closes all listeners and cuts all connections.
func (n *Namespace) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for c := range n.clients {
		c.conn.Cut()
	}
}

func (n *Namespace) listen(l net.Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = append(n.listeners, l)
	n.group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the listener is closed
			}
			n.group.Go(func() { n.serve(conn) })
		}
	})
}

// TLS adds a listener for AMQP over TLS and returns its address. The parameters certificate and key
// are paths of PEM files.
func (n *Namespace) TLS(t testing.TB, certificate, key string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	n.listen(l)
	return l.Addr().String()
}

func (n *Namespace) listenWebSocket(l net.Listener) {
	server := &http.Server{
		Handler: http.HandlerFunc(n.serveWebSocket), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = append(n.listeners, server)
	n.group.Go(func() { _ = server.Serve(l) }) // Serve returns when the server is closed
}

func (n *Namespace) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/$servicebus/websocket" {
		http.NotFound(w, r)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"amqp"}})
	if err != nil {
		return // Accept has answered the client
	}
	if ws.Subprotocol() != "amqp" {
		n.violation(errors.New("a websocket without the subprotocol amqp"))
		_ = ws.CloseNow()
		return
	}
	ws.SetReadLimit(-1) // no limit, because AMQP limits its frames itself
	n.serve(webSocketConn{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws})
}

// webSocketConn is a WebSocket connection that, like a TCP connection, closes without a handshake.
type webSocketConn struct {
	net.Conn
	ws *websocket.Conn
}

func (c webSocketConn) Close() error { return c.ws.CloseNow() }

// serve serves a connection until it ends.
func (n *Namespace) serve(conn net.Conn) {
	c := &client{namespace: n, granted: make(map[string][]string)}
	c.conn = amqp.NewConn(conn, c)
	if !n.add(c) {
		_ = conn.Close()
		return
	}
	defer n.remove(c)
	c.conn.Serve()
}

func (n *Namespace) add(c *client) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.group.Add(1)
	n.clients[c] = struct{}{}
	return true
}

func (n *Namespace) remove(c *client) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.clients, c)
	n.group.Done()
}

func (n *Namespace) violation(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.violations = append(n.violations, fmt.Errorf("a client of Event Hubs breaks the protocol: %w", err))
}

// Hub returns the hub with the given name, or nil if there is none.
func (n *Namespace) Hub(name string) *Hub {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hubs[name]
}

// Settings are the properties of a new hub.
type Settings struct {
	Partitions int  // number of partitions; 0 means 4
	Max        int  // maximum bytes of a message; 0 means 1 MiB; -1 sends no maximum
	Discards   bool // the hub accepts messages without storing their events
}

// Make creates a hub. It replaces a hub that has the same name.
func (n *Namespace) Make(t testing.TB, name string, s Settings) *Hub {
	t.Helper()
	if s.Partitions == 0 {
		s.Partitions = 4
	}
	if s.Max == 0 {
		s.Max = 1 << 20
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Hub{Name: name, namespace: n, settings: s, partitions: make([][]Event, s.Partitions), tokens: make(map[string]bool)}
	if err := h.recover(); err != nil {
		t.Fatal(err)
	}
	n.hubs[name] = h
	return h
}

// logged is a line of the log file.
type logged struct {
	Hub string
	Event
}

// recover reads the log file, and adds to the hub all events that have the hub's name.
func (h *Hub) recover() error {
	log := h.namespace.log
	if log == nil {
		return nil
	}
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return err
	}
	lines := json.NewDecoder(bufio.NewReader(log))
	for {
		var l logged
		if err := lines.Decode(&l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if l.Hub == h.Name {
			h.partitions[l.Partition] = append(h.partitions[l.Partition], l.Event)
		}
	}
}

// record appends events to the log file, if there is one.
func (h *Hub) record(events []Event) error {
	if h.namespace.log == nil {
		return nil
	}
	var text []byte
	for _, e := range events {
		line, err := json.Marshal(logged{h.Name, e})
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	_, err := h.namespace.log.Write(text)
	return err
}
