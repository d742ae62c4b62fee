package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recording is what the fakes were asked for, in order.
type recording struct {
	mu     sync.Mutex
	events []string
}

func (r *recording) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

// take returns the events since the last call.
func (r *recording) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *recording) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Error(diff)
	}
}

// fakeHQ starts the sessions s1, s2 and so on.
type fakeHQ struct {
	*recording
	sessions   int
	credential hq.Credential
	conflicts  int // of AwaitSession
	startErr   func(session int) error
	endErr     func(session string) error
	uploadErr  error
}

func (h *fakeHQ) AwaitSession(_ context.Context, _ hq.SessionStart, waits func(error, time.Duration)) (hq.Session, error) {
	for ; h.conflicts > 0; h.conflicts-- {
		waits(&hq.Error{Operation: "start a session", Status: http.StatusConflict}, time.Second)
	}
	h.sessions++
	if h.startErr != nil {
		if err := h.startErr(h.sessions); err != nil {
			waits(err, time.Second)
			return hq.Session{}, err
		}
	}
	h.add("start s%d", h.sessions)
	return hq.Session{ID: fmt.Sprintf("s%d", h.sessions), Credential: h.credential}, nil
}

func (h *fakeHQ) EndSession(_ context.Context, session string, errored bool) (hq.SessionEnd, error) {
	h.add("end %s, errored: %v", session, errored)
	if h.endErr != nil {
		if err := h.endErr(session); err != nil {
			return hq.SessionEnd{}, err
		}
	}
	return hq.SessionEnd{URL: "last/" + session, ErrorURL: "crash/" + session}, nil
}

func (h *fakeHQ) AwaitSessionEnd(_ context.Context, session string) error {
	h.add("end %s to renew it", session)
	return nil
}

func (h *fakeHQ) LogURL(_ context.Context, session string) (string, error) {
	return "log/" + session, nil
}

func (h *fakeHQ) Upload(_ context.Context, url string, file io.ReadSeeker) (string, error) {
	if _, err := io.ReadAll(file); err != nil {
		return "", err
	}
	h.add("upload %s", url)
	return "/" + url, h.uploadErr
}

// fakeNATS makes connections that stay.
type fakeNATS struct {
	*recording
	refuse error
	latest *fakeConnection
	ready  chan *fakeConnection
}

func (n *fakeNATS) Connect(context.Context, hq.Credential, string) (Connection, error) {
	if n.refuse != nil {
		return nil, n.refuse
	}
	c := &fakeConnection{recording: n.recording, commands: make(chan hq.Command), failed: make(chan error, 2), denied: make(chan error, 1)}
	n.latest = c
	n.ready <- c
	return c, nil
}

// fakeConnection is a connection with its control channel.
type fakeConnection struct {
	*recording
	commands   chan hq.Command
	failed     chan error // errors of Next
	denied     chan error
	session    string
	lost       atomic.Bool // it reconnects
	broken     atomic.Bool // it cannot send
	heartbeats atomic.Int64
	replies    []any
}

func (c *fakeConnection) NATS() *nats.Conn     { return nil }
func (c *fakeConnection) Denied() <-chan error { return c.denied }
func (c *fakeConnection) IsConnected() bool    { return !c.lost.Load() }
func (c *fakeConnection) IsClosed() bool       { return false }
func (c *fakeConnection) Close()               { c.add("%s: disconnect", c.session) }

func (c *fakeConnection) OpenControlChannel(session string) (ControlChannel, error) {
	c.session = session
	return fakeChannel{c}, nil
}

var errSend = errors.New("connection closed")

func (c *fakeConnection) sendErr() error {
	if c.broken.Load() {
		return errSend
	}
	return nil
}

type fakeChannel struct{ *fakeConnection }

func (c fakeChannel) Next(ctx context.Context) (hq.Command, error) {
	select {
	case cmd := <-c.commands:
		return cmd, nil
	case err := <-c.failed:
		return hq.Command{}, err
	case <-ctx.Done():
		return hq.Command{}, ctx.Err()
	}
}

func (c fakeChannel) Acknowledge(action, _ string) error {
	c.add("%s: acknowledge %s", c.session, action)
	return c.sendErr()
}

func (c fakeChannel) Respond(action string, body any) error {
	c.add("%s: respond %s %v", c.session, action, body)
	return c.sendErr()
}

func (c fakeChannel) Reply(cmd hq.Command, body any) error {
	c.mu.Lock()
	c.replies = append(c.replies, body)
	c.mu.Unlock()
	c.add("%s: reply %s", c.session, cmd.Action)
	return c.sendErr()
}

func (c fakeChannel) Pong(subject string) error {
	c.add("%s: pong %s", c.session, subject)
	return nil
}

func (c fakeChannel) SendHeartbeat(h hq.Heartbeat) error {
	if h.Uptime == 7 {
		c.heartbeats.Add(1)
	}
	return c.sendErr()
}

func (c fakeChannel) Flush(context.Context) error { return nil }

func (c fakeChannel) Close() error {
	c.add("%s: close the channel", c.session)
	return nil
}

