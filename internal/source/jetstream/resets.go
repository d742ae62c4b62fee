package jetstream

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// ResetSupport remembers the servers that do not answer a consumer reset: those before 2.14. Each
// request would cost a timeout. It is safe for concurrent use.
//
// The server that a client is connected to may not be the one that answers, so its version alone
// decides nothing. It is part of the server's name here, so that an upgraded server is tested
// again.
type ResetSupport struct {
	record func(server string) error

	mu           sync.Mutex
	withoutReset map[string]bool // by server name
}

// NewResetSupport returns a ResetSupport that knows one server: the last argument of record, in
// this run or an earlier one; "" if there is none. record stores a name durably; nil stores
// nothing.
func NewResetSupport(recorded string, record func(server string) error) *ResetSupport {
	s := &ResetSupport{record: record, withoutReset: make(map[string]bool)}
	if recorded != "" {
		s.withoutReset[recorded] = true
	}
	return s
}

// missing reports whether the server is known not to answer.
func (s *ResetSupport) missing(server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withoutReset[server]
}

// markMissing remembers a server. After an error, the process forgets it when it ends.
func (s *ResetSupport) markMissing(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withoutReset[server] = true
	if s.record == nil {
		return nil
	}
	return s.record(server)
}

// maxServerName bounds the length of a server's name, in bytes.
const maxServerName = 200

// serverName returns the name of the connected server in ResetSupport: the cluster's name or,
// without one, the server's own, and the version.
func serverName(conn *nats.Conn) string {
	name := conn.ConnectedClusterName()
	if name == "" {
		name = conn.ConnectedServerName()
	}
	if name == conn.ConnectedServerId() { // the id of a server without a name, new after each restart
		name = ""
	}
	name += " " + conn.ConnectedServerVersion()
	return name[:min(len(name), maxServerName)]
}
