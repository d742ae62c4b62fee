package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testBroker is a nats-server with JetStream on disk. It can be stopped and then started again on
// the same port. Its user has the same permissions as the users that HQ creates.
type testBroker struct {
	tb      testing.TB
	options server.Options
	mu      sync.Mutex
	server  *server.Server
	admin   *nats.Conn
}

// narrow holds the permissions that HQ gives to the user of a server.
var narrow = &server.Permissions{
	Publish: &server.SubjectPermission{Allow: []string{
		"$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.>", "$JS.API.CONSUMER.MSG.NEXT.dbchange.>", "$JS.ACK.dbchange.>",
		"eds.client.session.>", "_INBOX.>",
	}},
	Subscribe: &server.SubjectPermission{Allow: []string{"dbchange.*.*.c1.*.PUBLIC.>", "eds.notify.session.>", "_INBOX.>"}},
}

func newTestBroker(tb testing.TB) *testBroker {
	tb.Helper()
	b := &testBroker{tb: tb, options: server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: tb.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "admin", Password: "admin"}, {Username: "eds", Password: "eds", Permissions: narrow}, muteUser()},
	}}
	b.start()
	tb.Cleanup(b.stop)
	b.createStream(jetstream.StreamConfig{})
	return b
}

func (b *testBroker) start() {
	b.tb.Helper()
	o := b.options
	s, err := server.NewServer(&o)
	if err != nil {
		b.tb.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		b.tb.Fatal("the nats server does not start")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server = s
	if b.options.Port == -1 {
		b.options.Port = portOf(s)
	}
	b.admin, err = nats.Connect(s.ClientURL(), nats.UserInfo("admin", "admin"))
	if err != nil {
		b.tb.Fatal(err)
	}
}

func (b *testBroker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server == nil {
		return
	}
	b.admin.Close()
	b.server.Shutdown()
	b.server.WaitForShutdown()
	b.server = nil
}

func (b *testBroker) js() jetstream.JetStream {
	js, err := jetstream.New(b.admin)
	if err != nil {
		b.tb.Fatal(err)
	}
	return js
}

func (b *testBroker) createStream(c jetstream.StreamConfig) {
	b.tb.Helper()
	c.Name, c.Subjects = "dbchange", []string{"dbchange.>"}
	if _, err := b.js().CreateStream(b.tb.Context(), c); err != nil {
		b.tb.Fatal(err)
	}
}

func (b *testBroker) stream() jetstream.Stream {
	b.tb.Helper()
	s, err := b.js().Stream(b.tb.Context(), "dbchange")
	if err != nil {
		b.tb.Fatal(err)
	}
	return s
}

// subject returns the subject of a change that belongs to the company.
func subject(company string) string { return "dbchange.order.UPDATE." + company + ".l1.PUBLIC.x.y" }

// publish publishes n messages of the company c1.
func (b *testBroker) publish(n int) {
	b.tb.Helper()
	b.publishAs("c1", n)
}

func (b *testBroker) publishAs(company string, n int) {
	b.tb.Helper()
	js, err := jetstream.New(b.admin, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		b.tb.Fatal(err)
	}
	for range n {
		if _, err := js.PublishAsync(subject(company), []byte(`{"a":1}`), jetstream.WithStallWait(10*time.Second)); err != nil {
			b.tb.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(60 * time.Second):
		b.tb.Fatal("publishing takes too long")
	}
}

func (b *testBroker) publishMsg(m *nats.Msg) {
	b.tb.Helper()
	if _, err := b.js().PublishMsg(b.tb.Context(), m); err != nil {
		b.tb.Fatal(err)
	}
}

// connect connects with the permissions of the users that HQ creates.
func (b *testBroker) connect() *nats.Conn {
	b.tb.Helper()
	conn, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", b.options.Port), nats.UserInfo("eds", "eds"), nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				b.tb.Errorf("the source requests more than HQ permits: %v", err)
			}
		}))
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(conn.Close)
	return conn
}

func (b *testBroker) info() *jetstream.ConsumerInfo {
	b.tb.Helper()
	c, err := b.stream().Consumer(b.tb.Context(), "eds-1")
	if err != nil {
		b.tb.Fatal(err)
	}
	return c.CachedInfo()
}

// deleteConsumer deletes the consumer eds-1. It retries, because nats-server 2.11 refuses while it
// writes its files.
func (b *testBroker) deleteConsumer() {
	b.tb.Helper()
	b.deleteConsumerOf("eds-1")
}

