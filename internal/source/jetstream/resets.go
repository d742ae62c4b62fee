package jetstream

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// ResetSupport remembers the servers that do not answer a consumer reset, which are those before
// 2.14. Without a ResetSupport, each reset request to such a server would cost a timeout. A
// ResetSupport is safe for concurrent use.
//
// The connected server and the server that answers a reset can differ, so the version of the
// connected server alone decides nothing. The version is part of the remembered name, so that a
// server is tested again after an upgrade.
type ResetSupport struct {
	record func(server string) error

	mu           sync.Mutex
	withoutReset map[string]bool // keyed by server name
}

// NewResetSupport returns a ResetSupport. The second argument is a callback that stores a server
// name durably, or nil. The first argument is the latest server name that the callback stored, in
// this process or an earlier one, or "" if it has stored none.
func NewResetSupport(recorded string, record func(server string) error) *ResetSupport {
	s := &ResetSupport{record: record, withoutReset: make(map[string]bool)}
	if recorded != "" {
		s.withoutReset[recorded] = true
	}
	return s
}

// missing reports whether the server is known not to answer a consumer reset.
func (s *ResetSupport) missing(server string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withoutReset[server]
}

// markMissing remembers that the server does not answer a consumer reset. After an error, the
// server is remembered only until the process ends.
func (s *ResetSupport) markMissing(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withoutReset[server] = true
	if s.record == nil {
		return nil
	}
	return s.record(server)
}

// maxServerName is the maximum length of a server's name in bytes.
const maxServerName = 200

// serverName returns the name under which ResetSupport remembers the connected server. The name
// consists of the cluster's name and the server's version; without a cluster, the server's own
// name replaces the cluster's name.
func serverName(conn *nats.Conn) string {
	name := conn.ConnectedClusterName()
	if name == "" {
		name = conn.ConnectedServerName()
	}
	if name == conn.ConnectedServerId() { // a server without a name reports its id, which changes with each restart
		name = ""
	}
	name += " " + conn.ConnectedServerVersion()
	return name[:min(len(name), maxServerName)]
}
