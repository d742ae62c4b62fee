package doctor_test

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/doctor"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// TestEachFailureIsNamedWithWhatToDo breaks one thing after the other.
func TestRun_NamesEachFailureWithItsRemedy(t *testing.T) {
	h, err := devhq.Start(t.Context(), devhq.Options{DataDir: t.TempDir(), Customers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	key := func(o devhq.KeyOptions) config.Secret { o.ServerID = "s"; return config.NewSecret(h.APIKey(o)) }
	blocked := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse := func(path string, status int) func() {
		return func() {
			h.Disturb(func(r *http.Request) devhq.Fault {
				if r.URL.Path == path {
					return devhq.Refuse(status, 0)
				}
				return nil
			})
		}
	}
	skipped := func(names ...string) map[string]doctor.Result {
		results := make(map[string]doctor.Result)
		for _, name := range names {
			results[name] = doctor.Skipped
		}
		return results
	}
	with := func(results map[string]doctor.Result, name string, r doctor.Result) map[string]doctor.Result {
		results[name] = r
		return results
	}
	// An address of this machine that eds takes for another machine's.
	elsewhere := func(url string) string { return strings.Replace(url, "127.0.0.1", "0.0.0.0", 1) }
	for name, c := range map[string]struct {
		change func(*doctor.Config)
		before func()
		want   map[string]doctor.Result // without those that are ok
	}{
		"nothing":          {},
		"a running server": {change: func(c *doctor.Config) { c.Running = true }, want: skipped("NATS")},
		"the data directory": {
			change: func(c *doctor.Config) { c.Options.DataDir = filepath.Join(blocked, "x") },
			want:   map[string]doctor.Result{"data directory": doctor.Failed, "disk": doctor.Warning, "configuration": doctor.Failed},
		},
		"the configuration": {
			change: func(c *doctor.Config) { c.Problem = os.ErrInvalid },
			want:   map[string]doctor.Result{"configuration": doctor.Failed},
		},
		"no key": {
			change: func(c *doctor.Config) { c.Options.APIKey = config.Secret{} },
			want:   with(skipped("HQ", "schema", "clock", "NATS"), "api key", doctor.Failed),
		},
		"a key that ends": {
			change: func(c *doctor.Config) { c.Options.APIKey = key(devhq.KeyOptions{Life: time.Hour}) },
			want:   map[string]doctor.Result{"api key": doctor.Warning},
		},
		"a key that ended": {
			change: func(c *doctor.Config) { c.Options.APIKey = key(devhq.KeyOptions{Life: -time.Hour}) },
			want:   with(skipped("HQ", "schema", "clock", "NATS"), "api key", doctor.Failed),
		},
		"HQ": {
			before: refuse("/v3/schema", http.StatusUnauthorized),
			want:   with(skipped("schema", "clock", "NATS"), "HQ", doctor.Failed),
		},
		"another server": {
			before: refuse("/v3/eds/internal", http.StatusConflict),
			want:   map[string]doctor.Result{"NATS": doctor.Warning},
		},
		"NATS": {
			change: func(c *doctor.Config) { c.Options.Servers = []string{"nats://127.0.0.1:1"} },
			want:   map[string]doctor.Result{"NATS": doctor.Failed},
		},
		"NATS without TLS": {
			change: func(c *doctor.Config) { c.Options.Servers = []string{elsewhere(h.NATSURL())} },
			want:   map[string]doctor.Result{"NATS": doctor.Warning},
		},
		"HQ without TLS": {
			change: func(c *doctor.Config) { c.Options.APIURL = elsewhere(h.APIURL()) },
			want:   map[string]doctor.Result{"HQ": doctor.Warning},
		},
		"TLS is required": {
			change: func(c *doctor.Config) { yes := true; c.Options.RequireTLS = &yes },
			want:   with(skipped("schema", "clock", "NATS"), "HQ", doctor.Failed),
		},
		"a running server without TLS": {change: func(c *doctor.Config) {
			c.Running, c.Warnings = true, []telemetry.Reason{{Condition: "nats", Message: "it is not encrypted"}}
		}, want: map[string]doctor.Result{"NATS": doctor.Warning}},
		"no destination": {
			change: func(c *doctor.Config) { c.Options.URL = config.Secret{} },
			want:   map[string]doctor.Result{"destination": doctor.Failed},
		},
		"a wrong destination": {
			change: func(c *doctor.Config) { c.Options.URL = config.NewSecret("sqlite://" + blocked + "/x.db") },
			want:   map[string]doctor.Result{"destination": doctor.Failed},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := config.ServerSettings{
				Common: config.Common{DataDir: t.TempDir()}, HQSettings: config.HQSettings{APIKey: key(devhq.KeyOptions{})},
				URL: config.NewSecret("sqlite://" + filepath.Join(t.TempDir(), "shop.db")), Servers: []string{h.NATSURL()},
			}
			config := doctor.Config{
				Options: o, Build: build.Info{Version: "1.2.3"}, Lookup: os.LookupEnv,
				Logger: slog.New(slog.DiscardHandler),
			}
			if c.change != nil {
				c.change(&config)
			}
			h.Disturb(nil)
			if c.before != nil {
				c.before()
			}
			got, all := make(map[string]doctor.Result), []string(nil)
			doctor.Run(t.Context(), config, func(c doctor.Check) {
				all = append(all, c.Name)
				if c.Result != doctor.OK {
					got[c.Name] = c.Result
				}
				if c.Found == "" || c.Result == doctor.Failed && c.Do == "" {
					t.Errorf("this does not say what to do: %+v", c)
				}
			})
			if c.want == nil {
				c.want = map[string]doctor.Result{}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{
				"data directory", "disk", "configuration", "api key", "HQ", "schema", "clock", "NATS",
				"destination",
			}, all); diff != "" {
				t.Error(diff)
			}
		})
	}
	sessions, err := h.Sessions()
	if err != nil || len(sessions) == 0 {
		t.Fatalf("%v, %v", sessions, err)
	}
	for _, s := range sessions {
		if s.Ended.IsZero() {
			t.Errorf("a session is left open: %+v", s)
		}
	}
}