func (b *testBroker) deleteConsumerOf(name string) {
	b.tb.Helper()
	eventually(b.tb, "the consumer is deleted", func() bool {
		err := b.stream().DeleteConsumer(b.tb.Context(), name)
		return err == nil || errors.Is(err, jetstream.ErrConsumerNotFound)
	})
}

// config returns the configuration that most tests use to open a source.
func (b *testBroker) config() Config {
	b.tb.Helper()
	return Config{
		Conn: b.connect(), Name: "eds-1", Filters: []string{"dbchange.*.*.c1.*.PUBLIC.>"},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		tuning: tuning{resetWait: b.resetWait()},
	}
}

// resets reports whether the server under test can reset consumers. The module test/nats211 runs
// the tests with a server that cannot.
func resets() bool { return !strings.HasPrefix(server.VERSION, "2.11.") }

// resetWait returns 0 for the default or, if the server does not answer resets, a short time.
func (b *testBroker) resetWait() time.Duration {
	if resets() {
		return 0
	}
	return time.Millisecond
}

// noReset returns a ResetSupport that remembers that the server of c does not answer resets.
func noReset(c Config) *ResetSupport { return NewResetSupport(serverName(c.Conn), nil) }

// open opens a source as eds server does: it observes the server, and decides by the evidence.
// Without evidence, the source starts with the first message of the stream.
func open(tb testing.TB, c Config, evidence ...continuity.Evidence) *Source {
	tb.Helper()
	s, err := tryOpen(tb, c, evidence...)
	if err != nil {
		tb.Fatal(err)
	}
	closing := sync.OnceFunc(func() { closeSource(tb, s) })
	tb.Cleanup(closing)
	return s
}

func tryOpen(tb testing.TB, c Config, evidence ...continuity.Evidence) (*Source, error) {
	tb.Helper()
	e := continuity.Evidence{Beginning: true, Now: time.Now()}
	for _, e = range evidence {
	}
	if err := Observe(tb.Context(), c, &e); err != nil {
		return nil, err
	}
	if c.Plan = continuity.Decide(e); c.Plan.Gap != nil {
		return nil, c.Plan.Gap
	}
	return Open(tb.Context(), c)
}

// recorded returns evidence that consists of a record.
func recorded(r continuity.Record) continuity.Evidence {
	return continuity.Evidence{Record: r, Beginning: true, Now: time.Now()}
}

// closeSource closes a source, unless the test has already closed it.
func closeSource(tb testing.TB, s *Source) {
	tb.Helper()
	select {
	case <-s.stopped:
		return
	default:
	}
	if err := s.Close(context.WithoutCancel(tb.Context())); err != nil {
		tb.Error(err)
	}
}

// read receives n messages and checks that their sequences ascend.
func read(tb testing.TB, s pipeline.Source, n int) []pipeline.Message {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	var out []pipeline.Message
	for len(out) < n {
		run, err := s.Receive(ctx)
		if err != nil {
			tb.Fatalf("after %d messages: %v", len(out), err)
		}
		for _, m := range run {
			if len(out) > 0 && m.Position.Sequence <= out[len(out)-1].Position.Sequence {
				tb.Fatalf("message %d came after %d", m.Position.Sequence, out[len(out)-1].Position.Sequence)
			}
			out = append(out, m)
		}
	}
	return out
}

// nothing checks that no message arrives for the given time.
func nothing(tb testing.TB, s pipeline.Source, for_ time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), for_)
	defer cancel()
	if run, err := s.Receive(ctx); err == nil {
		tb.Fatalf("message %d came", run[0].Position.Sequence)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		tb.Fatal(err)
	}
}

func acknowledge(tb testing.TB, s *Source, m pipeline.Message) {
	tb.Helper()
	if err := s.Acknowledge(tb.Context(), m.Position); err != nil {
		tb.Fatal(err)
	}
}

// sequences returns the sequences of messages.
func sequences(messages []pipeline.Message) []uint64 {
	out := make([]uint64, len(messages))
	for i, m := range messages {
		out[i] = m.Position.Sequence
	}
	return out
}

// eventually waits until condition holds.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("timed out waiting until %s", what)
		}
	}
}

// at returns the position of message n, with the current time as storage time.
func at(n uint64) cdc.Position { return cdc.Position{Sequence: n, Stored: time.Now().UnixNano()} }

func portOf(s *server.Server) int {
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// consumers returns the number of consumers of the stream.
func (b *testBroker) consumers() int {
	b.tb.Helper()
	info, err := b.stream().Info(b.tb.Context())
	if err != nil {
		b.tb.Fatal(err)
	}
	return info.State.Consumers
}
