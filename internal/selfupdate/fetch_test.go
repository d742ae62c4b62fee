package selfupdate

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestDownload_RetriesAServerError(t *testing.T) {
	w := newWorld(t)
	u, bad := w.updater(), 0
	w.answer = func(rw http.ResponseWriter, _ *http.Request) {
		if bad++; bad == fetchAttempts-1 {
			w.mu.Lock()
			w.answer = nil
			w.mu.Unlock()
		}
		http.Error(rw, "later", http.StatusServiceUnavailable)
	}
	staged, err := u.Stage(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Swap(); err != nil {
		t.Error(err)
	}
}

func TestDownload_EndsWithItsReason(t *testing.T) {
	interrupted := errors.New("interrupted")
	for name, c := range map[string]struct {
		answer  func(cancel func()) http.HandlerFunc
		asked   int // how often
		is      error
		says    string
		notSays string
	}{
		"the server is broken": {func(func()) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusBadGateway) }
		}, fetchAttempts, nil, "502 Bad Gateway", ""},
		"it is forbidden": {func(func()) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) }
		}, 1, nil, "403 Forbidden", ""},
		"nothing comes": {func(func()) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, fetchAttempts, nil, "no data came for 20ms", ""},
		"redirected to plain http": {func(func()) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "http://mirror.example.com/x?token=SECRET", http.StatusFound)
			}
		}, fetchAttempts, nil, "not https", "SECRET"},
		"redirected in a circle": {func(func()) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, "/x?token=SECRET", http.StatusFound)
			}
		}, fetchAttempts * (maxRedirects + 1), nil, "too often", "SECRET"},
		"interrupted": {func(cancel func()) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) {
				cancel()
				<-r.Context().Done()
			}
		}, 1, interrupted, "download eds_Linux_x86_64.tar.gz.sig: ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w.answer = c.answer(func() { cancel(interrupted) })
			u := w.updater()
			if name == "nothing comes" {
				u.fetch.stall = 20 * time.Millisecond
			}
			_, err := u.Stage(ctx, newer)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) ||
				c.notSays != "" && strings.Contains(err.Error(), c.notSays) {
				t.Errorf("%v, want %q", err, c.says)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			// A request may be given up before the server has seen it.
			if len(w.requests) > c.asked || len(w.requests) < c.asked && name != "nothing comes" {
				t.Errorf("it asked %d times, want %d", len(w.requests), c.asked)
			}
			w.untouched()
		})
	}
}

func TestNewest_ReadsTheReleasesPage(t *testing.T) {
	to := func(address string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, address, http.StatusFound) }
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
		is     error
	}{
		"there is one":                 {to("https://github.com/shopmonkeyus/eds/releases/tag/v1.4.0"), "1.4.0", nil},
		"there is none":                {to("https://github.com/shopmonkeyus/eds/releases"), "", ErrNoNewest},
		"it is no version":             {to("https://github.com/shopmonkeyus/eds/releases/tag/nightly"), "", ErrNoNewest},
		"a path instead of a version":  {to("/releases/tag/v1.4.0/../../evil"), "", ErrNoNewest},
		"a page instead of its place":  {func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusOK) }, "", ErrNoNewest},
		"there is no page of releases": {http.NotFound, "", ErrNoRelease},
	} {
		w := newWorld(t)
		w.answer = c.answer
		got, err := w.updater().Newest(t.Context())
		if got != c.want || !errors.Is(err, c.is) {
			t.Errorf("%s: %q, %v, want %q, %v", name, got, err, c.want, c.is)
		}
		if len(w.requests) != 1 || w.requests[0] != "/releases/latest" {
			t.Errorf("%s: it requested %v", name, w.requests)
		}
	}
	w := newWorld(t)
	w.options.Releases = "https://mirror.example.com/eds"
	if _, err := w.updater().Newest(t.Context()); !errors.Is(err, ErrNoNewest) {
		t.Errorf("a mirror: %v", err)
	}
}

func TestDownload_RefusesRedirectsToLoopback(t *testing.T) {
	check := newReleaseDownloader(Options{}).http.CheckRedirect
	request := func(address string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"https://github.com/x", "https://objects.example.com/x", true},
		{"https://github.com/x", "http://objects.example.com/x", false},
		{"https://github.com/x", "http://localhost/x", false},
		{"https://github.com/x", "https://127.0.0.1/x", false},
		{"http://localhost/x", "http://127.0.0.1/x", true},
		{"http://localhost/x", "https://objects.example.com/x", true},
	} {
		if err := check(request(c.to), []*http.Request{request(c.from)}); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}
