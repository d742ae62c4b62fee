package sinktest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Rotation manages files with secrets. It records the access health that a sink reports while the
// sink uses the files.
type Rotation struct {
	t   testing.TB
	dir string

	mu     sync.Mutex
	worked bool
	health string // the reason for a refusal, or ""
}

// NewRotation returns a Rotation without files.
func NewRotation(t testing.TB) *Rotation { return &Rotation{t: t, dir: t.TempDir()} }

// Path returns the path for a file with the given name.
func (r *Rotation) Path(name string) string { return filepath.Join(r.dir, name) }

// Placeholder returns the placeholder for the named file in a URL.
func (r *Rotation) Placeholder(name string) string { return "${file:" + r.Path(name) + "}" }

// Put replaces the named file.
func (r *Rotation) Put(name string, content []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.Path(name)+".new", content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.Path(name)+".new", r.Path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// Open opens a sink with a URL that has placeholders. The sink is closed when the test ends.
func (r *Rotation) Open(d sink.Driver, raw string, env sink.Env) (sink.Sink, error) {
	r.t.Helper()
	expand := func() (*url.URL, error) {
		return sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	}
	env.Access = sink.NewAccess(expand, false, func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.worked, r.health = r.worked || err == nil, ""
		if err != nil {
			r.health = err.Error()
		}
	})
	target, err := expand()
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := d.Open(r.t.Context(), target, env)
	if err == nil {
		r.t.Cleanup(func() {
			if err := s.Close(context.Background()); err != nil {
				r.t.Errorf("close: %v", err)
			}
		})
	}
	return s, err
}

// Waits checks that err is transient and contains none of the secrets. It also checks that err
// contains a given text, which is the parameter says. The sink must already have reported err as
// its health.
func (r *Rotation) Waits(what string, err error, says string, secrets ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || fault.Of(err) != fault.Transient || r.health != err.Error() || !strings.Contains(err.Error(), says) {
		r.t.Fatalf("%s: %v: %v\nhealth says %q, want a transient error that says %q", what, fault.Of(err), err, r.health, says)
	}
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret) {
			r.t.Errorf("%s: the error holds a secret: %v", what, err)
		}
	}
}

// WaitsEventually is like Waits, for a client certificate that the server refuses. With TLS 1.3,
// the client may be writing when the server closes the connection. The client then does not get
// the reason, but a later attempt does.
func (r *Rotation) WaitsEventually(what string, attempt func() error, says string) {
	r.t.Helper()
	const attempts = 100
	for range attempts {
		err := attempt()
		if err == nil || fault.Of(err) != fault.Transient {
			r.t.Fatalf("%s: %v: %v", what, fault.Of(err), err)
		}
		if strings.Contains(err.Error(), says) {
			r.Waits(what, err, says)
			return
		}
	}
	r.t.Fatalf("%s: none of %d attempts reports: %s", what, attempts, says)
}

// Works checks that err is nil, and that health reports no problem.
func (r *Rotation) Works(what string, err error) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !r.worked || r.health != "" {
		r.t.Fatalf("%s: %v\nhealth says %q, and that it has worked: %v", what, err, r.health, r.worked)
	}
}
