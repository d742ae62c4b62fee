package server

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// elsewhere returns an address of this machine that eds takes for another machine's.
func elsewhere(url string) string { return strings.Replace(url, "127.0.0.1", "0.0.0.0", 1) }

func TestServer_WarnsOfHQWithoutTLS(t *testing.T) {
	for want, change := range map[string]func(*config.ServerSettings){
		"":     func(*config.ServerSettings) {},
		"nats": func(o *config.ServerSettings) { o.Servers = []string{elsewhere(o.Servers[0])} },
	} {
		c := control(t, nil, change)
		r := c.health.Report()
		got := ""
		for _, w := range r.Warnings {
			got += w.Condition
		}
		if got != want || r.Status == telemetry.Unhealthy {
			t.Errorf("warnings of %q, want %q: %+v", got, want, r)
		}
	}
}

func TestServer_WarnsOfAPIWithoutTLS(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	health := telemetry.NewHealth()
	s := newServer(t, h, health, func(o *config.ServerSettings) { o.APIURL = elsewhere(h.APIURL()) })
	if _, err := s.client.LatestSchemas(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := health.Report(); len(r.Warnings) != 1 || r.Warnings[0].Condition != "hq" || r.Status == telemetry.Unhealthy {
		t.Errorf("%+v", r)
	}
}

func TestServer_RequireTLSRefusesHQ(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	yes := true
	s := newServer(t, h, telemetry.NewHealth(), func(o *config.ServerSettings) { o.RequireTLS = &yes })
	err := s.Run(t.Context(), t.Context())
	if !errors.As(err, new(*hq.InsecureError)) || fault.Of(err) != fault.Fatal {
		t.Errorf("got %v", err)
	}
}

// newServer returns a server that is not run.
func newServer(t *testing.T, h *devhq.HQ, health *telemetry.Health, change func(*config.ServerSettings)) *Server {
	t.Helper()
	o, dir := serverOptions(t, h)
	change(&o)
	c := serverConfig(o, dir)
	c.Health = health
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serverOptions returns the options of a server of an HQ, and a data directory that is open
// until the test ends.
func serverOptions(t *testing.T, h *devhq.HQ) (config.ServerSettings, *state.Dir) {
	t.Helper()
	data := t.TempDir()
	dir, err := state.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	return config.ServerSettings{
		Common: config.Common{DataDir: data}, Servers: []string{h.NATSURL()}, RenewInterval: time.Hour,
		HQSettings: config.HQSettings{APIKey: config.NewSecret(h.APIKey(devhq.KeyOptions{ServerID: "s"}))},
	}, dir
}

func serverConfig(o config.ServerSettings, dir *state.Dir) Config {
	return Config{
		Options: o, Build: build.Info{Version: "1.2.3"}, State: dir, Registry: prometheus.NewRegistry(), Health: telemetry.NewHealth(),
		Logger: slog.New(slog.DiscardHandler), Lookup: func(string) (string, bool) { return "", false },
	}
}
