package amqp

import "fmt"

// window is the number of transfer frames that a session accepts before it sends another flow.
const window = 2048

// sessionEndpoint is the server side of a session that the client has begun. The connection's mu
// guards it.
type sessionEndpoint struct {
	conn    *Conn
	channel uint16
	links   map[uint32]*Link // by handle, which is equal in both directions
	ended   bool             // the server has sent the performative end

	nextIncoming   uint32 // transfer-id of the client's next transfer
	incomingWindow uint32 // number of transfers that the client may still send
	nextOutgoing   uint32 // transfer-id of the server's next transfer
	outgoingWindow uint32 // number of transfers that the server may still send

	deliveries   uint32  // number of deliveries that the server has sent
	lastDelivery *uint32 // delivery-id of the client's last delivery; nil for none
}

func (s *sessionEndpoint) write(p performative, payload []byte) { s.conn.write(s.channel, p, payload) }

// end tells the client that the session ends because the client broke the protocol, and reports the
// violation.
func (s *sessionEndpoint) end(reason *Error) {
	s.ended = true
	s.write(&end{Error: reason.value()}, nil)
	s.conn.unlocked(func() { s.conn.handler.Violation(reason) })
}

// endedByClient handles the performative end from the client. The client may have sent it as the
// answer to an end from the server.
func (s *sessionEndpoint) endedByClient(*end) {
	if !s.ended {
		s.write(new(end), nil)
	}
	for _, l := range s.links {
		l.detached = true
	}
	delete(s.conn.sessions, s.channel)
}

func (s *sessionEndpoint) handle(f frame) error {
	switch p := f.body.(type) {
	case *attach:
		s.attach(p)
	case *flow:
		s.flow(p)
	case *transfer:
		s.transfer(p, f.payload)
	case *disposition:
		// The server sends only settled messages, so there is no delivery to settle.
		if isReceiver(p.Role) && !p.Settled {
			s.end(&Error{Condition: NotImplemented, Description: "a disposition of a settled message"})
		}
	case *detach:
		s.detach(p)
	default:
		return &Error{Condition: NotAllowed, Description: fmt.Sprintf("%T in a session", p)}
	}
	return nil
}

func (s *sessionEndpoint) attach(a *attach) {
	switch {
	case s.links[a.Handle] != nil:
		s.end(&Error{Condition: HandleInUse, Description: fmt.Sprintf("handle %d", a.Handle)})
		return
	case !isReceiver(a.Role) && a.InitialDeliveryCount == nil:
		s.end(&Error{Condition: InvalidField, Description: "a sender's attach has no initial-delivery-count"})
		return
	}
	l := &Link{Source: address(a.Source), Target: address(a.Target), Sends: !isReceiver(a.Role), session: s, handle: a.Handle}
	if l.Sends {
		l.deliveryCount = *a.InitialDeliveryCount
	}
	var refusal *Error
	s.conn.unlocked(func() { refusal = s.conn.handler.Attach(l) })
	answer := &attach{
		Name: a.Name, Handle: a.Handle, Role: !a.Role, SenderSettles: a.SenderSettles, ReceiverSettles: a.ReceiverSettles,
		Source: a.Source, Target: a.Target,
	}
	if l.MaxMessageSize > 0 {
		answer.MaxMessageSize = &l.MaxMessageSize
	}
	if !l.Sends {
		answer.InitialDeliveryCount = new(uint32)
	}
	if refusal != nil {
		answer.Source, answer.Target = nil, nil
	}
	s.links[a.Handle] = l
	s.write(answer, nil)
	switch {
	case refusal != nil:
		l.detach(refusal)
	case l.Sends:
		l.grant()
	}
}

// link returns the link with the given handle. If there is none, it ends the session and returns
// nil.
func (s *sessionEndpoint) link(handle uint32) *Link {
	l := s.links[handle]
	if l == nil {
		s.end(&Error{Condition: UnattachedHandle, Description: fmt.Sprintf("handle %d", handle)})
	}
	return l
}

func (s *sessionEndpoint) flow(f *flow) {
	if f.NextIncomingID != nil {
		s.outgoingWindow = *f.NextIncomingID + f.IncomingWindow - s.nextOutgoing
	}
	if f.Handle != nil {
		l := s.link(*f.Handle)
		if l == nil {
			return
		}
		if !l.Sends && f.LinkCredit != nil {
			l.credit = *f.LinkCredit - l.deliveryCount
			if f.DeliveryCount != nil {
				l.credit += *f.DeliveryCount
			}
		}
	}
	for _, l := range s.links {
		l.flush()
	}
	if f.Echo {
		s.write(s.state(), nil)
	}
}

// state returns a flow performative with the current state of the session.
func (s *sessionEndpoint) state() *flow {
	next := s.nextIncoming
	return &flow{NextIncomingID: &next, IncomingWindow: s.incomingWindow, NextOutgoingID: s.nextOutgoing, OutgoingWindow: window}
}

func (s *sessionEndpoint) transfer(t *transfer, payload []byte) {
	if s.incomingWindow == 0 {
		s.end(&Error{Condition: WindowViolation, Description: "a transfer beyond the session's window"})
		return
	}
	s.nextIncoming++
	s.incomingWindow--
	if s.incomingWindow <= window/2 {
		s.incomingWindow = window
		s.write(s.state(), nil)
	}
	l := s.link(t.Handle)
	if l == nil || l.detached {
		return // the client sent it before it received the server's detach
	}
	d, err := l.receive(t, payload)
	if err != nil {
		l.detach(err)
		s.conn.unlocked(func() { s.conn.handler.Violation(err) })
		return
	}
	if d != nil {
		s.conn.unlocked(func() { s.conn.handler.Message(d) })
	}
}

// follows reports whether a delivery-id is greater than the previous one, in serial number
// arithmetic, and records the id.
func (s *sessionEndpoint) follows(id uint32) bool {
	after := s.lastDelivery == nil || int32(id-*s.lastDelivery) > 0
	s.lastDelivery = &id
	return after
}

func (s *sessionEndpoint) detach(d *detach) {
	l := s.link(d.Handle)
	if l == nil {
		return
	}
	if !l.detached {
		l.detached = true
		s.write(&detach{Handle: d.Handle, Closed: d.Closed}, nil)
	}
	delete(s.links, d.Handle)
}
