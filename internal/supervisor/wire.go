package supervisor

import (
	"bytes"
	"encoding/json"
	"sync"
)

// The types of messages. The worker hears typeStart, once; the parent all others.
const (
	typeStart     = "start"
	typeReady     = "ready"
	typeHeartbeat = "heartbeat"
	typeSession   = "session"
	typeUpgrade   = "upgrade"
	typeExiting   = "exiting"
)

// maxLine bounds a message to the parent, maxStart the one to the worker, in bytes.
const (
	maxLine  = 64 << 10
	maxStart = 4 << 20
)

// Start is what the parent tells a worker first.
type Start struct {
	Args     []string `json:"args"`               // the program's, of eds server
	Terminal bool     `json:"terminal,omitempty"` // what the worker writes to its standard error appears on one
	Note     Note     `json:"note"`
}

// startMessage is Start on the wire.
type startMessage struct {
	Type string `json:"type"`
	Start
}

// report is a message of the worker. Which members it has depends on its type.
type report struct {
	Type    string `json:"type"`
	Session string `json:"session,omitempty"` // session: the one that is open, or ""
	Version string `json:"version,omitempty"` // upgrade
	Staged  string `json:"staged,omitempty"`  // upgrade: the path of the new binary
	Code    int    `json:"code,omitempty"`    // exiting
	Reason  string `json:"reason,omitempty"`  // exiting
}

// line returns a message as a line. It begins with the end of one, which ends
// whatever a library may have printed there; the parent passes over empty lines.
func line(message any) ([]byte, error) {
	text, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	return append(append([]byte{'\n'}, text...), '\n'), nil
}

// parse returns the message that a line holds.
func parse(text []byte) (report, bool) {
	var r report
	if err := json.Unmarshal(text, &r); err != nil || r.Type == "" {
		return report{}, false
	}
	return r, true
}

// lines splits what is written to it. It holds at most max bytes of a line: of
// a longer one the beginning is handled, as one that was cut. A Write never
// fails. It is safe for concurrent use.
type lines struct {
	max    int
	handle func(text []byte, cut bool)

	mu   sync.Mutex
	held []byte
	cut  bool
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		text, after, whole := bytes.Cut(rest, []byte{'\n'})
		rest = after
		if room := l.max - len(l.held); len(text) > room {
			text, l.cut = text[:room], true
		}
		l.held = append(l.held, text...)
		if whole {
			l.end()
		}
	}
	return len(p), nil
}

// flush handles what came after the end of the last line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
}

func (l *lines) end() {
	if text := bytes.TrimSpace(l.held); len(text) > 0 {
		l.handle(text, l.cut)
	}
	l.held, l.cut = l.held[:0], false
}
