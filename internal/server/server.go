// Package server is the composition root of the worker: it opens a session with
// HQ, the stream and the destination, and runs the pipeline between them, until
// it is told to stop or a person is needed.
package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/rules"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// Config is what a server is made of. Fields are required, but for those that
// say otherwise.
type Config struct {
	Options  config.Server
	Build    build.Info
	State    *state.Dir
	Lookup   sink.Lookup // of the environment, for the placeholders of the destination's URL
	Registry prometheus.Registerer
	Health   *telemetry.Health
	Logger   *slog.Logger

	// PID of the process, for reports.
	PID int
	// Log is the file of what Logger says, which HQ is sent; nil: none.
	Log *telemetry.LogFile
	// Crashes are those of earlier workers that HQ has not been told of.
	Crashes []Crash
	// FailedUpgrade says why an upgrade was taken back; nil: none was.
	FailedUpgrade *FailedUpgrade
	// Upgrade puts a version in this one's place, which begins when Run has
	// returned ErrReplaced; nil where nobody could begin it.
	Upgrade func(ctx context.Context, version string) error
	// Probation reports whether this version is on probation; nil: it is not.
	Probation func() bool
	// SessionBegan is told the id of each session; may be nil.
	SessionBegan func(id string)
	// Beat is called every few seconds as long as the server's parts answer; may be nil.
	Beat func()
}

// Server follows the stream into one destination.
type Server struct {
	Config
	client   *hq.Client
	security *hq.Security // of the connections to HQ
	apiURL   string
	keyless  bool // there is no HQ to hold a session with, only its NATS
	dead     *dlq.Queue
	metrics  *pipeline.Metrics
	commands *prometheus.CounterVec
	began    time.Time
	stop     context.CancelCauseFunc // ends Run in good order
	uploads  chan struct{}           // holds a token while nobody sends logs

	reconciler *reconciler.Reconciler
	renewed    *hqSession // the next session, begun before this one ended

	mu       sync.Mutex
	identity string // of this server, by the latest session
}

// New checks the configuration, without talking to anybody. Errors are for the
// person who wrote it.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, began: time.Now(), uploads: make(chan struct{}, 1)}
	s.uploads <- struct{}{}
	if err := s.openClient(); err != nil {
		return nil, err
	}
	if c.Options.URL.IsZero() && s.keyless {
		return nil, fault.Mark(fault.Fatal, errors.New("there is no destination, and no HQ to be told of one by; enrol at HQ with: eds enroll CODE; or give a destination, as in --url postgres://user:${PASSWORD}@host:5432/database, see: eds server help"))
	}
	var err error
	var destination *reconciler.Destination
	if !c.Options.URL.IsZero() {
		if destination, err = reconciler.RestoreDestination(c.Options.URL, c.Options.UpdateStrategy, c.Lookup, c.State); err != nil {
			return nil, err
		}
	}
	var loaded pipeline.Rules
	if dir := c.Options.SchemaValidator; dir != "" {
		if loaded, err = rules.Load(dir); err != nil {
			return nil, fault.Mark(fault.Fatal, err)
		}
	}
	if s.dead, err = dlq.Open(c.State.Path("dlq")); err != nil {
		return nil, err
	}
	silent, err := c.State.Value(silentServer)
	if err != nil {
		return nil, err
	}
	s.metrics = pipeline.NewMetrics(c.Registry)
	adjusted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "eds_adjusted_values_total",
		Help: "Values that the destination's type can't hold and that a documented rule changed.",
	}, []string{"table", "column", "rule"})
	s.commands = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "eds_control_messages_total",
		Help: "Control messages of HQ, by action and by what became of them.",
	}, []string{"action", "result"})
	c.Registry.MustRegister(adjusted, s.commands)
	s.reconciler, err = reconciler.New(reconciler.Config{
		Options: c.Options, Version: c.Build.Version, State: c.State, Lookup: c.Lookup, HQ: s.client, Tables: schema.NewCatalogue(s.client.Patient(), c.State),
		Dead: s.dead, Rules: loaded, Metrics: s.metrics, Probation: c.Probation, Health: c.Health, Logger: c.Logger,
		Silence:  jetstream.NewSilence(silent, func(server string) error { return c.State.SetValue(silentServer, server) }),
		Adjusted: func(table, column, rule string) { adjusted.WithLabelValues(table, column, rule).Inc() },
	}, destination)
	if err != nil {
		return nil, err
	}
	c.Health.ReadTables(s.tableStates)
	return s, nil
}

// silentServer is the key of the NATS server that does not answer consumer resets.
const silentServer = "nats-without-reset"

