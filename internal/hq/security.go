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

// Security decides which of HQ's hosts, of its API and of its NATS, must use TLS.
// A host that has used TLS must use it from then on: someone between it and eds
// could strip the offer, read the key and the credential, and give orders. What
// counts is a host whose certificate was verified, so that nobody else can make it
// require TLS. It is safe for concurrent use.
type Security struct {
	// Require: true requires TLS of every host, on this machine too; false only of
	// hosts that have used it; nil also of the hosts that are HQ's by default, which
	// are reached over the Internet.
	Require *bool
	// Hosts remembers the hosts that have used TLS; nil: nothing is remembered.
	Hosts TLSHosts
	// Logger is told of connections without TLS that leave this machine; nil: none.
	Logger *slog.Logger
	// Warn is told what Logger is, of HQ's API ("hq") or of its NATS ("nats"), and ""
	// once the connection uses TLS; may be nil.
	Warn func(peer, warning string)

	mu     sync.Mutex
	warned map[string]bool // by peer and host
}

// TLSHosts remembers hosts, by protocol ("hq" or "nats"), durably. It is safe for
// concurrent use.
type TLSHosts interface {
	Has(protocol, host string) (bool, error)
	Add(protocol, host string) error
	// Path returns the file to remove for a host to be forgotten.
	Path(protocol, host string) string
}

// InsecureError says that a host does not use TLS and must. Nothing was sent to it.
type InsecureError struct {
	Peer, Host string
	Why        string
	Do         string // besides finding out who is in between; may be ""
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

// What HQ is reached by, for people and in Security.Hosts.
const (
	peerAPI  = "hq"
	peerNATS = "nats"
)

// publicHosts are the hosts that are HQ's if nothing says otherwise.
func publicHosts() []string {
	var hosts []string
	for _, raw := range []string{DefaultURL, sandboxURL, edgeURL, DefaultServer} {
		if u, err := url.Parse(raw); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// requires returns why TLS is required of a host, as an InsecureError; nil if it is
// not required.
func (s *Security) requires(peer, host string) error {
	if s.Require != nil && *s.Require {
		return &InsecureError{peer, host, "require_tls is set", "set up TLS there, or take require_tls = true back"}
	}
	if s.Hosts != nil {
		switch known, err := s.Hosts.Has(peer, host); {
		case err != nil:
			return err
		case known:
			return &InsecureError{peer, host, "it has used TLS before", "if TLS was turned off there on purpose, remove " + s.Hosts.Path(peer, host)}
		}
	}
	if s.Require == nil && slices.Contains(publicHosts(), strings.TrimSuffix(strings.ToLower(host), ".")) {
		return &InsecureError{peer, host, "it is Shopmonkey's own", ""}
	}
	return nil
}

// plain is called before anything secret goes to a host without TLS. It returns an
// error if that must not be, and else warns, once for each host.
func (s *Security) plain(peer, host string) error {
	if err := s.requires(peer, host); err != nil {
		return err
	}
	if loopback(host) {
		return nil
	}
	if s.tell(peer, host) {
		s.logger().Warn("a connection is not encrypted: others on the way can read what is sent, and give orders; set up TLS there, and then require_tls = true", "peer", peer, "host", host)
	}
	s.warn(peer, "the connection to "+peer+" at "+host+" is not encrypted: others on the way can read what is sent, and give orders; set up TLS there")
	return nil
}

// tell reports whether a warning about the host is to be logged.
func (s *Security) tell(peer, host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warned == nil {
		s.warned = make(map[string]bool)
	}
	told := s.warned[peer+" "+host]
	s.warned[peer+" "+host] = true
	return !told
}

// secured is called when a host has shown a certificate that is valid for it.
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

// checkURL refuses a URL of HTTP that must not be used, and warns about one that
// should not be. It is fatal: what the URL says is wrong.
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
