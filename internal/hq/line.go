package hq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

const (
	headerEncoding = "content-encoding"
	encodedMsgpack = "msgpack"
)

// Line is a session's line to HQ over NATS: orders come in, answers and
// heartbeats go out. Its methods may be called concurrently, but for Next.
type Line struct {
	conn    *nats.Conn
	session string
	orders  *nats.Subscription
	decoder *cdc.Decoder
	beats   atomic.Uint64
}

// OpenLine opens the line of a session. The connection is the caller's.
func OpenLine(conn *nats.Conn, session string) (*Line, error) {
	orders, err := conn.SubscribeSync("eds.notify." + session + ".>")
	if err != nil {
		return nil, fmt.Errorf("listen to hq: %w", err)
	}
	return &Line{conn: conn, session: session, orders: orders, decoder: cdc.NewDecoder()}, nil
}

// Close stops listening.
func (l *Line) Close() error {
	if err := l.orders.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("stop listening to hq: %w", err)
	}
	return nil
}

// Order is a control message of HQ.
type Order struct {
	Action string          `json:"action"`
	Data   json.RawMessage `json:"data"` // nil where there is none
	reply  string
}

// Decode reads the order's data into out, which stays as it is where there is
// none. Errors hold nothing of the data, which may be a secret.
func (o Order) Decode(out any) error {
	if len(o.Data) == 0 || string(o.Data) == "null" {
		return nil
	}
	if err := json.Unmarshal(o.Data, out); err != nil {
		wrong := new(json.UnmarshalTypeError)
		switch {
		case !errors.As(err, &wrong) || wrong.Field == "":
			return fmt.Errorf("the data of %q is not what it should be", o.Action)
		case wrong.Type == reflect.TypeFor[Bool]():
			return fmt.Errorf("the data of %q: %s should be true or false", o.Action, wrong.Field)
		}
		return fmt.Errorf("the data of %q: %s is not a %s", o.Action, wrong.Field, wrong.Type)
	}
	return nil
}

// Bool is a boolean of an order. HQ also sends it as text or as a number.
type Bool bool

// UnmarshalJSON accepts true and false in any case, as text too, 1 and 0, and
// null and "" for false.
func (b *Bool) UnmarshalJSON(text []byte) error {
	switch strings.ToLower(strings.TrimSpace(strings.Trim(string(text), `"`))) {
	case "true", "1":
		*b = true
	case "false", "0", "", "null":
		*b = false
	default:
		return &json.UnmarshalTypeError{Value: "value", Type: reflect.TypeFor[Bool]()}
	}
	return nil
}

// MalformedError says that a control message can't be read.
type MalformedError struct{ Err error }

func (e *MalformedError) Error() string { return "read a control message of hq: " + e.Err.Error() }
func (e *MalformedError) Unwrap() error { return e.Err }

// Next waits for the next order. After a *MalformedError more may follow; any
// other error ends the line.
func (l *Line) Next(ctx context.Context) (Order, error) {
	for {
		m, err := l.orders.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrSlowConsumer) {
			continue // it is reported by the connection, and what was dropped is lost
		}
		if err != nil {
			return Order{}, fmt.Errorf("listen to hq: %w", err)
		}
		text, err := l.decoder.Text(m.Data, m.Header.Get(headerEncoding))
		if err != nil {
			return Order{}, &MalformedError{err}
		}
		o := Order{reply: m.Reply}
		if err := json.Unmarshal(text, &o); err != nil {
			return Order{}, &MalformedError{errors.New("it is not an object with an action and data")}
		}
		if o.Action == "" {
			return Order{}, &MalformedError{errors.New("it names no action")}
		}
		return o, nil
	}
}

// Outcome is the answer to most actions.
type Outcome struct {
	Success   bool   `json:"success"`
	Message   string `json:"message,omitempty"`
	SessionID string `json:"sessionId"`
	Action    string `json:"action,omitempty"`
	Version   string `json:"version,omitempty"` // of an upgrade
}

// Outcome returns the outcome of an action of this line's session.
func (l *Line) Outcome(action string, err error) Outcome {
	o := Outcome{Success: err == nil, SessionID: l.session, Action: action}
	if err != nil {
		o.Message = err.Error()
	}
	return o
}

// Session returns the id of the line's session.
func (l *Line) Session() string { return l.session }

