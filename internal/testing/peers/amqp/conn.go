// Package amqp is the server side of AMQP 1.0, as the OASIS specification defines it. It encodes
// and decodes values, and provides the connections, sessions and links on which clients send
// messages and receive replies. It checks everything that the specification requires of a client.
// It is stricter than real brokers, so that tests detect a client's mistakes.
//
// It omits features that producers do not use: resuming links, transactions, SASL mechanisms other
// than ANONYMOUS, and unsettled messages from the server.
//
// Only tests import this package.
package amqp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Handler handles the links and messages of one connection. The connection calls all methods from
// one goroutine and holds no lock during a call, so a Handler may call all methods of this package.
type Handler interface {
	// Attach is called when the client opens a link. It may set the link's MaxMessageSize. If it
	// returns an error, the link is refused.
	Attach(*Link) *Error
	// Message is called with each message of the client. The Handler settles the message, during
	// the call or later.
	Message(*Delivery)
	// Violation is called when the client has broken the protocol, after the error was sent to the
	// client.
	Violation(error)
}

// Conn is a connection with one client. Its methods may be called concurrently.
type Conn struct {
	net     net.Conn
	handler Handler

	mu       sync.Mutex // guards writing, the fields below, and the state of all sessions and links
	sessions map[uint16]*sessionEndpoint
	frame    []byte // buffer for the frame that is being written
	closed   bool   // the performative close was sent
}

// closeTimeout is the maximum time that the client may take to answer a close.
const closeTimeout = 2 * time.Second

// Protocol headers that each side sends at the start of a layer: SASL, then AMQP.
const (
	saslHeader = "AMQP\x03\x01\x00\x00"
	amqpHeader = "AMQP\x00\x01\x00\x00"
)

// NewConn returns the server side of a connection. The caller must call Serve.
func NewConn(conn net.Conn, handler Handler) *Conn {
	return &Conn{net: conn, handler: handler, sessions: make(map[uint16]*sessionEndpoint)}
}

// Serve handles the client's frames until the connection ends, and then closes the connection.
func (c *Conn) Serve() {
	defer c.Cut()
	err := c.serve()
	if violation := (*Error)(nil); errors.As(err, &violation) {
		c.Close(violation)
		c.handler.Violation(violation)
		// Closing a socket with unread bytes resets it, and the client would not get the error.
		_, _ = io.Copy(io.Discard, c.net)
	}
}

// Cut closes the network connection without a close performative.
func (c *Conn) Cut() { _ = c.net.Close() }

// Close tells the client that the connection ends, and why. A nil reason means that there is no
// error. Close returns at once. The connection ends when the client answers.
func (c *Conn) Close(reason *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.write(0, &closing{Error: reason.value()}, nil)
	_ = c.net.SetReadDeadline(time.Now().Add(closeTimeout))
}

// Links returns the links that are currently attached.
func (c *Conn) Links() []*Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var links []*Link
	for _, s := range c.sessions {
		for _, l := range s.links {
			if !l.detached {
				links = append(links, l)
			}
		}
	}
	return links
}

// write sends a frame. If sending fails, write cuts the connection, and Serve returns.
func (c *Conn) write(channel uint16, p performative, payload []byte) {
	c.writeFrame(frameAMQP, channel, p, payload)
}

func (c *Conn) writeFrame(kind byte, channel uint16, p performative, payload []byte) {
	c.frame = appendFrame(c.frame[:0], kind, channel, p, payload)
	if _, err := c.net.Write(c.frame); err != nil {
		c.Cut()
	}
}

func (c *Conn) serve() error {
	r := bufio.NewReaderSize(c.net, maxFrameSize)
	if err := c.authenticate(r); err != nil {
		return err
	}
	if err := c.greet(r, amqpHeader); err != nil {
		return err
	}
	idle, err := c.open(r)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	if idle > 0 {
		group.Go(func() { c.keepAlive(idle/2, stop) })
	}
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		if f.body == nil {
			continue
		}
		if f.kind != frameAMQP {
			return &Error{Condition: NotAllowed, Description: "a SASL frame after the handshake"}
		}
		if _, ends := f.body.(*closing); ends {
			c.Close(nil)
			return nil
		}
		if err := c.handle(f); err != nil {
			return err
		}
	}
}

