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

// ControlChannel connects a session with HQ over NATS. It receives HQ's commands, and sends
// responses and heartbeats. All methods except Next are safe for concurrent use.
type ControlChannel struct {
	conn       *nats.Conn
	session    string
	commands   *nats.Subscription
	decoder    *cdc.Decoder
	heartbeats atomic.Uint64
}

// OpenControlChannel opens the control channel of a session. The caller must keep conn open while
// it uses the channel, and close conn afterwards.
func OpenControlChannel(conn *nats.Conn, session string) (*ControlChannel, error) {
	commands, err := conn.SubscribeSync("eds.notify." + session + ".>")
	if err != nil {
		return nil, fmt.Errorf("subscribe to commands of hq: %w", err)
	}
	return &ControlChannel{conn: conn, session: session, commands: commands, decoder: cdc.NewDecoder()}, nil
}

// Close unsubscribes from HQ's commands.
func (c *ControlChannel) Close() error {
	if err := c.commands.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("unsubscribe from commands of hq: %w", err)
	}
	return nil
}

// Command is a control message from HQ.
type Command struct {
	Action string          `json:"action"`
	Data   json.RawMessage `json:"data"` // nil if there is none
	reply  string          // subject for Reply, or "" if there is none
}

// Decode decodes the command's data, and stores the result in the value that the parameter out
// points to. If the command has no data, that value stays unchanged. Its errors never quote the
// data, because the data may be secret.
func (m Command) Decode(out any) error {
	if len(m.Data) == 0 || string(m.Data) == "null" {
		return nil
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		wrong := new(json.UnmarshalTypeError)
		switch {
		case !errors.As(err, &wrong) || wrong.Field == "":
			return fmt.Errorf("the data of %q is malformed", m.Action)
		case wrong.Type == reflect.TypeFor[LenientBool]():
			return fmt.Errorf("the data of %q: %s should be true or false", m.Action, wrong.Field)
		}
		return fmt.Errorf("the data of %q: %s is not a %s", m.Action, wrong.Field, wrong.Type)
	}
	return nil
}

// LenientBool is a boolean in the data of a command. HQ may also send the boolean as a string or
// as a number.
type LenientBool bool

// UnmarshalJSON accepts true, false, 1 and 0, both bare and as a string, with letters in any case.
// It decodes null and "" as false.
func (b *LenientBool) UnmarshalJSON(text []byte) error {
	switch strings.ToLower(strings.TrimSpace(strings.Trim(string(text), `"`))) {
	case "true", "1":
		*b = true
	case "false", "0", "", "null":
		*b = false
	default:
		return &json.UnmarshalTypeError{Value: "value", Type: reflect.TypeFor[LenientBool]()}
	}
	return nil
}

// MalformedCommandError reports a control message that cannot be decoded.
type MalformedCommandError struct{ Err error }

func (e *MalformedCommandError) Error() string {
	return "decode a control message of hq: " + e.Err.Error()
}
func (e *MalformedCommandError) Unwrap() error { return e.Err }

// Next waits for the next command. After a *MalformedCommandError, Next can be called again; any
// other error is final.
func (c *ControlChannel) Next(ctx context.Context) (Command, error) {
	for {
		m, err := c.commands.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrSlowConsumer) {
			continue // the connection reports it; the dropped messages are lost
		}
		if err != nil {
			return Command{}, fmt.Errorf("receive a command of hq: %w", err)
		}
		text, err := c.decoder.Text(m.Data, m.Header.Get(headerEncoding))
		if err != nil {
			return Command{}, &MalformedCommandError{err}
		}
		command := Command{reply: m.Reply}
		if err := json.Unmarshal(text, &command); err != nil {
			return Command{}, &MalformedCommandError{errors.New("it is not an object with an action and data")}
		}
		if command.Action == "" {
			return Command{}, &MalformedCommandError{errors.New("it names no action")}
		}
		return command, nil
	}
}

// Outcome is the response to most commands.
type Outcome struct {
	Success   bool   `json:"success"`
	Message   string `json:"message,omitempty"`
	SessionID string `json:"sessionId"`
	Action    string `json:"action,omitempty"`
	Version   string `json:"version,omitempty"` // the new version, in the outcome of an upgrade
}

// NewOutcome returns the outcome of an action. The action failed if err is not nil.
func NewOutcome(session, action string, err error) Outcome {
	o := Outcome{Success: err == nil, SessionID: session, Action: action}
	if err != nil {
		o.Message = err.Error()
	}
	return o
}

// Respond publishes body as the message <action>-response, encoded as msgpack.
func (c *ControlChannel) Respond(action string, body any) error {
	return c.publish(action+"-response", body, nil)
}

