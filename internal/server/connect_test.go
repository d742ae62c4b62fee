package server

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

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
	for want, change := range map[string]func(*config.Server){
		"":     func(*config.Server) {},
		"nats": func(o *config.Server) { o.Servers = []string{elsewhere(o.Servers[0])} },
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
	s := newServer(t, h, health, func(o *config.Server) { o.APIURL = elsewhere(h.APIURL()) })
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
	s := newServer(t, h, telemetry.NewHealth(), func(o *config.Server) { o.RequireTLS = &yes })
	err := s.Run(t.Context(), t.Context())
	if !errors.As(err, new(*hq.InsecureError)) || fault.Of(err) != fault.Fatal {
		t.Errorf("got %v", err)
	}
}

// newServer returns a server that is not run.
func newServer(t *testing.T, h *devhq.HQ, health *telemetry.Health, change func(*config.Server)) *Server {
	t.Helper()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	o := config.Server{
		Common: config.Common{DataDir: t.TempDir()}, Servers: []string{h.NATSURL()},
		HQ: config.HQ{APIKey: config.NewSecret(h.APIKey(devhq.KeyOptions{ServerID: "s"}))},
	}
	change(&o)
	s, err := New(Config{
		Options: o, State: dir, Registry: prometheus.NewRegistry(), Health: health, Logger: slog.New(slog.DiscardHandler),
		Lookup: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
