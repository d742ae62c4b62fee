package devhq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName = "dbchange"
	// maxPayload is the maximum size of a message in bytes. NATS servers do not support more.
	maxPayload = 64 << 20
	// startTimeout is the time limit for starting the NATS server, which reads its store at the
	// start.
	startTimeout = time.Minute
)

// errBrokerDown means that the NATS server is stopped.
var errBrokerDown = errors.New("the NATS server is stopped")

// broker is the embedded NATS server. After a stop, it can be started again with the same port and
// store.
type broker struct {
	dir       string // directory of the store
	authority *authority
	dev       string // JWT for clients without a credential, or "" if they may not connect
	logger    *slog.Logger

	mu      sync.Mutex
	host    string // host to listen on
	port    int    // port to listen on; -1 means any free port, which the first start replaces by the actual port
	srv     *server.Server
	started time.Time
	seen    map[string]time.Time // result of the latest lastSeen, by the public key of the user
}

// start starts the server and waits until it is ready. If the server is already running, start
// does nothing.
func (b *broker) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.srv != nil {
		return nil
	}
	resolver := &server.MemAccResolver{}
	if err := errors.Join(
		resolver.Store(b.authority.accountKey, b.authority.accountJWT),
		resolver.Store(b.authority.systemKey, b.authority.systemJWT),
	); err != nil {
		return fmt.Errorf("store the accounts: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "devhq", Host: b.host, Port: b.port,
		TrustedOperators: []*jwt.OperatorClaims{b.authority.operatorClaims},
		SystemAccount:    b.authority.systemKey, AccountResolver: resolver, DefaultSentinel: b.dev,
		JetStream: true, StoreDir: b.dir, JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 50,
		DisableJetStreamBanner: true, MaxPayload: maxPayload, MaxPending: 4 * maxPayload,
		NoSigs: true, NoLog: true,
	})
	if err != nil {
		return fmt.Errorf("configure the NATS server: %w", err)
	}
	log := &natsLogger{logger: b.logger, fatal: make(chan string, 1)}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()
	if err := log.wait(srv); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return fmt.Errorf("start the NATS server at %s: %w", net.JoinHostPort(b.host, strconv.Itoa(max(b.port, 0))), err)
	}
	b.seen = make(map[string]time.Time)
	b.srv, b.started, b.port = srv, time.Now(), srv.Addr().(*net.TCPAddr).Port
	return nil
}

// stop stops the server and waits until the server has closed its store.
func (b *broker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.srv == nil {
		return
	}
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
	b.srv = nil
}

func (b *broker) url() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "nats://" + net.JoinHostPort(dialHost(b.host), strconv.Itoa(b.port))
}

// lastSeen returns the last time at which the user was connected. For a user who is connected now,
// it returns the current time. For a user who has not been connected since the server started, it
// returns the zero time.
func (b *broker) lastSeen(publicKey string) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.srv == nil {
		return time.Time{}, errBrokerDown
	}
	conns, err := b.srv.Connz(&server.ConnzOptions{State: server.ConnAll, Username: true, User: publicKey, Limit: 1 << 16})
	if err != nil {
		return time.Time{}, fmt.Errorf("list connections: %w", err)
	}
	last := b.seen[publicKey]
	for _, c := range conns.Conns {
		stop := time.Now()
		if c.Stop != nil {
			stop = *c.Stop
		}
		if stop.After(last) {
			last = stop
		}
	}
	if !last.IsZero() {
		b.seen[publicKey] = last
	}
	return last, nil
}

// upSince returns the time at which the server last started.
func (b *broker) upSince() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.started
}

// connect opens a connection as the user u. The name identifies the connection in logs.
func (b *broker) connect(u user, name string, options ...nats.Option) (*nats.Conn, error) {
	conn, err := nats.Connect(b.url(), append([]nats.Option{
		nats.Name(name), nats.UserJWTAndSeed(u.jwt, string(u.seed)),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.logger.Warn("HQ's connection to NATS", "name", name, "error", err)
		}),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", b.url(), err)
	}
	return conn, nil
}

// historyKey is the key of the stream metadata that contains the id of a shop's history; see
// shop.Shop.History. All changes in the stream belong to that history.
const historyKey = "history"

// ensureStream creates the stream, or updates its limits if it exists. If the stream holds changes
// of another history, ensureStream deletes and recreates the stream.
func ensureStream(ctx context.Context, conn *nats.Conn, o Options, history string) error {
	js, err := openJetStream(conn)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, streamName)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return fmt.Errorf("look up the stream %s: %w", streamName, err)
	case stream.CachedInfo().Config.Metadata[historyKey] != history:
		o.Logger.Warn("the shop lost changes, so the stream begins again")
		if err := js.DeleteStream(ctx, streamName); err != nil {
			return fmt.Errorf("delete the stream %s: %w", streamName, err)
		}
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{streamName + ".>"}, Storage: jetstream.FileStorage,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxAge: o.StreamAge, MaxBytes: o.StreamBytes, MaxMsgs: -1, MaxMsgSize: -1, MaxConsumers: -1, Replicas: 1,
		Duplicates: min(dedupWindow, o.StreamAge), Metadata: map[string]string{historyKey: history},
	})
	if err != nil {
		return fmt.Errorf("create the stream %s: %w", streamName, err)
	}
	return nil
}

// streamTimeout is the time limit for one JetStream call. It is long because tests keep machines
// busy.
const streamTimeout = time.Minute

func openJetStream(conn *nats.Conn) (jetstream.JetStream, error) {
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(streamTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return js, nil
}

// dialHost returns the host name under which this machine can reach a listener bound to host.
func dialHost(host string) string {
	switch host {
	case "", "0.0.0.0", "::":
		return "localhost"
	}
	return host
}

// natsLogger forwards the NATS server's log to logger.
type natsLogger struct {
	logger *slog.Logger
	fatal  chan string // receives the reason if the server fails fatally
}

// wait waits until the server is ready. It returns an error if the server fails to start.
func (l *natsLogger) wait(srv *server.Server) error {
	const slice = 100 * time.Millisecond
	for waited := time.Duration(0); waited < startTimeout; waited += slice {
		if srv.ReadyForConnections(slice) {
			return nil
		}
		select {
		case reason := <-l.fatal:
			return errors.New(reason)
		default:
		}
	}
	return fmt.Errorf("not ready after %s", startTimeout)
}

func (l *natsLogger) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }
func (l *natsLogger) Warnf(format string, v ...any)   { l.log(slog.LevelWarn, format, v) }
func (l *natsLogger) Errorf(format string, v ...any)  { l.log(slog.LevelError, format, v) }
func (l *natsLogger) Debugf(string, ...any)           {}
func (l *natsLogger) Tracef(string, ...any)           {}

func (l *natsLogger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}

func (l *natsLogger) log(level slog.Level, format string, v []any) {
	l.logger.Log(context.Background(), level, strings.TrimSpace(fmt.Sprintf(format, v...)), "component", "nats")
}