// greet reads the header of a protocol layer, and answers with the given header. If the client's
// header differs from the given one, greet returns an error.
func (c *Conn) greet(r io.Reader, want string) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.net, want); err != nil {
		return err
	}
	if string(got) != want {
		return &Error{Condition: FramingError, Description: fmt.Sprintf("the protocol header is %q", got)}
	}
	return nil
}

// authenticate accepts every client that uses SASL ANONYMOUS. Event Hubs requests tokens later, on
// a link.
func (c *Conn) authenticate(r io.Reader) error {
	if err := c.greet(r, saslHeader); err != nil {
		return err
	}
	c.mu.Lock()
	c.writeFrame(frameSASL, 0, &saslMechanisms{Mechanisms: Symbol("ANONYMOUS")}, nil)
	c.mu.Unlock()
	f, err := readFrame(r)
	if err != nil {
		return err
	}
	init, ok := f.body.(*saslInit)
	if !ok {
		return &Error{Condition: NotAllowed, Description: fmt.Sprintf("%T instead of sasl-init", f.body)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if init.Mechanism != "ANONYMOUS" {
		c.writeFrame(frameSASL, 0, &saslOutcome{Code: 1}, nil)
		return fmt.Errorf("sasl mechanism %s", init.Mechanism)
	}
	c.writeFrame(frameSASL, 0, &saslOutcome{}, nil)
	return nil
}

// open exchanges open performatives. It returns the client's idle timeout, or 0 if the client has
// none. The client ends the connection if the server sends no frame for that long.
func (c *Conn) open(r io.Reader) (idle time.Duration, err error) {
	f, err := readFrame(r)
	if err != nil {
		return 0, err
	}
	o, ok := f.body.(*open)
	if !ok || f.channel != 0 {
		return 0, &Error{Condition: NotAllowed, Description: fmt.Sprintf("%T on channel %d instead of open", f.body, f.channel)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.MaxFrameSize != nil {
		if *o.MaxFrameSize < 512 {
			return 0, &Error{Condition: InvalidField, Description: "max-frame-size is less than 512"}
		}
	}
	size, channels := uint32(maxFrameSize), uint16(1<<16-1)
	c.write(0, &open{ContainerID: "eds-test", MaxFrameSize: &size, ChannelMax: &channels}, nil)
	if o.IdleTimeout != nil {
		idle = time.Duration(*o.IdleTimeout) * time.Millisecond
	}
	return idle, nil
}

// keepAlive sends an empty frame at each interval until stop is closed.
func (c *Conn) keepAlive(interval time.Duration, stop <-chan struct{}) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			c.mu.Lock()
			c.write(0, nil, nil)
			c.mu.Unlock()
		}
	}
}

// handle handles a frame on the open connection.
func (c *Conn) handle(f frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil // until the client's answer
	}
	if b, begins := f.body.(*begin); begins {
		return c.begin(f.channel, b)
	}
	s := c.sessions[f.channel]
	if s == nil {
		return &Error{Condition: NotAllowed, Description: fmt.Sprintf("%T on channel %d, which has no session", f.body, f.channel)}
	}
	if e, ends := f.body.(*end); ends {
		s.endedByClient(e)
		return nil
	}
	if s.ended {
		return nil // until the client's answer
	}
	return s.handle(f)
}

func (c *Conn) begin(channel uint16, b *begin) error {
	if c.sessions[channel] != nil {
		return &Error{Condition: NotAllowed, Description: fmt.Sprintf("channel %d has a session", channel)}
	}
	if b.RemoteChannel != nil {
		return &Error{Condition: InvalidField, Description: "begin answers a session that was not begun"}
	}
	s := &sessionEndpoint{
		conn: c, channel: channel, links: make(map[uint32]*Link),
		nextIncoming: b.NextOutgoingID, incomingWindow: window, outgoingWindow: b.IncomingWindow,
	}
	c.sessions[channel] = s
	c.write(channel, &begin{RemoteChannel: &channel, IncomingWindow: window, OutgoingWindow: window}, nil)
	return nil
}

// unlocked calls f with c.mu unlocked. The caller holds c.mu.
func (c *Conn) unlocked(f func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	f()
}
