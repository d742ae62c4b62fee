package jetstream

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// Silence remembers the servers that do not answer a consumer reset: those before
// 2.14. Each request would cost a timeout. It is safe for concurrent use.
//
// The server that a client is connected to may not be the one that answers, so its
// version decides nothing by itself. It is part of the server's name here, so that
// an upgraded server is asked again.
type Silence struct {
	record func(server string) error

	mu     sync.Mutex
	silent map[string]bool
}

// NewSilence returns a Silence that knows the server that record was given last, in
// this run or an earlier one; "" if it never was. record stores a name durably; nil
// stores nothing.
func NewSilence(recorded string, record func(server string) error) *Silence {
	s := &Silence{record: record, silent: make(map[string]bool)}
	if recorded != "" {
		s.silent[recorded] = true
	}
	return s
}

// knows reports whether the server is known not to answer.
func (s *Silence) knows(server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent[server]
}

// add remembers a server. After an error it is forgotten at the end of the process.
func (s *Silence) add(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent[server] = true
	if s.record == nil {
		return nil
	}
	return s.record(server)
}

// maxServerName bounds what a server says of itself, in bytes.
const maxServerName = 200

// serverName returns the name under which Silence knows the server that conn is
// connected to: that of its cluster, else its own, and the version.
func serverName(conn *nats.Conn) string {
	name := conn.ConnectedClusterName()
	if name == "" {
		name = conn.ConnectedServerName()
	}
	if name == conn.ConnectedServerId() { // a server without a name has another id after each restart
		name = ""
	}
	name += " " + conn.ConnectedServerVersion()
	return name[:min(len(name), maxServerName)]
}