// Answer publishes an answer as <action>-response, msgpack.
func (l *Line) Answer(action string, answer any) error {
	return l.tell(action+"-response", answer, nil)
}

// Status publishes that an action was understood, before it is done.
func (l *Line) Status(action, message string) error {
	return l.tell(action+"-status", Outcome{Success: true, Message: message, SessionID: l.session, Action: action}, nil)
}

// Reply answers the order's own reply subject, in JSON. An order without one
// wants no answer.
func (l *Line) Reply(o Order, answer any) error {
	if o.reply == "" {
		return nil
	}
	text, err := json.Marshal(answer)
	if err == nil {
		err = l.conn.Publish(o.reply, text)
	}
	if err != nil {
		return fmt.Errorf("answer %q: %w", o.Action, err)
	}
	return nil
}

// Pong answers a ping at the subject that it names.
func (l *Line) Pong(subject string) error {
	if err := l.conn.Publish(subject, []byte("pong")); err != nil {
		return fmt.Errorf("answer a ping: %w", err)
	}
	return nil
}

// Flush waits until HQ's NATS has what was published so far.
func (l *Line) Flush(ctx context.Context) error { return l.conn.FlushWithContext(ctx) }

// Heartbeat is what HQ is told every minute.
type Heartbeat struct {
	SessionID string     `json:"sessionId"`
	Offset    uint64     `json:"offset"` // counts the session's heartbeats from 0
	Uptime    int64      `json:"uptime"` // whole seconds
	Stats     Stats      `json:"stats"`
	Paused    *time.Time `json:"paused,omitempty"`
	// Server is more than the protocol asks for; an HQ that does not know it
	// leaves it alone.
	Server ServerStats `json:"server"`
}

// Stats are the figures that the protocol names.
type Stats struct {
	Metrics Metrics                `json:"metrics"`
	Memory  *mem.VirtualMemoryStat `json:"memory"`
	Load    *load.AvgStat          `json:"load"`
}

// Metrics are figures of the pipeline. A histogram is told as its sample count.
type Metrics struct {
	FlushCount         uint64 `json:"flushCount"`
	FlushDuration      uint64 `json:"flushDuration"`
	ProcessingDuration uint64 `json:"processingDuration"`
	PendingEvents      int64  `json:"pendingEvents"`
	TotalEvents        uint64 `json:"totalEvents"`
}

// ServerStats are figures of ours.
type ServerStats struct {
	Version     string   `json:"version"`
	State       string   `json:"state"` // of the destination
	Reason      string   `json:"reason,omitempty"`
	LagSeconds  *float64 `json:"lagSeconds"` // null: not known
	Rate        float64  `json:"rate"`       // events a second
	Pending     *uint64  `json:"pending"`    // null: not known
	DeadLetters int      `json:"deadLetters"`
	Import      string   `json:"import,omitempty"` // progress of one under way
	// Tables are those that are not ok, by name; of many, the first.
	Tables []TableStats `json:"tables,omitempty"`
	// TablesNotOK counts all of them.
	TablesNotOK int `json:"tablesNotOk"`
}

// TableStats is the state of one table that is not ok, with the command that brings it
// back.
type TableStats struct {
	Table    string    `json:"table"`
	State    string    `json:"state"`
	Cause    string    `json:"cause"`
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Command  string    `json:"command,omitempty"`
	Accepted bool      `json:"accepted,omitempty"`
}

// Beat publishes a heartbeat; its session and offset are filled in.
func (l *Line) Beat(h Heartbeat) error {
	h.SessionID, h.Offset = l.session, l.beats.Add(1)-1
	return l.tell("heartbeat", h, nats.Header{nats.MsgIdHdr: {nuid.Next()}})
}

// tell publishes a value as msgpack under its JSON names.
func (l *Line) tell(what string, value any, header nats.Header) error {
	var body bytes.Buffer
	encoder := msgpack.NewEncoder(&body)
	encoder.SetCustomStructTag("json")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("encode %s for hq: %w", what, err)
	}
	if header == nil {
		header = nats.Header{}
	}
	header.Set(headerEncoding, encodedMsgpack)
	err := l.conn.PublishMsg(&nats.Msg{Subject: "eds.client." + l.session + "." + what, Header: header, Data: body.Bytes()})
	if err != nil {
		return fmt.Errorf("tell hq %s: %w", what, err)
	}
	return nil
}
