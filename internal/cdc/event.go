// Package cdc defines changes: the events of the stream, their clocks and positions, and how to
// decode them from the wire.
package cdc

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Op is the operation on a row.
type Op uint8

const (
	Insert Op = iota + 1
	Update
	Delete
)

func (o Op) String() string {
	switch o {
	case Insert:
		return "INSERT"
	case Update:
		return "UPDATE"
	case Delete:
		return "DELETE"
	default:
		return fmt.Sprintf("Op(%d)", uint8(o))
	}
}

// ParseOp reads an operation's name on the wire.
func ParseOp(name []byte) (Op, error) {
	switch string(name) {
	case "INSERT":
		return Insert, nil
	case "UPDATE":
		return Update, nil
	case "DELETE":
		return Delete, nil
	}
	return 0, fmt.Errorf("operation is neither INSERT, UPDATE nor DELETE")
}

// Position is a place in the stream.
//
// Only Sequence defines order. Stored guards against a recreated stream that counts from 1 again: a
// message at or below a recorded sequence, but stored later than anything recorded, is not a
// replay.
type Position struct {
	Sequence uint64 // of the stream, from 1
	Stored   int64  // when the stream stored it, nanoseconds since 1970 UTC
}

// Covers reports whether a checkpoint at p already includes the message at q.
func (p Position) Covers(q Position) bool {
	return q.Sequence <= p.Sequence && q.Stored <= p.Stored
}

// Advance returns the checkpoint after the message at q, given p before it.
func (p Position) Advance(q Position) Position {
	return Position{q.Sequence, max(p.Stored, q.Stored)}
}

// Event is one change of one row, decoded but not interpreted: rows stay raw JSON, so that no
// number is ever rounded. An Event is immutable once decoded.
type Event struct {
	Position Position

	Op           Op
	ID           string // of the change, not of the row
	Table        string
	ModelVersion string
	CompanyID    string // "" if absent or null
	LocationID   string
	UserID       string
	Key          []byte // raw JSON array, the primary key; nil if absent
	Before       []byte // raw JSON object, the whole row; nil if absent or null
	After        []byte
	Diff         []byte // raw JSON array of the columns an UPDATE changed; nil if absent
	Timestamp    int64  // unix milliseconds
	Clock        Timestamp
	MVCC         string // mvccTimestamp as it was sent
	Imported     bool

	// Payload is the whole event as JSON text. Before, After, Key and Diff are
	// slices of it.
	Payload []byte
	// Compact reports that there is no white space between the values of Payload.
	Compact bool
	// Members has the members of After, as spans of Payload, if Decoder.Members is set.
	Members []rawjson.Member
	// Object is the name for the event's file or object that a schema-validator rule sets; "" if
	// none does.
	Object string
}

// RowID returns the row's own id: the key's last element, else the id in the row image, else "".
func (e *Event) RowID() string { return string(e.rowID()) }

// AppendRowID appends RowID's result to dst.
func (e *Event) AppendRowID(dst []byte) []byte { return append(dst, e.rowID()...) }

func (e *Event) rowID() []byte {
	var last []byte
	if e.Key != nil {
		// The decoder has validated the key.
		_ = rawjson.Elements(e.Key, func(s rawjson.Span) error {
			last = e.Key[s.Start:s.End]
			return nil
		})
	}
	if last == nil {
		last = e.rowMember("id")
	}
	return rawjson.Text(last)
}

// rowMember returns the raw value of a member of the row image, or nil.
func (e *Event) rowMember(name string) []byte {
	image := e.After
	if image == nil {
		image = e.Before
	}
	if image == nil {
		return nil
	}
	m, err := rawjson.OpenObject(image)
	if err != nil {
		return nil
	}
	var value []byte
	for m.Next() {
		if string(m.Name()) == name {
			value = m.Value()
		}
	}
	return value
}