// fakeReconciler follows the stream until it is due to end, unless run replaces that.
type fakeReconciler struct {
	*recording
	run         func(due, hard context.Context) (gap, err error)
	destination *reconciler.Destination
	failed      error // of all methods
	outcomes    chan state.ImportOutcome
}

func (r *fakeReconciler) Run(due, hard context.Context, s reconciler.StreamAccess) (gap, err error) {
	r.add("follow %s %v", s.Consumer, s.Filters)
	if r.run != nil {
		return r.run(due, hard)
	}
	<-due.Done()
	return nil, context.Cause(due)
}

func (r *fakeReconciler) Destination() *reconciler.Destination { return r.destination }

func (r *fakeReconciler) SetDestination(d *reconciler.Destination, save func() error) error {
	r.add("set the destination %s", d.Driver.Name)
	return errors.Join(r.failed, save())
}

func (r *fakeReconciler) Test(context.Context, *reconciler.Destination) error { return r.failed }

func (r *fakeReconciler) Pause(on bool) error {
	r.add("pause %v", on)
	return r.failed
}

func (r *fakeReconciler) RequestImport(q reconciler.ImportRequest) (string, error) {
	r.add("import, schema only: %v", q.Options.SchemaOnly)
	return "", r.failed
}

func (r *fakeReconciler) AwaitOutcome(ctx context.Context) (state.ImportOutcome, bool) {
	select {
	case o := <-r.outcomes:
		return o, true
	case <-ctx.Done():
		return state.ImportOutcome{}, false
	}
}

func (r *fakeReconciler) OutcomeReceived(id string) error {
	r.add("received the outcome of %s", id)
	return nil
}

// bench is an agent with fakes around it.
type bench struct {
	*recording
	t          *testing.T
	config     Config
	hq         *fakeHQ
	nats       *fakeNATS
	reconciler *fakeReconciler
	log        *messages
	agent      *Agent
	conn       *fakeConnection // of the first session
	stop       context.CancelFunc
	hardStop   context.CancelFunc
	ended      chan error
}

func newBench(t *testing.T) *bench {
	t.Helper()
	r := new(recording)
	b := &bench{
		recording: r, t: t, hq: &fakeHQ{recording: r, credential: hq.Anonymous()},
		nats: &fakeNATS{recording: r, ready: make(chan *fakeConnection, 100)}, log: new(messages),
		reconciler: &fakeReconciler{recording: r, outcomes: make(chan state.ImportOutcome, 10)},
	}
	b.config = Config{
		Options: config.ServerSettings{Common: config.Common{DataDir: t.TempDir()}, RenewInterval: 24 * time.Hour},
		Version: "1.2.3", HQ: b.hq, NATS: b.nats, Reconciler: b.reconciler,
		Heartbeat: func(context.Context) hq.Heartbeat { return hq.Heartbeat{Uptime: 7} },
		Lookup:    func(string) (string, bool) { return "", false },
		Registry:  prometheus.NewRegistry(), Health: telemetry.NewHealth(), Logger: slog.New(b.log),
	}
	return b
}

// run runs the agent until the test ends or stop is called.
func (b *bench) run() {
	soft, stop := context.WithCancel(b.t.Context())
	hard, hardStop := context.WithCancel(context.WithoutCancel(b.t.Context()))
	b.stop, b.hardStop, b.ended = stop, hardStop, make(chan error, 1)
	b.agent = New(b.config)
	go func() {
		b.ended <- b.agent.Run(soft, hard)
		hardStop()
	}()
	synctest.Wait()
	select {
	case b.conn = <-b.nats.ready:
	default:
	}
}

// begin runs the agent and forgets the events of its start.
func (b *bench) begin() {
	b.run()
	b.take()
}

// end stops the agent and expects the given result.
func (b *bench) end(want error) {
	b.t.Helper()
	b.stop()
	b.expectEnd(want)
}

// expectEnd waits for the end of the agent.
func (b *bench) expectEnd(want error) {
	b.t.Helper()
	defer b.stop()
	select {
	case err := <-b.ended:
		if !errors.Is(err, want) {
			b.t.Errorf("the agent ended with %v, want %v", err, want)
		}
	case <-time.After(10 * time.Minute):
		b.t.Error("the agent does not end")
		b.stop()
		b.hardStop()
		<-b.ended
	}
}

// send has HQ send a command.
func (b *bench) send(action, data string) {
	b.conn.commands <- hq.Command{Action: action, Data: []byte(data)}
	synctest.Wait()
}

func (b *bench) file() string { return filepath.Join(b.config.Options.DataDir, config.FileName) }

// messages is the handler of a log that keeps the messages.
type messages struct {
	mu  sync.Mutex
	all []string
}

func (m *messages) Enabled(context.Context, slog.Level) bool { return true }
func (m *messages) WithAttrs([]slog.Attr) slog.Handler       { return m }
func (m *messages) WithGroup(string) slog.Handler            { return m }

func (m *messages) Handle(_ context.Context, r slog.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, r.Message)
	return nil
}

func (m *messages) has(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.all, func(message string) bool { return strings.Contains(message, text) })
}
