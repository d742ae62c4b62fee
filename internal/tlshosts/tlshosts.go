// Package tlshosts remembers which hosts have used TLS, so that later connections without it can be
// refused. It does so per protocol: a host may use TLS for one and not for another.
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

// Hosts are the hosts of one data directory. Each has its own file, so that several processes can
// add hosts at the same time. It is safe for concurrent use.
type Hosts struct {
	dir   string
	looks bool // nothing is written

	mu    sync.Mutex
	known map[string]bool // paths that this process has added, on disk or not
}

// In returns the remembered hosts of a data directory.
func In(dataDir string) *Hosts {
	return &Hosts{dir: filepath.Join(dataDir, "tls"), known: make(map[string]bool)}
}

// Look returns the remembered hosts of a data directory, without writing to it. Added hosts are
// forgotten with the process.
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

// Add remembers durably that the host has used TLS for the protocol. If that fails it remembers it
// until the process ends.
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
		err = durable.SyncDir(filepath.Dir(h.dir)) // which may be new
	}
	if err != nil {
		return fmt.Errorf("remember that %s uses TLS: %w", host, err)
	}
	return nil
}

// Path returns the file that records the host. Protocols have no - in their names.
func (h *Hosts) Path(protocol, host string) string {
	return filepath.Join(h.dir, protocol+"-"+url.QueryEscape(canonical(host)))
}

// canonical returns the one spelling of a host.
func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().String()
	}
	return host
}
