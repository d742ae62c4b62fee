package tlshosts_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

func has(t *testing.T, h *tlshosts.Hosts, host string) bool {
	t.Helper()
	ok, err := h.Has("nats", host)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestHosts_AreRememberedByTheNextProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	names := map[string][]string{ // one spelling -> other spellings of the same host
		"nats.example.com": {"NATS.example.com", "nats.example.com."},
		"127.0.0.1":        {"::ffff:127.0.0.1"},
		"::1":              {"[::1]", "0:0::1"},
		"..":               nil, "a/../b": nil, "con": nil, "*": nil, "bücher.example": nil,
	}
	for name := range names {
		if first := tlshosts.In(dir); has(t, first, name) {
			t.Errorf("%s is known before it was added", name)
		} else if err := first.Add("nats", name); err != nil || !has(t, first, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	next := tlshosts.In(dir)
	for name, others := range names {
		for _, spelling := range append(others, name) {
			if !has(t, next, spelling) {
				t.Errorf("%s is forgotten", spelling)
			}
		}
	}
	for _, other := range []string{"example.com", "other.nats.example.com", "127.0.0.2", "", "."} {
		if has(t, next, other) {
			t.Errorf("%q is known", other)
		}
	}
	if other, err := next.Has("hq", "nats.example.com"); other || err != nil {
		t.Errorf("the host is known for another protocol: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "tls"))
	if err != nil || len(entries) != len(names) {
		t.Errorf("%d files for %d hosts, %v", len(entries), len(names), err)
	}
	if err := os.Remove(next.Path("nats", "nats.example.com")); err != nil || has(t, tlshosts.In(dir), "nats.example.com") {
		t.Errorf("a host whose file was removed is known: %v", err)
	}
}

func TestLook_WritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	h := tlshosts.Look(dir)
	if err := h.Add("nats", "nats.example.com"); err != nil || !has(t, h, "nats.example.com") {
		t.Errorf("it is forgotten at once: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
	if err := tlshosts.In(dir).Add("nats", "nats.example.com"); err != nil || !has(t, tlshosts.Look(dir), "nats.example.com") {
		t.Errorf("what others remember is not seen: %v", err)
	}
}

func TestHosts_AreKeptInMemoryIfTheDiskFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := tlshosts.In(file)
	if err := h.Add("nats", "nats.example.com"); err == nil || !strings.Contains(err.Error(), "nats.example.com") {
		t.Errorf("got %v", err)
	}
	if !has(t, h, "nats.example.com") {
		t.Error("it is forgotten at once")
	}
}

func TestHosts_AreAddedByManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		h := tlshosts.In(dir)
		for _, host := range []string{"a", "b", "a", "c"} {
			all.Go(func() {
				if err := h.Add("nats", host); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	for _, host := range []string{"a", "b", "c"} {
		if !has(t, tlshosts.In(dir), host) {
			t.Errorf("%s is lost", host)
		}
	}
}
