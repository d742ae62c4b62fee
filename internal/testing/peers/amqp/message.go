package amqp

import (
	"time"
)

// Descriptors of a message's sections, in the order in which sections may appear.
const (
	sectionHeader = 0x70 + iota
	sectionDeliveryAnnotations
	sectionAnnotations
	sectionProperties
	sectionApplicationProperties
	sectionData
	sectionSequence
	sectionValue
	sectionFooter
)

// Message is a message, with only those sections that matter to an event broker.
type Message struct {
	Annotations           Map
	Properties            Properties
	ApplicationProperties map[string]any
	Data                  [][]byte // the body, if it consists of data sections
	Value                 any      // the body, if it is a value section
}

// Properties are the standard properties of a message.
type Properties struct {
	MessageID     any
	ReplyTo       string
	CorrelationID any
	ContentType   Symbol

	ignored    [5]any
	expires    time.Time
	created    time.Time
	group      any
	sequence   any
	replyGroup any
}

func (p *Properties) fields() []field {
	return []field{
		optional("message-id", &p.MessageID), optional("user-id", &p.ignored[0]), optional("to", &p.ignored[1]),
		optional("subject", &p.ignored[2]), optional("reply-to", &p.ReplyTo), optional("correlation-id", &p.CorrelationID),
		optional("content-type", &p.ContentType), optional("content-encoding", &p.ignored[3]), optional("absolute-expiry-time", &p.expires),
		optional("creation-time", &p.created), optional("group-id", &p.group), optional("group-sequence", &p.sequence),
		optional("reply-to-group-id", &p.replyGroup),
	}
}

// ParseMessage decodes a message, and checks the order and the types of its sections. Data shares
// memory with b.
func ParseMessage(b []byte) (*Message, error) {
	m := new(Message)
	var last uint64
	body := false
	for len(b) > 0 {
		v, rest, err := Decode(b)
		if err != nil {
			return nil, err
		}
		b = rest
		section, _ := v.(Described)
		code, _ := section.Descriptor.(uint64)
		again := code == last && (code == sectionData || code == sectionSequence)
		if code < sectionHeader || code > sectionFooter || code <= last && !again {
			return nil, decodeError("section %v after section %#x", section.Descriptor, last)
		}
		if isBody := code >= sectionData && code <= sectionValue; isBody {
			if body && !again {
				return nil, decodeError("a message has bodies of two kinds")
			}
			body = true
		}
		last = code
		if err := m.set(code, section.Value); err != nil {
			return nil, err
		}
	}
	if !body {
		return nil, decodeError("a message has no body")
	}
	return m, nil
}

func (m *Message) set(code uint64, v any) error {
	switch code {
	case sectionAnnotations:
		annotations, ok := v.(Map)
		for key := range annotations {
			if _, symbol := key.(Symbol); !symbol {
				return decodeError("the key of an annotation is a %T", key)
			}
		}
		if !ok {
			return decodeError("message-annotations are a %T", v)
		}
		m.Annotations = annotations
	case sectionProperties:
		list, ok := v.(List)
		if !ok {
			return decodeError("properties are a %T", v)
		}
		return setFields(m.Properties.fields(), list)
	case sectionApplicationProperties:
		return m.setApplicationProperties(v)
	case sectionData:
		data, ok := v.([]byte)
		if !ok {
			return decodeError("data is a %T", v)
		}
		m.Data = append(m.Data, data)
	case sectionValue:
		m.Value = v
	}
	return nil
}

func (m *Message) setApplicationProperties(v any) error {
	properties, ok := v.(Map)
	if !ok {
		return decodeError("application-properties are a %T", v)
	}
	m.ApplicationProperties = make(map[string]any, len(properties))
	for key, value := range properties {
		name, ok := key.(string)
		if !ok {
			return decodeError("the key of an application property is a %T", key)
		}
		switch value.(type) {
		case List, Map, Described:
			return decodeError("the application property %s is a %T", name, value)
		}
		m.ApplicationProperties[name] = value
	}
	return nil
}

// AppendReply appends an encoded reply. The argument correlation is the id of the message that the
// reply answers. The argument value is the reply's body.
func AppendReply(b []byte, correlation any, properties map[string]any, value any) []byte {
	p := &Properties{CorrelationID: correlation}
	list := make(List, 0, 6)
	for _, f := range p.fields()[:6] {
		list = append(list, f.get())
	}
	list[4] = nil // no reply-to
	b = Append(b, Described{Descriptor: uint64(sectionProperties), Value: list})
	all := make(Map, len(properties))
	for name, v := range properties {
		all[name] = v
	}
	b = Append(b, Described{Descriptor: uint64(sectionApplicationProperties), Value: all})
	return Append(b, Described{Descriptor: uint64(sectionValue), Value: value})
}
