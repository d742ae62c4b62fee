package devhq

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"
)

// ServerMessage is a message that a server sent to HQ over NATS.
type ServerMessage struct {
	SessionID string
	Kind      string // last part of the subject, such as "heartbeat" or "pause-response"
	At        time.Time
	Data      map[string]any
	Header    nats.Header
}

// maxReceived is the maximum number of messages in a receivedLog.
const maxReceived = 10_000

// receivedLog holds the newest messages from servers.
type receivedLog struct {
	mu       sync.Mutex
	messages []ServerMessage
	changed  chan struct{} // closed when the next message arrives
}

func newReceivedLog() *receivedLog { return &receivedLog{changed: make(chan struct{})} }

// subscribe subscribes to the messages from servers on conn, and adds them to the log.
func (l *receivedLog) subscribe(conn *nats.Conn) error {
	_, err := conn.Subscribe("eds.client.>", func(m *nats.Msg) {
		tokens := strings.SplitN(m.Subject, ".", 4)
		if len(tokens) < 4 {
			return
		}
		data := make(map[string]any)
		decoder := msgpack.NewDecoder(bytes.NewReader(m.Data))
		if m.Header.Get("content-encoding") != "msgpack" || decoder.Decode(&data) != nil {
			data = map[string]any{"unreadable": string(m.Data)}
		}
		l.add(ServerMessage{SessionID: tokens[2], Kind: tokens[3], At: time.Now(), Data: data, Header: m.Header})
	})
	if err != nil {
		return fmt.Errorf("subscribe to messages from servers: %w", err)
	}
	return nil
}

func (l *receivedLog) add(m ServerMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, m)
	if len(l.messages) > maxReceived {
		l.messages = slices.Delete(l.messages, 0, maxReceived/2)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// find returns the messages of one kind from a session, oldest first. The session "" means any
// session. find also returns a channel that is closed when the next message arrives.
func (l *receivedLog) find(session, kind string) ([]ServerMessage, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []ServerMessage
	for _, m := range l.messages {
		if (session == "" || m.SessionID == session) && m.Kind == kind {
			found = append(found, m)
		}
	}
	return found, l.changed
}

// Received returns the messages of one kind, such as "heartbeat" or "pause-response", from a
// session, oldest first. The session "" means all sessions.
func (h *HQ) Received(session, kind string) []ServerMessage {
	found, _ := h.received.find(session, kind)
	return found
}

// AwaitReceived returns a message of one kind from a session. If the message has not arrived yet,
// AwaitReceived waits for it. The last parameter is the number of earlier messages to skip.
func (h *HQ) AwaitReceived(ctx context.Context, session, kind string, before int) (ServerMessage, error) {
	for {
		found, changed := h.received.find(session, kind)
		if len(found) > before {
			return found[before], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ServerMessage{}, fmt.Errorf("await %s of session %s: %w", kind, session, context.Cause(ctx))
		}
	}
}

// Request sends a control message to a session, and decodes the JSON reply into out.
func (h *HQ) Request(ctx context.Context, sessionID, action string, data, out any) error {
	text, err := controlMessage(action, data)
	if err != nil {
		return err
	}
	m, err := h.admin.RequestWithContext(ctx, controlSubject(sessionID, action), text)
	if err != nil {
		return fmt.Errorf("request %s from a server: %w", action, err)
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fmt.Errorf("decode the reply to %s: %w", action, err)
	}
	return nil
}

// Notify sends a control message to a session, and does not wait for a response. The message
// contains the last argument as JSON, or no data if that argument is nil.
func (h *HQ) Notify(ctx context.Context, sessionID, action string, data any) error {
	text, err := controlMessage(action, data)
	if err != nil {
		return err
	}
	if err := h.admin.Publish(controlSubject(sessionID, action), text); err != nil {
		return fmt.Errorf("send the control message %s: %w", action, err)
	}
	ctx, cancel := context.WithTimeout(ctx, replyTimeout) // FlushWithContext needs a deadline
	defer cancel()
	if err := h.admin.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("send the control message %s: %w", action, err)
	}
	return nil
}

func controlSubject(sessionID, action string) string { return "eds.notify." + sessionID + "." + action }

func controlMessage(action string, data any) ([]byte, error) {
	text, err := json.Marshal(struct {
		Action string `json:"action"`
		Data   any    `json:"data,omitempty"`
	}{action, data})
	if err != nil {
		return nil, fmt.Errorf("encode the control message %s: %w", action, err)
	}
	return text, nil
}