// Unknown reports whether HQ does not know the server yet: it has no key, and
// nothing on this machine that could be used without one.
func Unknown(o config.Server) bool {
	s := &Server{Config: Config{Options: o}}
	return o.APIKey.IsZero() && !s.localNATS()
}

// openClient resolves where HQ is and with which key.
func (s *Server) openClient() error {
	o := &s.Options
	key := hq.Key{}
	s.keyless = o.APIKey.IsZero() && s.localNATS()
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

// localNATS reports whether every NATS server asked for is on this machine,
// which may be used with no key at all.
func (s *Server) localNATS() bool {
	if len(s.Options.Servers) == 0 {
		return s.Options.APIURL != "" && hq.Local(s.Options.APIURL)
	}
	for _, server := range s.Options.Servers {
		if !hq.Local(server) {
			return false
		}
	}
	return true
}

// servers returns the addresses of NATS, comma separated.
func (s *Server) servers() string { return hq.Servers(strings.Join(s.Options.Servers, ","), s.apiURL) }

// What ends a session, besides failures.
var (
	errRenew    = errors.New("the session is due to be renewed")
	errRestart  = errors.New("hq asked for a restart")
	errShutdown = errors.New("hq asked for a shutdown")
)

// writerWait is how long a server that found another one writing waits before it looks
// again.
const writerWait = 30 * time.Second

// ErrReplaced says that another version of the program has to go on.
var ErrReplaced = errors.New("another version of eds takes this one's place")

// Run follows the stream until soft ends; then it applies what it holds, ends
// the session and returns nil. If hard ends it stops at once: nothing is
// lost, as what was not acknowledged comes again. After an upgrade it returns
// ErrReplaced; any other error needs a person.
func (s *Server) Run(soft, hard context.Context) error {
	defer s.client.Close()
	defer s.reconciler.Close()
	soft, s.stop = context.WithCancelCause(soft)
	defer s.stop(nil)
	watched, done := context.WithCancel(context.WithoutCancel(hard))
	var watcher errgroup.Group
	watcher.Go(func() error { s.watch(watched); return nil })
	defer func() {
		done()
		_ = watcher.Wait() // it has no errors
	}()
	defer context.AfterFunc(soft, s.Health.ShutDown)()
	defer func() {
		if sh := s.renewed; sh != nil {
			sh.close(nil)
			s.endSession(sh.sess, false)
		}
	}()

	var backoff retry.Backoff
	for {
		began := time.Now()
		err := s.session(soft, hard)
		switch {
		case errors.Is(context.Cause(soft), ErrReplaced):
			return ErrReplaced
		case soft.Err() != nil:
			return s.stopped(soft, err)
		case errors.Is(err, errRenew), errors.Is(err, errRestart):
			backoff.Reset()
			continue
		case errors.As(err, new(*continuity.GapError)):
			return err
		case errors.As(err, new(*sink.WriterError)):
			// It goes on as long as it lives; this one waits for its end, without a session.
			s.Logger.Error("this server stands back", "error", err, "wait", writerWait)
			sleep(soft, writerWait)
			continue
		case errors.Is(err, jetstream.ErrClosed):
			// NATS accepts the credential no more; a new session brings a new one.
		case err == nil || fault.Of(err) != fault.Transient:
			return err
		}
		if time.Since(began) > time.Minute {
			backoff.Reset()
		}
		wait := backoff.Next(err)
		s.Health.Set("session", err)
		s.Logger.Warn("the session ended; beginning another", "error", err, "wait", wait.Round(time.Millisecond))
		sleep(soft, wait)
	}
}

// stopped returns what Run reports once soft has ended and the last session with it.
func (s *Server) stopped(soft context.Context, err error) error {
	failed := failure(soft, err)
	if failed == nil && !asked(soft, err) {
		s.Logger.Warn("the last session did not end cleanly; nothing is lost", "error", err)
	}
	return failed
}

// asked reports whether a session that ended with err was asked to.
func asked(soft context.Context, err error) bool {
	return err == nil || errors.Is(err, errRenew) || errors.Is(err, errRestart) ||
		soft.Err() != nil && (errors.Is(err, context.Cause(soft)) || errors.Is(err, context.Canceled))
}

// failure returns what is wrong after a session that ended with err. Once the server is
// to stop, only what needs the operator counts: HQ, NATS and destinations that do not
// answer would have been waited for.
func failure(soft context.Context, err error) error {
	switch {
	case asked(soft, err):
		return nil
	case soft.Err() == nil, errors.Is(err, pipeline.ErrAbandoned), fault.Of(err) != fault.Transient && !errors.Is(err, jetstream.ErrClosed):
		return err
	}
	return nil
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