// Acknowledge publishes the message <action>-status, which reports that the command is valid and
// that its action is starting.
func (c *ControlChannel) Acknowledge(action, message string) error {
	return c.publish(action+"-status", Outcome{Success: true, Message: message, SessionID: c.session, Action: action}, nil)
}

// Reply publishes body as JSON to the reply subject of the command m. If m has no reply subject,
// Reply does nothing.
func (c *ControlChannel) Reply(m Command, body any) error {
	if m.reply == "" {
		return nil
	}
	text, err := json.Marshal(body)
	if err == nil {
		err = c.conn.Publish(m.reply, text)
	}
	if err != nil {
		return fmt.Errorf("reply to %q: %w", m.Action, err)
	}
	return nil
}

// Pong answers a ping by publishing "pong" to the subject that the ping names.
func (c *ControlChannel) Pong(subject string) error {
	if err := c.conn.Publish(subject, []byte("pong")); err != nil {
		return fmt.Errorf("answer a ping: %w", err)
	}
	return nil
}

// Flush waits until HQ's NATS has received all published messages.
func (c *ControlChannel) Flush(ctx context.Context) error { return c.conn.FlushWithContext(ctx) }

// Heartbeat is the message that eds sends to HQ every minute.
type Heartbeat struct {
	SessionID string     `json:"sessionId"`
	Offset    uint64     `json:"offset"` // number of heartbeats sent earlier in this session
	Uptime    int64      `json:"uptime"` // in whole seconds
	Stats     Stats      `json:"stats"`
	Paused    *time.Time `json:"paused,omitempty"`
	// Server extends the protocol. An HQ that does not know this field ignores it.
	Server ServerStats `json:"server"`
}

// Stats holds the statistics that the protocol defines.
type Stats struct {
	Metrics HeartbeatMetrics       `json:"metrics"`
	Memory  *mem.VirtualMemoryStat `json:"memory"`
	Load    *load.AvgStat          `json:"load"`
}

// HeartbeatMetrics holds statistics of the pipeline. A histogram is sent as its sample count.
type HeartbeatMetrics struct {
	FlushCount         uint64 `json:"flushCount"`
	FlushDuration      uint64 `json:"flushDuration"`
	ProcessingDuration uint64 `json:"processingDuration"`
	PendingEvents      int64  `json:"pendingEvents"`
	TotalEvents        uint64 `json:"totalEvents"`
}

// ServerStats holds statistics that are not part of the original protocol.
type ServerStats struct {
	Version     string   `json:"version"`
	State       string   `json:"state"` // state of the destination
	Reason      string   `json:"reason,omitempty"`
	LagSeconds  *float64 `json:"lagSeconds"` // null if unknown
	Rate        float64  `json:"rate"`       // in events per second
	Pending     *uint64  `json:"pending"`    // null if unknown
	DeadLetters int      `json:"deadLetters"`
	Import      string   `json:"import,omitempty"` // progress of a running import
	// Tables lists the tables that are not ok, sorted by name. A long list is truncated.
	Tables []TableStats `json:"tables,omitempty"`
	// TablesNotOK counts all tables that are not ok.
	TablesNotOK int `json:"tablesNotOk"`
}

// TableStats is the state of one table that is not ok, with the command that repairs it.
type TableStats struct {
	Table    string    `json:"table"`
	State    string    `json:"state"`
	Cause    string    `json:"cause"`
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`
	Command  string    `json:"command,omitempty"`
	Accepted bool      `json:"accepted,omitempty"`
}

// SendHeartbeat publishes h as a heartbeat. It sets the fields SessionID and Offset itself.
func (c *ControlChannel) SendHeartbeat(h Heartbeat) error {
	h.SessionID, h.Offset = c.session, c.heartbeats.Add(1)-1
	return c.publish("heartbeat", h, nats.Header{nats.MsgIdHdr: {nuid.Next()}})
}

// publish publishes value, encoded as msgpack with the field names of its json tags.
func (c *ControlChannel) publish(name string, value any, header nats.Header) error {
	var body bytes.Buffer
	encoder := msgpack.NewEncoder(&body)
	encoder.SetCustomStructTag("json")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("encode %s for hq: %w", name, err)
	}
	if header == nil {
		header = nats.Header{}
	}
	header.Set(headerEncoding, encodedMsgpack)
	err := c.conn.PublishMsg(&nats.Msg{Subject: "eds.client." + c.session + "." + name, Header: header, Data: body.Bytes()})
	if err != nil {
		return fmt.Errorf("send %s to hq: %w", name, err)
	}
	return nil
}
