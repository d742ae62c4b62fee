package amqp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/go-amqp"
)

// echo is a Handler that accepts and keeps messages. It answers each message with a reply on all
// links on which the client receives.
type echo struct {
	conn *Conn

	mu         sync.Mutex
	messages   [][]byte
	violations []error
}

func (e *echo) Attach(l *Link) *Error {
	if l.Target == "nowhere" {
		return &Error{Condition: "amqp:not-found", Description: "no such address"}
	}
	l.MaxMessageSize = 1 << 20
	return nil
}

func (e *echo) Message(d *Delivery) {
	m, err := ParseMessage(d.Payload)
	if err != nil {
		d.Reject(&Error{Condition: DecodeError, Description: err.Error()})
		return
	}
	e.mu.Lock()
	e.messages = append(e.messages, bytes.Join(m.Data, nil))
	e.mu.Unlock()
	for _, l := range e.conn.Links() {
		if !l.Sends {
			l.Send(AppendReply(nil, m.Properties.MessageID, map[string]any{"n": int32(len(d.Payload))}, "reply"))
		}
	}
	d.Accept()
}

func (e *echo) Violation(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.violations = append(e.violations, err)
}

// serve serves one connection with an echo handler, and returns the client's side of the
// connection.
func serve(t *testing.T) (net.Conn, *echo) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	e := new(echo)
	e.conn = NewConn(server, e)
	var group sync.WaitGroup
	group.Go(e.conn.Serve)
	t.Cleanup(func() {
		client.Close()
		group.Wait()
	})
	return client, e
}

