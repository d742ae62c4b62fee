package amqp

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	frameHeader  = 8     // bytes
	maxFrameSize = 65536 // maximum size in bytes of a frame that a connection reads

	frameAMQP = 0 // frame types
	frameSASL = 1
)

// frame is a performative on a channel. A frame without a performative only keeps the connection
// alive.
type frame struct {
	kind    byte
	channel uint16
	body    performative
	payload []byte // part of a message; only with a transfer
}

// performative is the body of a frame. It is encoded as a list of fields with a descriptor.
type performative interface {
	descriptor() uint64
	fields() []field
}

// field connects a field of a composite type with a Go variable.
type field struct {
	name      string
	mandatory bool
	get       func() any
	set       func(any) error
}

// required returns a field that must not be null.
func required[T any](name string, p *T) field {
	f := optional(name, p)
	f.mandatory = true
	return f
}

// optional returns a field that may be null. If it is null, *p stays unchanged.
func optional[T any](name string, p *T) field {
	return field{
		name: name,
		get:  func() any { return *p },
		set: func(v any) error {
			t, ok := v.(T)
			if !ok {
				return &Error{Condition: InvalidField, Description: fmt.Sprintf("%s is a %T", name, v)}
			}
			*p = t
			return nil
		},
	}
}

// nullable returns a field that may be null. If it is null, *p stays nil.
func nullable[T any](name string, p **T) field {
	return field{
		name: name,
		get: func() any {
			if *p == nil {
				return nil
			}
			return **p
		},
		set: func(v any) error {
			value := new(T)
			*p = value
			return optional(name, value).set(v)
		},
	}
}

// setFields sets the variable of each field to the value in list. It fails if a mandatory field is
// missing or list is too long.
func setFields(fields []field, list List) error {
	if len(list) > len(fields) {
		return decodeError("%d fields, where the type has %d", len(list), len(fields))
	}
	for i, f := range fields {
		var v any
		if i < len(list) {
			v = list[i]
		}
		if v == nil {
			if f.mandatory {
				return &Error{Condition: InvalidField, Description: f.name + " is missing"}
			}
			continue
		}
		if err := f.set(v); err != nil {
			return err
		}
	}
	return nil
}

// composite returns a composite value with the given fields. It omits trailing null fields.
func composite(descriptor uint64, fields []field) Described {
	list := make(List, len(fields))
	for i, f := range fields {
		list[i] = f.get()
	}
	for len(list) > 0 && list[len(list)-1] == nil {
		list = list[:len(list)-1]
	}
	return Described{Descriptor: descriptor, Value: list}
}

// readFrame reads a frame. An error that is not an *Error comes from r.
func readFrame(r io.Reader) (frame, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	size, offset := binary.BigEndian.Uint32(header[:]), 4*int(header[4])
	if size < frameHeader || size > maxFrameSize {
		return frame{}, &Error{Condition: FramingError, Description: fmt.Sprintf("a frame of %d bytes", size)}
	}
	if offset < frameHeader || offset > int(size) {
		return frame{}, &Error{Condition: FramingError, Description: fmt.Sprintf("a data offset of %d in a frame of %d bytes", offset,
			size)}
	}
	body := make([]byte, size-frameHeader)
	if _, err := io.ReadFull(r, body); err != nil {
		return frame{}, err
	}
	f := frame{kind: header[5], channel: binary.BigEndian.Uint16(header[6:])}
	if body = body[offset-frameHeader:]; len(body) == 0 {
		return f, nil
	}
	var err error
	f.body, f.payload, err = decodePerformative(f.kind, body)
	return f, err
}

func decodePerformative(kind byte, b []byte) (performative, []byte, error) {
	v, payload, err := Decode(b)
	if err != nil {
		return nil, nil, err
	}
	described, _ := v.(Described)
	code, _ := described.Descriptor.(uint64)
	p := newPerformative(kind, code)
	list, isList := described.Value.(List)
	if p == nil || !isList {
		return nil, nil, decodeError("no performative: %v", described.Descriptor)
	}
	if _, transfers := p.(*transfer); !transfers && len(payload) > 0 {
		return nil, nil, decodeError("%T has a payload", p)
	}
	if err := setFields(p.fields(), list); err != nil {
		return nil, nil, err
	}
	return p, payload, nil
}

// newPerformative returns an empty performative for a descriptor, or nil if clients may not send
// the performative in frames of this kind.
func newPerformative(kind byte, code uint64) performative {
	if kind == frameSASL {
		if code == new(saslInit).descriptor() {
			return new(saslInit)
		}
		return nil
	}
	switch code {
	case 0x10:
		return new(open)
	case 0x11:
		return new(begin)
	case 0x12:
		return &attach{SenderSettles: 2}
	case 0x13:
		return new(flow)
	case 0x14:
		return new(transfer)
	case 0x15:
		return new(disposition)
	case 0x16:
		return new(detach)
	case 0x17:
		return new(end)
	case 0x18:
		return new(closing)
	}
	return nil
}

// appendFrame appends an encoded frame. If p is nil, the frame only keeps the connection alive.
func appendFrame(b []byte, kind byte, channel uint16, p performative, payload []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 2, kind)
	b = binary.BigEndian.AppendUint16(b, channel)
	if p != nil {
		b = Append(b, composite(p.descriptor(), p.fields()))
	}
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}
