package amqp

import "fmt"

const (
	linkCredit = 300 // credit that a link grants: messages that a client may send
	maxTag     = 32  // maximum length of a delivery-tag, in bytes
)

// Link is a link that the client has attached to a session.
type Link struct {
	Source, Target string // addresses, or "" for none
	Sends          bool   // the client sends messages; otherwise it receives them
	MaxMessageSize uint64 // maximum size of a client's message, in bytes; 0 for no limit

	session  *sessionEndpoint
	handle   uint32
	detached bool // either side has sent a detach

	deliveryCount uint32 // number of messages that were sent on the link, from the initial count
	credit        uint32 // number of messages that the sender may still send

	partial *Delivery // delivery that the client has sent only partly; nil if there is none
	pending [][]byte  // encoded messages that wait for credit from the client
}

// Conn returns the connection to which the link belongs.
func (l *Link) Conn() *Conn { return l.session.conn }

// Detach closes the link with a reason, or nil for no error. It does not wait for the client's
// answer.
func (l *Link) Detach(reason *Error) {
	l.Conn().mu.Lock()
	defer l.Conn().mu.Unlock()
	l.detach(reason)
}

func (l *Link) detach(reason *Error) {
	if l.detached {
		return
	}
	l.detached = true
	l.session.write(&detach{Handle: l.handle, Closed: true, Error: reason.value()}, nil)
}

// Send sends an encoded message to a client that receives. The message must fit into one frame. It
// is sent as settled, but not until the client has granted credit.
func (l *Link) Send(message []byte) {
	l.Conn().mu.Lock()
	defer l.Conn().mu.Unlock()
	l.pending = append(l.pending, message)
	l.flush()
}

// flush sends as many pending messages as the client has granted credit for.
func (l *Link) flush() {
	s := l.session
	for len(l.pending) > 0 && !l.detached && l.credit > 0 && s.outgoingWindow > 0 {
		id, format := s.deliveries, uint32(0)
		s.write(&transfer{
			Handle: l.handle, DeliveryID: &id, DeliveryTag: fmt.Appendf(nil, "%d", id), MessageFormat: &format, Settled: true,
		}, l.pending[0])
		l.pending = l.pending[1:]
		l.credit--
		l.deliveryCount++
		s.deliveries++
		s.nextOutgoing++
		s.outgoingWindow--
	}
}

// grant renews the full credit of a client that sends.
func (l *Link) grant() {
	l.credit = linkCredit
	f := l.session.state()
	handle, count, credit := l.handle, l.deliveryCount, l.credit
	f.Handle, f.DeliveryCount, f.LinkCredit = &handle, &count, &credit
	l.session.write(f, nil)
}

// receive adds a transfer to the delivery to which it belongs. It returns the delivery if it is
// complete, and otherwise nil.
func (l *Link) receive(t *transfer, payload []byte) (*Delivery, *Error) {
	if !l.Sends {
		return nil, &Error{Condition: NotAllowed, Description: "a transfer on a link that receives"}
	}
	d := l.partial
	if d == nil {
		var err *Error
		if d, err = l.first(t); err != nil {
			return nil, err
		}
	} else if t.DeliveryID != nil && *t.DeliveryID != d.id {
		return nil, &Error{Condition: InvalidField, Description: fmt.Sprintf("delivery %d begins within delivery %d", *t.DeliveryID, d.id)}
	}
	l.partial = nil
	if t.Aborted {
		return nil, nil
	}
	d.Settled = d.Settled || t.Settled
	d.Payload = append(d.Payload, payload...)
	if l.MaxMessageSize > 0 && uint64(len(d.Payload)) > l.MaxMessageSize {
		return nil, &Error{Condition: MessageSizeExceeded, Description: fmt.Sprintf("a message is larger than %d bytes", l.MaxMessageSize)}
	}
	if t.More {
		l.partial = d
		return nil, nil
	}
	return d, nil
}

// first creates a delivery from its first transfer.
func (l *Link) first(t *transfer) (*Delivery, *Error) {
	switch {
	case l.credit == 0:
		return nil, &Error{Condition: TransferLimitExceeded, Description: "a message beyond the link's credit"}
	case t.DeliveryID == nil || t.MessageFormat == nil:
		return nil, &Error{Condition: InvalidField, Description: "a first transfer without delivery-id or message-format"}
	case len(t.DeliveryTag) == 0 || len(t.DeliveryTag) > maxTag:
		return nil, &Error{Condition: InvalidField, Description: fmt.Sprintf("a delivery-tag of %d bytes", len(t.DeliveryTag))}
	case !l.session.follows(*t.DeliveryID):
		return nil, &Error{Condition: InvalidField, Description: fmt.Sprintf("delivery-id %d is not the next one", *t.DeliveryID)}
	}
	l.credit--
	l.deliveryCount++
	if l.credit < linkCredit/2 {
		l.grant()
	}
	return &Delivery{Link: l, Format: *t.MessageFormat, id: *t.DeliveryID}, nil
}

// Delivery is an encoded message from the client. The Handler calls Accept or Reject once, from any
// goroutine.
type Delivery struct {
	Link    *Link
	Format  uint32
	Settled bool // the client expects no outcome
	Payload []byte

	id uint32
}

// Accept tells the client that the message was accepted.
func (d *Delivery) Accept() { d.settle(accepted()) }

// Reject tells the client that the message was rejected, and why.
func (d *Delivery) Reject(reason *Error) { d.settle(rejected(reason)) }

func (d *Delivery) settle(state any) {
	c := d.Link.Conn()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Settled || d.Link.detached || d.Link.session.ended || c.closed {
		return
	}
	d.Link.session.write(&disposition{Role: roleReceiver, First: d.id, Settled: true, State: state}, nil)
}