// dial returns a session of an independent client library.
func dial(t *testing.T) (*amqp.Session, *echo) {
	t.Helper()
	conn, e := serve(t)
	client, err := amqp.NewConn(t.Context(), conn, &amqp.ConnOptions{
		SASLType:    amqp.SASLTypeAnonymous(),
		IdleTimeout: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if e.violations != nil {
			t.Errorf("violations: %v", e.violations)
		}
	})
	session, err := client.NewSession(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return session, e
}

func newSender(t *testing.T, session *amqp.Session, address string) *amqp.Sender {
	t.Helper()
	sender, err := session.NewSender(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sender
}

func TestConn_TakesMessagesOfManyFrames(t *testing.T) {
	session, e := dial(t)
	sender := newSender(t, session, "a")
	if got := sender.MaxMessageSize(); got != 1<<20 {
		t.Errorf("the largest message has %d bytes", got)
	}
	for _, size := range []int{0, 1, 255, 256, 65_000, 66_000, 1_000_000} {
		body := bytes.Repeat([]byte{byte(size)}, size)
		if err := sender.Send(t.Context(), amqp.NewMessage(body), nil); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got := e.messages[len(e.messages)-1]; !bytes.Equal(got, body) {
			t.Errorf("of %d bytes %d arrive", size, len(got))
		}
	}
}

// TestConn_GrantsCreditAndWindow sends more messages and more frames than the initial credit and
// window allow.
func TestConn_GrantsCreditAndWindow(t *testing.T) {
	session, e := dial(t)
	var group sync.WaitGroup
	const senders, messages = 4, 700
	for range senders {
		sender := newSender(t, session, "a")
		group.Go(func() {
			for range messages {
				if err := sender.Send(t.Context(), amqp.NewMessage([]byte("x")), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if len(e.messages) != senders*messages {
		t.Errorf("%d messages arrive", len(e.messages))
	}
}

func TestConn_RepliesWithinTheCreditOfAReceiver(t *testing.T) {
	session, _ := dial(t)
	receiver, err := session.NewReceiver(t.Context(), "replies", &amqp.ReceiverOptions{Credit: -1})
	if err != nil {
		t.Fatal(err)
	}
	sender := newSender(t, session, "a")
	for i := range 5 {
		m := amqp.NewMessage([]byte("x"))
		m.Properties = &amqp.MessageProperties{MessageID: fmt.Sprint(i)}
		if err := sender.Send(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		if err := receiver.IssueCredit(1); err != nil {
			t.Fatal(err)
		}
		m, err := receiver.Receive(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.Properties.CorrelationID != fmt.Sprint(i) || m.Value != "reply" || m.ApplicationProperties["n"] == int32(0) {
			t.Errorf("reply %d is %+v, %+v", i, m, m.Properties)
		}
	}
}

func TestConn_RefusesLinksAndMessages(t *testing.T) {
	session, e := dial(t)
	var refusal *amqp.Error
	if _, err := session.NewSender(t.Context(), "nowhere", nil); !errors.As(err, &refusal) || refusal.Condition != "amqp:not-found" {
		t.Errorf("a link to nowhere: %v", err)
	}
	sender := newSender(t, session, "a")
	for _, l := range e.conn.Links() {
		l.Detach(&Error{Condition: "amqp:link:detach-forced", Description: "moved"})
	}
	var lost *amqp.LinkError
	if err := sender.Send(t.Context(), amqp.NewMessage([]byte("x")), nil); !errors.As(err, &lost) || lost.RemoteErr.Description != "moved" {
		t.Errorf("a detached link: %v", err)
	}
}

func TestConn_ClosesWithAReason(t *testing.T) {
	conn, e := serve(t)
	client, err := amqp.NewConn(t.Context(), conn, &amqp.ConnOptions{SASLType: amqp.SASLTypeAnonymous()})
	if err != nil {
		t.Fatal(err)
	}
	e.conn.Close(&Error{Condition: "amqp:connection:forced", Description: "maintenance"})
	<-client.Done()
	if err := client.Err(); err == nil || !strings.Contains(err.Error(), "maintenance") {
		t.Errorf("the client got %v", err)
	}
}

// raw is a client that can send arbitrary frames.
type raw struct {
	t *testing.T
	net.Conn
	*bufio.Reader
}

// dialRaw returns a client that has opened the connection, and a session on channel 0.
func dialRaw(t *testing.T) *raw {
	t.Helper()
	conn, _ := serve(t)
	r := &raw{t, conn, bufio.NewReader(conn)}
	r.bytes(saslHeader)
	r.bytes(string(appendFrame(nil, frameSASL, 0, &saslInit{Mechanism: "ANONYMOUS"}, nil)) + amqpHeader)
	r.skip(len(saslHeader))
	for range 2 { // read sasl-mechanisms and sasl-outcome
		var size [4]byte
		if _, err := io.ReadFull(r.Reader, size[:]); err != nil {
			t.Fatal(err)
		}
		r.skip(int(binary.BigEndian.Uint32(size[:])) - len(size))
	}
	r.skip(len(amqpHeader))
	r.send(&open{ContainerID: "raw"}, "")
	r.send(&begin{IncomingWindow: 10, OutgoingWindow: 10}, "")
	return r
}

func (r *raw) skip(n int) {
	r.t.Helper()
	if _, err := r.Discard(n); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) bytes(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.Conn, text); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) send(p performative, payload string) {
	r.t.Helper()
	r.bytes(string(appendFrame(nil, frameAMQP, 0, p, []byte(payload))))
}

// attach opens a link with handle 0 on which the client sends.
func (r *raw) attach() {
	r.send(&attach{
		Name: "link", Target: Described{uint64(0x29), List{"a"}}, Source: Described{uint64(0x28), List{}},
		InitialDeliveryCount: new(uint32),
	}, "")
}

// transfer sends one transfer frame of a delivery.
func (r *raw) transfer(id uint32, more bool, payload string) {
	r.t.Helper()
	r.send(&transfer{DeliveryID: &id, DeliveryTag: []byte("tag"), MessageFormat: new(uint32), More: more}, payload)
}

// refusal reads frames until one contains an error. It returns the type of that frame's
// performative and the error condition.
func (r *raw) refusal() string {
	r.t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	for {
		f, err := readFrame(r.Reader)
		if err != nil {
			return err.Error()
		}
		var reason any
		switch p := f.body.(type) {
		case *detach:
			reason = p.Error
		case *end:
			reason = p.Error
		case *closing:
			reason = p.Error
		}
		if reason != nil {
			return strings.TrimPrefix(fmt.Sprintf("%T ", f.body), "*amqp.") + string(reason.(Described).Value.(List)[0].(Symbol))
		}
	}
}

func TestConn_ReportsViolations(t *testing.T) {
	t.Parallel()
	message := string(Append(nil, Described{uint64(sectionData), []byte("x")}))
	zero := uint32(0)
	for name, c := range map[string]struct {
		violate func(r *raw)
		want    string
	}{
		"frame that is too large": {
			func(r *raw) { r.bytes("\x00\x01\x00\x01\x02\x00\x00\x00") },
			"closing amqp:connection:framing-error",
		},
		"frame that is too small": {
			func(r *raw) { r.bytes("\x00\x00\x00\x07\x02\x00\x00\x00") },
			"closing amqp:connection:framing-error",
		},
		"data offset behind the frame": {
			func(r *raw) { r.bytes("\x00\x00\x00\x08\x03\x00\x00\x00") },
			"closing amqp:connection:framing-error",
		},
		"frame that is no performative": {func(r *raw) { r.bytes("\x00\x00\x00\x09\x02\x00\x00\x00\x40") }, "closing amqp:decode-error"},
		"performative without a field": {
			func(r *raw) { r.bytes("\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14\x45") },
			"closing amqp:invalid-field",
		},
		"session twice":                   {func(r *raw) { r.send(&begin{}, "") }, "closing amqp:not-allowed"},
		"payload of another frame":        {func(r *raw) { r.send(&flow{}, "x") }, "closing amqp:decode-error"},
		"handle twice":                    {func(r *raw) { r.attach() }, "end amqp:session:handle-in-use"},
		"handle without a link":           {func(r *raw) { r.send(&detach{Handle: 7}, "") }, "end amqp:session:unattached-handle"},
		"sender without a delivery count": {func(r *raw) { r.send(&attach{Name: "x", Handle: 1}, "") }, "end amqp:invalid-field"},
		"transfer without a delivery id": {func(r *raw) {
			r.send(&transfer{DeliveryTag: []byte("t"), MessageFormat: &zero},
				message)
		}, "detach amqp:invalid-field"},
		"transfer without a delivery tag": {
			func(r *raw) { r.send(&transfer{DeliveryID: &zero, MessageFormat: &zero}, message) },
			"detach amqp:invalid-field",
		},
		"transfer without a format": {
			func(r *raw) { r.send(&transfer{DeliveryID: &zero, DeliveryTag: []byte("t")}, message) },
			"detach amqp:invalid-field",
		},
		"message larger than the link's": {func(r *raw) { r.large() }, "detach amqp:link:message-size-exceeded"},
		"delivery within another delivery": {
			func(r *raw) { r.transfer(0, true, "x"); r.transfer(1, false, "x") },
			"detach amqp:invalid-field",
		},
		"delivery id that goes back": {
			func(r *raw) { r.transfer(5, false, message); r.transfer(5, false, message) },
			"detach amqp:invalid-field",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dialRaw(t)
			r.attach()
			c.violate(r)
			if got := r.refusal(); got != c.want {
				t.Errorf("the client got %q, want %q", got, c.want)
			}
		})
	}
}

// large sends parts of a message until the message is too large.
func (r *raw) large() {
	part := strings.Repeat("x", 60_000)
	for range 1<<20/len(part) + 1 {
		r.transfer(0, true, part)
	}
}

func TestLink_BoundsCreditAndSession(t *testing.T) {
	l := &Link{Sends: true, session: &sessionEndpoint{conn: NewConn(discard{}, new(echo)), incomingWindow: 1}}
	id, format := uint32(0), uint32(0)
	first := &transfer{DeliveryID: &id, DeliveryTag: []byte("t"), MessageFormat: &format}
	if _, err := l.receive(first, nil); err == nil || err.Condition != TransferLimitExceeded {
		t.Errorf("without credit: %v", err)
	}
	s := &sessionEndpoint{conn: l.session.conn, links: map[uint32]*Link{}}
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.transfer(first, nil)
	if violations := s.conn.handler.(*echo).violations; !s.ended || len(violations) != 1 || !strings.Contains(violations[0].Error(),
		string(WindowViolation)) {
		t.Errorf("beyond the window: %v", violations)
	}
}

// discard is a connection that discards everything that is written to it.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

func TestConn_RefusesOtherProtocols(t *testing.T) {
	for name, c := range map[string]struct{ greeting, answer string }{
		"HTTP":         {"GET / HTTP/1.1\r\n\r\n", saslHeader},
		"without SASL": {amqpHeader, saslHeader},
	} {
		conn, _ := serve(t)
		if _, err := io.WriteString(conn, c.greeting); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(c.answer))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.answer {
			t.Errorf("%s is answered %q: %v", name, got, err)
		}
	}
}
