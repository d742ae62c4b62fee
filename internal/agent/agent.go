// Package agent talks to HQ for the worker. It holds sessions, handles HQ's commands, and sends
// heartbeats, logs and crash reports. During each session it runs the reconciler, which follows
// the stream.
package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// API is HQ's HTTP API. Its methods must be safe for concurrent use.
type API interface {
	// AwaitSession starts a session. It retries until ctx is done, even while another server
	// with the same id holds a session (hq.Conflict). It calls the function waits before each
	// wait. If ctx is done after HQ has started the session, AwaitSession returns the session
	// and no error.
	AwaitSession(ctx context.Context, start hq.SessionStart, waits func(err error, wait time.Duration)) (hq.Session, error)
	// EndSession ends a session. The parameter errored reports whether the session ends because
	// of a failure. EndSession gives up after some time.
	EndSession(ctx context.Context, session string, errored bool) (hq.SessionEnd, error)
	// AwaitSessionEnd ends a session that has not failed. It retries until ctx is done.
	AwaitSessionEnd(ctx context.Context, session string) error
	// LogURL returns a URL to which one log file of the session can be uploaded.
	LogURL(ctx context.Context, session string) (string, error)
	// Upload uploads a gzipped file and returns the path at which HQ stores it.
	Upload(ctx context.Context, url string, file io.ReadSeeker) (path string, err error)
}

// Dialer connects to HQ's NATS.
type Dialer interface {
	// Connect connects, and retries until ctx is done. It does not retry after errRefused,
	// which means that NATS does not accept the credential.
	Connect(ctx context.Context, credential hq.Credential, serverID string) (Connection, error)
}

// Connection is a connection to HQ's NATS. It reconnects automatically until Close.
type Connection interface {
	// NATS returns the underlying connection, for the consumer of the stream.
	NATS() *nats.Conn
	// OpenControlChannel opens the control channel of a session.
	OpenControlChannel(session string) (ControlChannel, error)
	// Denied returns a channel that receives an error if NATS denies a permission that the
	// server needs.
	Denied() <-chan error
	IsConnected() bool
	IsClosed() bool
	Close()
}

// ControlChannel receives HQ's commands and sends responses. hq.ControlChannel documents
// the methods.
type ControlChannel interface {
	Next(ctx context.Context) (hq.Command, error)
	Acknowledge(action, message string) error
	Respond(action string, body any) error
	Reply(command hq.Command, body any) error
	Pong(subject string) error
	SendHeartbeat(h hq.Heartbeat) error
	Flush(ctx context.Context) error
	Close() error
}

// Reconciler follows the stream and imports tables. reconciler.Reconciler documents the
// methods. Calls of Run do not overlap, but the other methods must be safe for concurrent use.
type Reconciler interface {
	Run(due, hard context.Context, s reconciler.StreamAccess) (gap, err error)
	Destination() *reconciler.Destination
	SetDestination(d *reconciler.Destination, save func() error) error
	Test(ctx context.Context, d *reconciler.Destination) error
	Pause(on bool) error
	RequestImport(q reconciler.ImportRequest) (id string, err error)
	AwaitOutcome(ctx context.Context) (state.ImportOutcome, bool)
	OutcomeReceived(id string) error
}

// Config is the configuration of an Agent. Fields are required unless their comments say
// otherwise.
type Config struct {
	Options config.ServerSettings
	Version string // of eds
	// Keyless means that the agent works without HQ and uses only NATS. It then starts no
	// sessions at HQ.
	Keyless    bool
	Servers    string // addresses of the NATS servers, for the log
	HQ         API
	NATS       Dialer
	Reconciler Reconciler
	// Heartbeat returns the current statistics for a heartbeat.
	Heartbeat func(ctx context.Context) hq.Heartbeat
	Lookup    sink.Lookup // looks up environment variables, for URLs of destinations
	Registry  prometheus.Registerer
	Health    *telemetry.Health
	Logger    *slog.Logger

	// Log is the log file that is sent to HQ, or nil for no log file.
	Log *telemetry.LogFile
	// Crashes are those crashes of earlier workers that were not reported to HQ yet.
	Crashes []Crash
	// FailedUpgrade is an upgrade that was rolled back and must be reported to HQ, or nil.
	FailedUpgrade *FailedUpgrade
	// Upgrade installs the given version. The parent process starts that version after Run has
	// returned ErrReplaced. Upgrade is nil if this process has no parent that can do so.
	Upgrade func(ctx context.Context, version string) error
	// SessionBegan is called with the id of each new session. It may be nil.
	SessionBegan func(id string)
}

