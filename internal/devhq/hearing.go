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

// Said is something that a server has said to HQ over NATS.
type Said struct {
	SessionID string
	What      string // the end of the subject: "heartbeat", "pause-response"
	At        time.Time
	Data      map[string]any
	Header    nats.Header
}

// heardAtMost bounds how much is remembered.
const heardAtMost = 10_000

// hearing remembers what servers say.
type hearing struct {
	mu      sync.Mutex
	said    []Said
	changed chan struct{} // closed when something is said
}

func newHearing() *hearing { return &hearing{changed: make(chan struct{})} }

// listen remembers what is said on the connection.
func (h *hearing) listen(conn *nats.Conn) error {
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
		h.mu.Lock()
		defer h.mu.Unlock()
		h.said = append(h.said, Said{SessionID: tokens[2], What: tokens[3], At: time.Now(), Data: data, Header: m.Header})
		if len(h.said) > heardAtMost {
			h.said = slices.Delete(h.said, 0, heardAtMost/2)
		}
		close(h.changed)
		h.changed = make(chan struct{})
	})
	if err != nil {
		return fmt.Errorf("listen to servers: %w", err)
	}
	return nil
}

func (h *hearing) find(session, what string) ([]Said, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Said
	for _, s := range h.said {
		if (session == "" || s.SessionID == session) && s.What == what {
			found = append(found, s)
		}
	}
	return found, h.changed
}

// Heard returns what a session has said of one kind, such as "heartbeat" or
// "pause-response", oldest first; the session "" stands for all.
func (h *HQ) Heard(session, what string) []Said {
	found, _ := h.hearing.find(session, what)
	return found
}

// AwaitHeard waits until a session has said something of one kind more than
// before times, and returns the first of what is new.
func (h *HQ) AwaitHeard(ctx context.Context, session, what string, before int) (Said, error) {
	for {
		found, changed := h.hearing.find(session, what)
		if len(found) > before {
			return found[before], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Said{}, fmt.Errorf("await %s of session %s: %w", what, session, context.Cause(ctx))
		}
	}
}

// Ask sends a control message that wants a reply, and decodes the reply into out.
func (h *HQ) Ask(ctx context.Context, sessionID, action string, data, out any) error {
	text, err := controlMessage(action, data)
	if err != nil {
		return err
	}
	m, err := h.admin.RequestWithContext(ctx, "eds.notify."+sessionID+"."+action, text)
	if err != nil {
		return fmt.Errorf("ask a server for %s: %w", action, err)
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fmt.Errorf("read the reply to %s: %w", action, err)
	}
	return nil
}

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
