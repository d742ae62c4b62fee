package amqp

// The performatives of the specification's parts on transport and security. A field that neither
// side uses has type any, or is omitted at the end.

// roleReceiver is the role of a link's receiving end; false is the role of the sending end.
const roleReceiver = true

// isReceiver reports whether a peer with the given role receives messages.
func isReceiver(role bool) bool { return role }

type open struct {
	ContainerID  string
	Hostname     string
	MaxFrameSize *uint32
	ChannelMax   *uint16
	IdleTimeout  *uint32 // in milliseconds
	ignored      [5]any
}

func (*open) descriptor() uint64 { return 0x10 }

func (o *open) fields() []field {
	return []field{
		required("container-id", &o.ContainerID), optional("hostname", &o.Hostname), nullable("max-frame-size", &o.MaxFrameSize),
		nullable("channel-max", &o.ChannelMax), nullable("idle-time-out", &o.IdleTimeout),
		optional("outgoing-locales", &o.ignored[0]), optional("incoming-locales", &o.ignored[1]),
		optional("offered-capabilities", &o.ignored[2]), optional("desired-capabilities", &o.ignored[3]),
		optional("properties", &o.ignored[4]),
	}
}

type begin struct {
	RemoteChannel  *uint16
	NextOutgoingID uint32
	IncomingWindow uint32
	OutgoingWindow uint32
	HandleMax      *uint32
	ignored        [3]any
}

func (*begin) descriptor() uint64 { return 0x11 }

func (b *begin) fields() []field {
	return []field{
		nullable("remote-channel", &b.RemoteChannel), required("next-outgoing-id", &b.NextOutgoingID),
		required("incoming-window", &b.IncomingWindow), required("outgoing-window", &b.OutgoingWindow),
		nullable("handle-max", &b.HandleMax),
		optional("offered-capabilities", &b.ignored[0]), optional("desired-capabilities", &b.ignored[1]),
		optional("properties", &b.ignored[2]),
	}
}

type attach struct {
	Name                 string
	Handle               uint32
	Role                 bool
	SenderSettles        uint8 // 0: unsettled, 1: settled, 2: both
	ReceiverSettles      uint8 // 0: first, 1: second
	Source               any
	Target               any
	Unsettled            any
	IncompleteUnsettled  bool
	InitialDeliveryCount *uint32
	MaxMessageSize       *uint64
	ignored              [3]any
}

func (*attach) descriptor() uint64 { return 0x12 }

func (a *attach) fields() []field {
	return []field{
		required("name", &a.Name), required("handle", &a.Handle), required("role", &a.Role),
		optional("snd-settle-mode", &a.SenderSettles), optional("rcv-settle-mode", &a.ReceiverSettles),
		optional("source", &a.Source), optional("target", &a.Target), optional("unsettled", &a.Unsettled),
		optional("incomplete-unsettled", &a.IncompleteUnsettled), nullable("initial-delivery-count", &a.InitialDeliveryCount),
		nullable("max-message-size", &a.MaxMessageSize), optional("offered-capabilities", &a.ignored[0]),
		optional("desired-capabilities", &a.ignored[1]), optional("properties", &a.ignored[2]),
	}
}

// address returns the address of a source or a target, or "" if there is none.
func address(terminus any) string {
	described, _ := terminus.(Described)
	if list, ok := described.Value.(List); ok && len(list) > 0 {
		text, _ := list[0].(string)
		return text
	}
	return ""
}

type flow struct {
	NextIncomingID *uint32
	IncomingWindow uint32
	NextOutgoingID uint32
	OutgoingWindow uint32
	Handle         *uint32
	DeliveryCount  *uint32
	LinkCredit     *uint32
	Available      *uint32
	Drain          bool
	Echo           bool
	properties     any
}

func (*flow) descriptor() uint64 { return 0x13 }

func (f *flow) fields() []field {
	return []field{
		nullable("next-incoming-id", &f.NextIncomingID), required("incoming-window", &f.IncomingWindow),
		required("next-outgoing-id", &f.NextOutgoingID), required("outgoing-window", &f.OutgoingWindow), nullable("handle", &f.Handle),
		nullable("delivery-count", &f.DeliveryCount), nullable("link-credit", &f.LinkCredit), nullable("available", &f.Available),
		optional("drain", &f.Drain), optional("echo", &f.Echo), optional("properties", &f.properties),
	}
}

type transfer struct {
	Handle        uint32
	DeliveryID    *uint32
	DeliveryTag   []byte
	MessageFormat *uint32
	Settled       bool
	More          bool
	settleMode    any
	state         any
	resume        bool
	Aborted       bool
	batchable     bool
}

func (*transfer) descriptor() uint64 { return 0x14 }

func (t *transfer) fields() []field {
	tag := optional("delivery-tag", &t.DeliveryTag)
	tag.get = func() any {
		if t.DeliveryTag == nil {
			return nil
		}
		return t.DeliveryTag
	}
	return []field{
		required("handle", &t.Handle), nullable("delivery-id", &t.DeliveryID), tag, nullable("message-format", &t.MessageFormat),
		optional("settled", &t.Settled), optional("more", &t.More), optional("rcv-settle-mode", &t.settleMode), optional("state", &t.state),
		optional("resume", &t.resume), optional("aborted", &t.Aborted), optional("batchable", &t.batchable),
	}
}

type disposition struct {
	Role      bool
	First     uint32
	Last      *uint32
	Settled   bool
	State     any
	batchable bool
}

func (*disposition) descriptor() uint64 { return 0x15 }

func (d *disposition) fields() []field {
	return []field{
		required("role", &d.Role), required("first", &d.First), nullable("last", &d.Last),
		optional("settled", &d.Settled), optional("state", &d.State), optional("batchable", &d.batchable),
	}
}

// Outcomes of a delivery.
func accepted() any { return Described{Descriptor: uint64(0x24), Value: List{}} }

func rejected(err *Error) any { return Described{Descriptor: uint64(0x25), Value: List{err.value()}} }

type detach struct {
	Handle uint32
	Closed bool
	Error  any
}

func (*detach) descriptor() uint64 { return 0x16 }

func (d *detach) fields() []field {
	return []field{required("handle", &d.Handle), optional("closed", &d.Closed), optional("error", &d.Error)}
}

type end struct{ Error any }

func (*end) descriptor() uint64 { return 0x17 }

func (e *end) fields() []field { return []field{optional("error", &e.Error)} }

// closing is the performative close. Its name differs because close is a Go builtin.
type closing struct{ Error any }

func (*closing) descriptor() uint64 { return 0x18 }

func (c *closing) fields() []field { return []field{optional("error", &c.Error)} }

type saslMechanisms struct{ Mechanisms any }

func (*saslMechanisms) descriptor() uint64 { return 0x40 }

func (s *saslMechanisms) fields() []field {
	return []field{required("sasl-server-mechanisms", &s.Mechanisms)}
}

type saslInit struct {
	Mechanism Symbol
	Response  []byte
	Hostname  string
}

func (*saslInit) descriptor() uint64 { return 0x41 }

func (s *saslInit) fields() []field {
	return []field{required("mechanism", &s.Mechanism), optional("initial-response", &s.Response), optional("hostname", &s.Hostname)}
}

type saslOutcome struct{ Code uint8 } // 0: ok, 1: refused

func (*saslOutcome) descriptor() uint64 { return 0x44 }

func (s *saslOutcome) fields() []field { return []field{required("code", &s.Code)} }
