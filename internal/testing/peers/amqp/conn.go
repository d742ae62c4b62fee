// Package amqp is the server's end of AMQP 1.0, after the OASIS specification: an encoding of
// values, and the connections, sessions and links on which clients send messages and receive
// replies. It checks what the specification asks of a client, and is stricter than brokers, so that
// tests see a client's mistakes.
//
// It does without what producers do not use: resuming links, transactions, SASL other than
// ANONYMOUS, and the settlement of messages that the server sends.
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

// Handler decides about the links and messages of one connection. The connection calls it from one
// goroutine and holds no lock meanwhile: a Handler may call the methods of all types here.
type Handler interface {
	// Attach is called when the client opens a link. It may set the link's MaxMessageSize. An
	// error refuses the link.
	Attach(*Link) *Error
	// Message is called with each message of the client. The Handler settles it, then or later.
	Message(*Delivery)
	// Violation is called when the client breaks the protocol, after it was sent the error.
	Violation(error)
}

// Conn is a connection with a client. Its methods may be called concurrently.
type Conn struct {
	net     net.Conn
	handler Handler

	mu       sync.Mutex // guards writes and all below, and the state of sessions and links
	sessions map[uint16]*sessionEndpoint
	frame    []byte // is used again for the next frame that is written
	closed   bool   // close was sent
}

// closeTimeout bounds how long the client may take to answer a close.
const closeTimeout = 2 * time.Second

// Headers that begin each layer of the protocol.
const (
	saslHeader = "AMQP\x03\x01\x00\x00"
	amqpHeader = "AMQP\x00\x01\x00\x00"
)

// NewConn returns the server's end of a connection, which Serve runs.
func NewConn(conn net.Conn, handler Handler) *Conn {
	return &Conn{net: conn, handler: handler, sessions: make(map[uint16]*sessionEndpoint)}
}

// Serve reads from the client until the connection ends, and closes it.
func (c *Conn) Serve() {
	defer c.Cut()
	err := c.serve()
	if violation := (*Error)(nil); errors.As(err, &violation) {
		c.Close(violation)
		c.handler.Violation(violation)
		// A socket that closes with unread bytes is reset, and the client would lose the error.
		_, _ = io.Copy(io.Discard, c.net)
	}
}

// Cut ends the connection without a word to the client.
func (c *Conn) Cut() { _ = c.net.Close() }

// Close tells the client that the connection ends, and why. It returns at once; the connection ends
// with the client's answer.
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

// Links returns the links that are attached.
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

// write sends a frame. If that fails the connection ends, which the reader notices.
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

// greet reads the header of a layer, and answers with the same.
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

// authenticate accepts every client: Event Hubs asks for tokens later.
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

// open exchanges open performatives, and returns how long the client waits for a frame; 0 for ever.
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

// keepAlive sends an empty frame each time that the interval has passed, until stop is closed.
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

// handle handles a frame of the open connection.
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

// unlocked calls f without the lock.
func (c *Conn) unlocked(f func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	f()
}
