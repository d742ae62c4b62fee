package hq

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Security decides which hosts of HQ's API and NATS must use TLS. A host that has used TLS must
// always use TLS from then on. Otherwise an attacker on the network path could strip the server's
// offer of TLS, read the API key and the credential, and send commands. A host counts as using TLS
// only after it has shown a verified certificate, so an attacker cannot make a host require TLS. A
// Security is safe for concurrent use.
type Security struct {
	// Require selects the hosts that must use TLS. If Require is true, every host must use TLS,
	// including this machine. If Require is false, only hosts that have used TLS before must use
	// TLS. If Require is nil, HQ's default hosts must also use TLS, because they are on the
	// Internet.
	Require *bool
	// Hosts remembers the hosts that have used TLS. If it is nil, no host is remembered.
	Hosts TLSHosts
	// Logger logs a warning about each host that is reached without TLS and is not this machine.
	// It may be nil.
	Logger *slog.Logger
	// Warn is called with a warning about a peer. The peer is "hq" for HQ's API, or "nats". Warn is
	// called with an empty warning when the connection to the peer uses TLS. It may be nil.
	Warn func(peer, warning string)

	mu     sync.Mutex
	warned map[string]bool // keys are "peer host"
}

// TLSHosts stores host names durably, separately for each protocol ("hq" or "nats"). It is safe
// for concurrent use.
type TLSHosts interface {
	Has(protocol, host string) (bool, error)
	Add(protocol, host string) error
	// Path returns the file that records a host. Deleting this file makes eds forget the host.
	Path(protocol, host string) string
}

// InsecureError means that a host must use TLS but does not. Nothing was sent to the host.
type InsecureError struct {
	Peer, Host string
	Why        string
	Do         string // a remedy other than looking for an attacker; may be ""
}

func (e *InsecureError) Error() string {
	what, do := "offers no TLS", "someone may be intercepting the connection"
	if e.Peer == peerAPI {
		what, do = "is addressed by http://", "write https:// in its address"
	}
	if e.Do != "" {
		do += "; " + e.Do
	}
	return fmt.Sprintf("%s at %s %s, and must use TLS because %s; nothing was sent to it; %s", e.Peer, e.Host, what, e.Why, do)
}

// The names of HQ's peers, as used in messages and in Security.Hosts.
const (
	peerAPI  = "hq"
	peerNATS = "nats"
)

// publicHosts returns the names of HQ's default hosts.
func publicHosts() []string {
	var hosts []string
	for _, raw := range []string{DefaultURL, sandboxURL, edgeURL, DefaultServer} {
		if u, err := url.Parse(raw); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// requires returns an *InsecureError with the reason if the host must use TLS, or nil if it need
// not.
func (s *Security) requires(peer, host string) error {
	if s.Require != nil && *s.Require {
		return &InsecureError{peer, host, "require_tls is set", "set up TLS there, or remove require_tls = true"}
	}
	if s.Hosts != nil {
		switch known, err := s.Hosts.Has(peer, host); {
		case err != nil:
			return err
		case known:
			remedy := "if TLS was turned off there on purpose, remove " + s.Hosts.Path(peer, host)
			return &InsecureError{peer, host, "it has used TLS before", remedy}
		}
	}
	if s.Require == nil && slices.Contains(publicHosts(), strings.TrimSuffix(strings.ToLower(host), ".")) {
		return &InsecureError{peer, host, "it is Shopmonkey's own", ""}
	}
	return nil
}

// plain is called before a secret is sent to a host without TLS. It returns an error if the host
// must use TLS. Otherwise it warns, unless the host is this machine. Only the first warning about a
// host is logged.
func (s *Security) plain(peer, host string) error {
	if err := s.requires(peer, host); err != nil {
		return err
	}
	if loopback(host) {
		return nil
	}
	const unencrypted = " is not encrypted: others on the way can read it and send commands; set up TLS there"
	if s.firstWarning(peer, host) {
		s.logger().Warn("a connection"+unencrypted+", and then require_tls = true", "peer", peer, "host", host)
	}
	s.warn(peer, "the connection to "+peer+" at "+host+unencrypted)
	return nil
}

// firstWarning reports whether this is its first call for the peer and host.
func (s *Security) firstWarning(peer, host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warned == nil {
		s.warned = make(map[string]bool)
	}
	key := peer + " " + host
	first := !s.warned[key]
	s.warned[key] = true
	return first
}

// secured records that a host has shown a valid certificate, and withdraws any warning about the
// peer.
func (s *Security) secured(peer, host string) {
	s.warn(peer, "")
	if s.Hosts == nil {
		return
	}
	if err := s.Hosts.Add(peer, host); err != nil {
		s.logger().Warn("the host is required to use TLS only until eds ends", "host", host, "error", err)
	}
}

func (s *Security) warn(peer, warning string) {
	if s.Warn != nil {
		s.Warn(peer, warning)
	}
}

func (s *Security) logger() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// checkURL returns an error if u is an http:// URL of a host that must use TLS. For other http://
// URLs it warns, unless the host is this machine. The error is fatal, because only a change of the
// URL helps.
func (s *Security) checkURL(u *url.URL) error {
	if u.Scheme != "http" {
		return nil
	}
	return fault.Mark(fault.Fatal, s.plain(peerAPI, u.Hostname()))
}

// loopback reports whether host is localhost or a loopback address.
func loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
