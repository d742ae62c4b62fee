package supervisor

import (
	"bytes"
	"encoding/json"
	"sync"
)

// Types of messages. The parent sends a single message, which has typeStart. The worker sends the
// messages of all other types.
const (
	typeStart     = "start"
	typeReady     = "ready"
	typeHeartbeat = "heartbeat"
	typeSession   = "session"
	typeUpgrade   = "upgrade"
	typeExiting   = "exiting"
)

// Limits in bytes. A message to the parent has at most maxLine bytes. The message to the worker
// has at most maxStart bytes.
const (
	maxLine  = 64 << 10
	maxStart = 4 << 20
)

// StartRequest is the parent's message to a worker.
type StartRequest struct {
	Args     []string `json:"args"`               // command-line arguments of eds server
	Terminal bool     `json:"terminal,omitempty"` // a terminal shows the worker's standard error
	Note     Note     `json:"note"`
}

// startMessage is StartRequest on the wire.
type startMessage struct {
	Type string `json:"type"`
	StartRequest
}

// workerMessage is a message from the worker. Type determines which other fields are set.
type workerMessage struct {
	Type    string `json:"type"`
	Session string `json:"session,omitempty"` // session: the open session, or ""
	Version string `json:"version,omitempty"` // upgrade
	Staged  string `json:"staged,omitempty"`  // upgrade: the path of the new binary
	Code    int    `json:"code,omitempty"`    // exiting
	Reason  string `json:"reason,omitempty"`  // exiting
}

// encode returns a message as a line. A line break precedes the message, to terminate text that
// a library may have printed. The parent ignores empty lines.
func encode(message any) ([]byte, error) {
	text, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	return append(append([]byte{'\n'}, text...), '\n'), nil
}

// parse decodes a line, and reports whether it is a message.
func parse(text []byte) (workerMessage, bool) {
	var r workerMessage
	if err := json.Unmarshal(text, &r); err != nil || r.Type == "" {
		return workerMessage{}, false
	}
	return r, true
}

// lineSplitter is a writer that calls the function handle with each nonempty line. It truncates
// lines to max bytes. For a truncated line, the argument cut is true. Write never fails. It is safe
// for concurrent use.
type lineSplitter struct {
	max    int
	handle func(text []byte, cut bool)

	mu   sync.Mutex
	held []byte
	cut  bool
}

func (l *lineSplitter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		text, after, whole := bytes.Cut(rest, []byte{'\n'})
		rest = after
		if free := l.max - len(l.held); len(text) > free {
			text, l.cut = text[:free], true
		}
		l.held = append(l.held, text...)
		if whole {
			l.end()
		}
	}
	return len(p), nil
}

// flush handles the text after the last line break.
func (l *lineSplitter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
}

func (l *lineSplitter) end() {
	if text := bytes.TrimSpace(l.held); len(text) > 0 {
		l.handle(text, l.cut)
	}
	l.held, l.cut = l.held[:0], false
}
