// Package tlshosts remembers the hosts that have used TLS, so that later connections to them
// without TLS can be refused. It remembers hosts separately for each protocol, because a host may
// use TLS for one protocol but not for another.
package tlshosts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// Hosts is the set of remembered hosts in one data directory. Each host has its own file, so that
// several processes can add hosts at the same time. A Hosts is safe for concurrent use.
type Hosts struct {
	dir   string
	looks bool // read-only: nothing is written to the data directory

	mu    sync.Mutex
	known map[string]bool // paths of the hosts that this process has added, even if writing the file failed
}

// In returns the set of remembered hosts in a data directory.
func In(dataDir string) *Hosts {
	return &Hosts{dir: filepath.Join(dataDir, "tls"), known: make(map[string]bool)}
}

// Look is like In, but the set never writes to the directory. Added hosts are remembered only until
// the process ends.
func Look(dataDir string) *Hosts {
	h := In(dataDir)
	h.looks = true
	return h
}

// Has reports whether the host has used TLS for the protocol.
func (h *Hosts) Has(protocol, host string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := h.Path(protocol, host)
	if h.known[path] {
		return true, nil
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether %s has used TLS: %w", host, err)
	}
	return true, nil
}

// Add durably remembers that the host has used TLS for the protocol. If there is an error, the
// host is remembered only until the process ends.
func (h *Hosts) Add(protocol, host string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := h.Path(protocol, host)
	if h.known[path] {
		return nil
	}
	h.known[path] = true
	if _, err := os.Stat(path); err == nil || h.looks {
		return nil
	}
	err := os.MkdirAll(h.dir, 0o700)
	if err == nil {
		err = durable.Replace(path, ".new-*", func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s at %s has used TLS, so eds refuses it without. If TLS was turned off there on purpose, remove "+
				"this file.\n", protocol, canonical(host))
			return err
		})
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(h.dir)) // the data directory may be new
	}
	if err != nil {
		return fmt.Errorf("remember that %s uses TLS: %w", host, err)
	}
	return nil
}

// Path returns the path of the file that records the host. Protocol names must not contain a
// hyphen.
func (h *Hosts) Path(protocol, host string) string {
	return filepath.Join(h.dir, protocol+"-"+url.QueryEscape(canonical(host)))
}

// canonical returns a spelling of host that is the same for all spellings of the same host.
func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().String()
	}
	return host
}
