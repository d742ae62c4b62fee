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

// Security decides which hosts of HQ's API and NATS must use TLS. A host that has used TLS
// must use it from then on: an attacker in between could strip the offer of TLS, read the key
// and the credential, and send commands. Only a verified certificate counts, so that an
// attacker cannot make a host require TLS. It is safe for concurrent use.
type Security struct {
	// Require true requires TLS of every host, also on this machine; false only of hosts that
	// have used it; nil also of HQ's default hosts, which are on the Internet.
	Require *bool
	// Hosts remembers the hosts that have used TLS; nil: no host is remembered.
	Hosts TLSHosts
	// Logger warns of connections without TLS that leave this machine; nil: no logger.
	Logger *slog.Logger
	// Warn is called with the warning of a peer, HQ's API ("hq") or NATS ("nats"), and with ""
	// once the connection uses TLS; may be nil.
	Warn func(peer, warning string)

	mu     sync.Mutex
	warned map[string]bool // by peer and host
}

// TLSHosts stores hosts durably, by protocol ("hq" or "nats"). It is safe for concurrent use.
type TLSHosts interface {
	Has(protocol, host string) (bool, error)
	Add(protocol, host string) error
	// Path returns the file of a host. Removing it forgets the host.
	Path(protocol, host string) string
}

// InsecureError says that a host must use TLS and does not. Nothing was sent to it.
type InsecureError struct {
	Peer, Host string
	Why        string
	Do         string // a remedy besides looking for an attacker; may be ""
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

// The peers of HQ, in messages and in Security.Hosts.
const (
	peerAPI  = "hq"
	peerNATS = "nats"
)

// publicHosts returns HQ's default hosts.
func publicHosts() []string {
	var hosts []string
	for _, raw := range []string{DefaultURL, sandboxURL, edgeURL, DefaultServer} {
		if u, err := url.Parse(raw); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// requires returns an *InsecureError with the reason if the host must use TLS, else nil.
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

// plain is called before a secret is sent to a host without TLS. It returns an error if that
// is not allowed, else it warns, once for each host.
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

// firstWarning reports whether no warning about the host has been logged yet.
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

// secured is called after a host has shown a valid certificate.
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

// checkURL refuses an http:// URL that must not be used, and warns of one that should not
// be. The error is fatal: the URL has to be changed.
func (s *Security) checkURL(u *url.URL) error {
	if u.Scheme != "http" {
		return nil
	}
	return fault.Mark(fault.Fatal, s.plain(peerAPI, u.Hostname()))
}

// loopback reports whether the host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