// Agent holds sessions with HQ, one after another.
type Agent struct {
	Config
	logs     *logUploader
	crashes  *crashReporter
	commands *prometheus.CounterVec
	stop     context.CancelCauseFunc // shuts Run down cleanly
	next     *hqSession              // a session that was started to replace the current one, or nil

	mu       sync.Mutex
	serverID string // this server's id in the latest session
}

// New returns an agent. The agent talks to HQ only while Run runs.
func New(c Config) *Agent {
	a := &Agent{
		Config: c,
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "eds_control_messages_total",
			Help: "Control messages of HQ, by action and by what became of them.",
		}, []string{"action", "result"}),
	}
	c.Registry.MustRegister(a.commands)
	a.logs = newLogUploader(c.HQ, c.Log, c.Options.KeepLogs, c.Logger)
	a.crashes = &crashReporter{hq: c.HQ, pending: c.Crashes, logger: c.Logger}
	if c.Keyless {
		a.crashes.pending = nil
	}
	return a
}

// ServerID returns the id of this server at HQ, or "" before the first session.
func (a *Agent) ServerID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.serverID
}

func (a *Agent) setServerID(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serverID = id
}

// Reasons for the end of a session that are not failures.
var (
	errRenew    = errors.New("the session is due to be renewed")
	errRestart  = errors.New("hq asked for a restart")
	errShutdown = errors.New("hq asked for a shutdown")
)

// ErrReplaced means that another version of eds has been installed and must be started now.
var ErrReplaced = errors.New("another version of eds takes this one's place")

// writerWait is the time to wait before the next session if another server writes to the
// destination.
const writerWait = 30 * time.Second

// Run holds sessions until the context soft is done. It then applies the received changes, ends the
// session, and returns nil. If the context hard is done, Run stops at once. Nothing is lost then,
// because NATS redelivers unacknowledged messages. After an upgrade Run returns ErrReplaced. Any
// other error requires an action by the operator.
func (a *Agent) Run(soft, hard context.Context) error {
	soft, a.stop = context.WithCancelCause(soft)
	defer a.stop(nil)
	defer context.AfterFunc(soft, a.Health.ShutDown)()
	defer a.dismissNext()

	var backoff retry.Backoff
	for {
		began := time.Now()
		err := a.holdSession(soft, hard)
		switch {
		case errors.Is(context.Cause(soft), ErrReplaced):
			return ErrReplaced
		case soft.Err() != nil:
			return a.stopped(soft, err)
		case errors.Is(err, errRenew), errors.Is(err, errRestart):
			backoff.Reset()
			continue
		case errors.As(err, new(*continuity.GapError)):
			return err
		case errors.As(err, new(*sink.WriterError)):
			// The other server keeps running. This server waits, without a session, until the
			// other one ends.
			a.Logger.Error("this server waits for the other one to end", "error", err, "wait", writerWait)
			_ = retry.Sleep(soft, writerWait)
			continue
		case errors.Is(err, jetstream.ErrClosed):
			// NATS no longer accepts the credential; a new session brings a new one.
		case err == nil || fault.Of(err) != fault.Transient:
			return err
		}
		if time.Since(began) > time.Minute {
			backoff.Reset()
		}
		wait := backoff.Next(err)
		a.Health.Set("session", err)
		a.Logger.Warn("the session ended; beginning another", "error", err, "wait", wait.Round(time.Millisecond))
		_ = retry.Sleep(soft, wait)
	}
}

// stopped returns the error that Run returns once the context soft has ended, given the error of the
// last session.
func (a *Agent) stopped(soft context.Context, err error) error {
	failed := failure(soft, err)
	if failed == nil && !endsInOrder(soft, err) {
		a.Logger.Warn("the last session did not end cleanly; nothing is lost", "error", err)
	}
	return failed
}

// endsInOrder reports whether err means that a session has ended cleanly.
func endsInOrder(soft context.Context, err error) bool {
	return err == nil || errors.Is(err, errRenew) || errors.Is(err, errRestart) ||
		soft.Err() != nil && (errors.Is(err, context.Cause(soft)) || errors.Is(err, context.Canceled))
}

// failure returns err if it means that a session has failed, and nil otherwise. After soft is done,
// only errors that require an action by the operator count as failures, because a running server
// would retry after all other errors.
func failure(soft context.Context, err error) error {
	switch {
	case endsInOrder(soft, err):
		return nil
	case soft.Err() == nil, errors.Is(err, pipeline.ErrAbandoned):
		return err
	case fault.Of(err) != fault.Transient && !errors.Is(err, jetstream.ErrClosed):
		return err
	}
	return nil
}
