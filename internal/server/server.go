// Package server assembles the worker from its parts: the agent that talks to HQ, the
// reconciler that applies the stream to the destination, and the reports about both.
package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/rules"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// Config is the configuration of a Server. Fields are required unless their comments say
// otherwise.
type Config struct {
	Options  config.ServerSettings
	Build    build.Info
	State    *state.Dir
	Lookup   sink.Lookup // looks up environment variables, for placeholders in the destination's URL
	Registry prometheus.Registerer
	Health   *telemetry.Health
	Logger   *slog.Logger

	// PID is the id of this process, for reports.
	PID int
	// Log is the file that Logger writes to and the agent sends to HQ, or nil for no file.
	Log *telemetry.LogFile
	// Crashes, FailedUpgrade, Upgrade and SessionBegan are passed to agent.Config unchanged.
	Crashes       []agent.Crash
	FailedUpgrade *agent.FailedUpgrade
	Upgrade       func(ctx context.Context, version string) error
	SessionBegan  func(id string)
	// Probation reports whether the running version is on probation. If Probation is nil, the
	// version is not on probation.
	Probation func() bool
	// Beat is called every few seconds while the server works. It may be nil.
	Beat func()
}

// Server applies the changes of the stream to one destination.
type Server struct {
	Config
	client     *hq.Client
	security   *hq.Security // of the connections to HQ
	apiURL     string
	keyless    bool // the server works without HQ and uses only NATS
	dead       *dlq.Queue
	metrics    *pipeline.Metrics
	began      time.Time
	agent      *agent.Agent
	reconciler *reconciler.Reconciler
}

// New checks the configuration and returns a Server, without connecting to HQ, NATS or the
// destination. Errors are for the operator.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, began: time.Now()}
	if err := s.openClient(); err != nil {
		return nil, err
	}
	if c.Options.URL.IsZero() && s.keyless {
		return nil, fault.Mark(fault.Fatal, errors.New("there is no destination, and no HQ that could configure one; "+
			"enrol at HQ with: eds enroll CODE; or give a destination, "+
			"as in --url postgres://user:${PASSWORD}@host:5432/database, see: eds server help"))
	}
	if err := s.openReconciler(); err != nil {
		return nil, err
	}
	s.agent = agent.New(agent.Config{
		Options: c.Options, Version: c.Build.Version, Keyless: s.keyless, Servers: s.servers(), HQ: s.client,
		NATS:       &agent.NATS{Servers: s.servers(), Version: c.Build.Version, Security: s.security, Health: c.Health, Logger: c.Logger},
		Reconciler: s.reconciler, Heartbeat: s.heartbeat, Lookup: c.Lookup, Registry: c.Registry, Health: c.Health, Logger: c.Logger,
		Log: c.Log, Crashes: c.Crashes, FailedUpgrade: c.FailedUpgrade, Upgrade: c.Upgrade, SessionBegan: c.SessionBegan,
	})
	c.Health.ReadTables(s.tableStates)
	return s, nil
}

// openReconciler creates the reconciler, and opens the dead-letter queue for it.
func (s *Server) openReconciler() (err error) {
	o := &s.Options
	var destination *reconciler.Destination
	if !o.URL.IsZero() {
		if destination, err = reconciler.RestoreDestination(o.URL, o.UpdateStrategy, s.Lookup, s.State); err != nil {
			return err
		}
	}
	var loaded pipeline.Rules
	if o.SchemaValidator != "" {
		if loaded, err = rules.Load(o.SchemaValidator); err != nil {
			return fault.Mark(fault.Fatal, err)
		}
	}
	if s.dead, err = dlq.Open(s.State.Path("dlq")); err != nil {
		return err
	}
	silent, err := s.State.Value(silentServer)
	if err != nil {
		return err
	}
	s.metrics = pipeline.NewMetrics(s.Registry)
	adjusted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "eds_adjusted_values_total",
		Help: "Values that the destination's type can't hold and that a documented rule changed.",
	}, []string{"table", "column", "rule"})
	s.Registry.MustRegister(adjusted)
	s.reconciler, err = reconciler.New(reconciler.Config{
		Options: s.Options, Version: s.Build.Version, State: s.State, Lookup: s.Lookup, HQ: s.client,
		Tables: schema.NewCatalogue(s.client.Patient(), s.State),
		Dead:   s.dead, Rules: loaded, Metrics: s.metrics, Probation: s.Probation, Health: s.Health, Logger: s.Logger,
		ResetSupport: jetstream.NewResetSupport(silent, func(server string) error { return s.State.SetValue(silentServer, server) }),
		Adjusted:     func(table, column, rule string) { adjusted.WithLabelValues(table, column, rule).Inc() },
	}, destination)
	return err
}

// silentServer is the key of a value in the state directory. The value is the NATS server that
// does not answer requests to reset a consumer.
const silentServer = "nats-without-reset"

// NeedsEnrolment reports whether the server must enrol at HQ before it can start. The server must
// enrol if it has no API key. The only exception is a server whose NATS servers are all on this
// machine, because such NATS servers may be used without a key.
func NeedsEnrolment(o config.ServerSettings) bool { return o.APIKey.IsZero() && !localNATS(o) }

// openClient creates the client of HQ.
func (s *Server) openClient() error {
	o := &s.Options
	key := hq.Key{}
	s.keyless = o.APIKey.IsZero() && localNATS(*o)
	if !s.keyless {
		var err error
		if key, err = hq.ParseKey(o.APIKey.Reveal()); err != nil {
			return err
		}
		if err := key.Check(time.Now()); err != nil {
			return err
		}
	}
	base, err := hq.BaseURL(o.APIURL, key)
	if err != nil {
		return err
	}
	s.apiURL = base
	s.security = &hq.Security{Require: o.RequireTLS, Hosts: tlshosts.In(o.DataDir), Logger: s.Logger, Warn: s.Health.Warn}
	s.client = hq.New(hq.Options{BaseURL: base, Key: key, Version: s.Build.Version, Logger: s.Logger, Security: s.security})
	return nil
}

// localNATS reports whether all NATS servers are on this machine. Such servers may be used
// without a key.
func localNATS(o config.ServerSettings) bool {
	if len(o.Servers) == 0 {
		return o.APIURL != "" && hq.Local(o.APIURL)
	}
	for _, server := range o.Servers {
		if !hq.Local(server) {
			return false
		}
	}
	return true
}

// servers returns the addresses of the NATS servers, separated by commas.
func (s *Server) servers() string { return hq.Servers(strings.Join(s.Options.Servers, ","), s.apiURL) }

// Run follows the stream until the context soft is done. It then applies the received changes, ends
// the session with HQ, and returns nil. If the context hard is done, Run stops at once. Nothing is
// lost then, because NATS redelivers unacknowledged messages. After an upgrade Run returns
// agent.ErrReplaced. Any other error requires an action by the operator.
func (s *Server) Run(soft, hard context.Context) error {
	defer s.client.Close()
	defer s.reconciler.Close()
	watched, done := context.WithCancel(context.WithoutCancel(hard))
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watch(watched) })
	defer watcher.Wait()
	defer done()
	return s.agent.Run(soft, hard)
}
