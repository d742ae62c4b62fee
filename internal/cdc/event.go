// Package cdc defines the events of the stream, with their clocks and positions, and decodes
// events from the wire.
package cdc

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// Op is the operation that an event performed on a row.
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

// ParseOp parses the name of an operation as used on the wire.
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

// Position is a position in the stream.
//
// Only Sequence defines the order of positions. Stored detects a recreated stream whose sequences
// start from 1 again. If a message has a recorded or lower sequence but was stored later than any
// recorded message, it is not a replay.
type Position struct {
	Sequence uint64 // sequence of the message in the stream, starting from 1
	Stored   int64  // when the stream stored the message, in nanoseconds since 1970 UTC
}

// Covers reports whether a checkpoint at p already includes the message at q.
func (p Position) Covers(q Position) bool {
	return q.Sequence <= p.Sequence && q.Stored <= p.Stored
}

// Advance returns the new checkpoint after the message at q, if p is the previous checkpoint.
func (p Position) Advance(q Position) Position {
	return Position{q.Sequence, max(p.Stored, q.Stored)}
}

// Event is one change of one row. It is decoded but not interpreted: rows stay raw JSON, so that
// no number is ever rounded. An Event is immutable once decoded.
type Event struct {
	Position Position

	Op           Op
	ID           string // id of the change, not of the row
	Table        string
	ModelVersion string
	CompanyID    string // "" if absent or null
	LocationID   string
	UserID       string
	Key          []byte // primary key as a raw JSON array; nil if absent
	Before       []byte // whole old row as a raw JSON object; nil if absent or null
	After        []byte
	Diff         []byte // raw JSON array of the columns that an UPDATE changed; nil if absent
	Timestamp    int64  // in Unix milliseconds
	Clock        Timestamp
	MVCC         string // the member mvccTimestamp as sent, which Clock is parsed from
	Imported     bool

	// Payload is the whole event as JSON text. Before, After, Key and Diff are subslices of
	// Payload.
	Payload []byte
	// Compact is true if Payload has no white space between its JSON tokens.
	Compact bool
	// Members holds the members of After as spans of Payload. It is set only if Decoder.Members is
	// true.
	Members []rawjson.Member
	// Object is the name that a schema-validator rule sets for the event's file or object, or ""
	// if no rule sets one.
	Object string
}

// RowID returns the id of the row: the last element of the key or, without a key, the id in the
// row image. If there is neither, it returns "".
func (e *Event) RowID() string { return string(e.rowID()) }

// AppendRowID appends the row id, as returned by RowID, to dst.
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

// rowMember returns the raw value of a member of the new row image or, if there is none, of the
// old one. It returns nil if the member is missing.
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
