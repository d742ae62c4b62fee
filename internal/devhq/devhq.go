// Package devhq is an HQ of one's own: the other side of the protocol, on one
// machine. It embeds a NATS server with JetStream and the permissions of the
// real one, serves the HTTP API, and gets its data from a simulated shop.
package devhq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

// Options say how an HQ runs. The zero value of a field means what its comment
// says; only DataDir must be there.
type Options struct {
	// DataDir keeps everything: the stream, the shop, keys, sessions, exports, logs. An HQ that
	// starts with the directory of an earlier one continues it. If that one was killed, the shop
	// is as in its last snapshot. Then the stream begins again and exports are deleted, because
	// both may hold changes that the shop has lost.
	DataDir string
	// HTTPAddr and NATSAddr are host:port to listen at; port 0 is any free one.
	// "" is 127.0.0.1:0.
	HTTPAddr, NATSAddr string

	Rate        float64       // changes a second; 0 is none
	Seed        uint64        // of the shop, when it is made
	Customers   int           // of the shop, when it is made; 0 is 500
	EvolveEvery time.Duration // how often the schema changes; 0 is never
	// ClockOffset is how far the clock of the shop's database is ahead of NATS.
	ClockOffset time.Duration

	// Open lets clients without a credential read every company, as the
	// protocol allows a server on localhost to do.
	Open bool
	// SessionGrace is how long a session counts as live without a connection to
	// NATS; 0 is five seconds.
	SessionGrace time.Duration
	// CredentialLife is how long the credential of a session works; 0 is seven days.
	CredentialLife time.Duration
	// StreamAge and StreamBytes bound what the stream keeps; 0 is seven days and
	// 32 GiB.
	StreamAge   time.Duration
	StreamBytes int64
	// FileRows and FileBytes, before compression, bound a file of an export; 0
	// is 20,000 and 16 MiB.
	FileRows, FileBytes int

	Logger *slog.Logger // nil discards
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&o.SessionGrace, 5*time.Second)
	set(&o.CredentialLife, 7*24*time.Hour)
	set(&o.StreamAge, 7*24*time.Hour)
	if o.StreamBytes == 0 {
		o.StreamBytes = 32 << 30
	}
	if o.FileRows == 0 {
		o.FileRows = 20_000
	}
	if o.FileBytes == 0 {
		o.FileBytes = 16 << 20
	}
	if o.HTTPAddr == "" {
		o.HTTPAddr = "127.0.0.1:0"
	}
	if o.NATSAddr == "" {
		o.NATSAddr = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// answerTimeout bounds what waits for an answer that comes at once, or never.
const answerTimeout = 10 * time.Second

// HQ is a running HQ. Its methods are safe for concurrent use.
type HQ struct {
	options   Options
	logger    *slog.Logger
	store     *store
	authority *authority
	keys      *keyring
	broker    *broker
	admin     *nats.Conn
	hearing   *hearing
	shop      *shop.Shop
	publisher *publisher
	worker    *worker
	exports   *exporter
	apiURL    string
	web       *http.Server

	disturb  atomic.Pointer[func(*http.Request) Fault]
	starting sync.Mutex // held while a session starts

	work    *errgroup.Group // serves, works and exports
	stop    context.CancelFunc
	failed  <-chan struct{}
	sending sync.WaitGroup     // the publisher
	abort   context.CancelFunc // ends it, and whatever waits for it

	closing  sync.Once
	closeErr error
}

// Start starts an HQ. When it returns, everything is there: the stream, the
// API, the shop at work. The context bounds the start alone.
func Start(ctx context.Context, o Options) (_ *HQ, err error) {
	o = o.withDefaults()
	h := &HQ{options: o, logger: o.Logger, hearing: newHearing()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.release())
		}
	}()
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	if h.store, err = openStore(o.DataDir); err != nil {
		return nil, err
	}
	if h.authority, err = loadAuthority(h.store); err != nil {
		return nil, err
	}
	if h.keys, err = loadKeyring(h.store); err != nil {
		return nil, err
	}
	if err := h.startBroker(ctx); err != nil {
		return nil, err
	}
	if h.shop, err = shop.Open(filepath.Join(o.DataDir, "shop"), shop.Options{
		Seed: o.Seed, Customers: o.Customers, Now: func() time.Time { return time.Now().Add(o.ClockOffset) },
	}); err != nil {
		return nil, err
	}
	if err := ensureStream(ctx, h.admin, o, h.shop.History()); err != nil {
		return nil, err
	}
	h.worker = newWorker(h.shop, h.publisher, o.Rate)
	h.exports, err = newExporter(h.store, h.shop, filepath.Join(o.DataDir, "exports"), fileLimits{o.FileRows, o.FileBytes}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("load the export jobs: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", o.HTTPAddr, err)
	}
	h.run(context.WithoutCancel(ctx), listener)
	return h, nil
}

// startBroker starts the NATS server and connects to it.
func (h *HQ) startBroker(ctx context.Context) error {
	host, port, err := splitAddr(h.options.NATSAddr)
	if err != nil {
		return err
	}
	dev := user{}
	if h.options.Open {
		if dev, err = h.authority.devUser(); err != nil {
			return err
		}
	}
	h.broker = &broker{
		dir: filepath.Join(h.options.DataDir, "nats"), authority: h.authority, dev: dev.jwt, logger: h.logger, host: host, port: port,
	}
	if err := h.broker.start(); err != nil {
		return err
	}
	admin, err := h.authority.adminUser()
	if err != nil {
		return err
	}
	h.admin, err = h.broker.connect(admin, "hq", nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return err
	}
	if err := h.hearing.listen(h.admin); err != nil {
		return err
	}
	h.publisher = newPublisher(func() (*nats.Conn, error) {
		return h.broker.connect(admin, "hq publisher", nats.NoReconnect())
	}, h.logger)
	return nil
}

// run starts everything that goes on by itself.
func (h *HQ) run(ctx context.Context, listener net.Listener) {
	host, _, _ := net.SplitHostPort(h.options.HTTPAddr) // it has been listened at
	port := listener.Addr().(*net.TCPAddr).Port
	h.apiURL = "http://" + net.JoinHostPort(dialHost(host), strconv.Itoa(port))
	h.web = &http.Server{
		Handler: h.handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(h.logger.Handler(), slog.LevelDebug),
	}

	hard, abort := context.WithCancel(ctx)
	h.abort = abort
	h.sending.Go(func() { h.publisher.run(hard) })

	working, stop := context.WithCancel(ctx)
	h.stop = stop
	h.work, working = errgroup.WithContext(working)
	h.failed = working.Done()
	h.work.Go(func() error {
		if err := h.web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the API: %w", err)
		}
		return nil
	})
	h.work.Go(func() error { return h.worker.run(working, hard) })
	h.work.Go(func() error { return h.exports.run(working) })
	if h.options.EvolveEvery > 0 {
		h.work.Go(func() error { return h.worker.evolveEvery(working, hard, h.options.EvolveEvery, h.logger) })
	}
}

// Done is closed when HQ has failed, and when it is closed. Close says why.
func (h *HQ) Done() <-chan struct{} { return h.failed }

// Close stops HQ: whatever it has begun is finished and on disk. It returns why
// HQ failed, where it did.
func (h *HQ) Close() error {
	h.closing.Do(func() { h.closeErr = h.close() })
	return h.closeErr
}

func (h *HQ) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	if err := h.web.Shutdown(ctx); err != nil { // a client that does not let go
		_ = h.web.Close()
	}
	// What the shop has done belongs into the stream, also where that was stopped.
	err := h.broker.start()
	h.stop()
	giveUp := time.AfterFunc(answerTimeout, h.abort)
	err = errors.Join(err, h.work.Wait())
	giveUp.Stop()
	h.abort()
	h.sending.Wait()
	return errors.Join(err, h.release())
}

// release closes what was opened, in the opposite order.
func (h *HQ) release() error {
	var errs []error
	if h.shop != nil {
		errs = append(errs, h.shop.Close())
	}
	if h.admin != nil {
		h.admin.Close()
	}
	if h.broker != nil {
		h.broker.stop()
	}
	if h.store != nil {
		errs = append(errs, h.store.close())
	}
	return errors.Join(errs...)
}

// Shop returns the shop, to be asked for its rows. HQ alone puts it to work.
func (h *HQ) Shop() *shop.Shop { return h.shop }

// APIURL returns the URL of the HTTP API.
func (h *HQ) APIURL() string { return h.apiURL }

// NATSURL returns the URL of the NATS server.
func (h *HQ) NATSURL() string { return h.broker.url() }

func splitAddr(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, fmt.Errorf("address %q is not host:port: %w", addr, err)
	}
	if port == 0 {
		port = -1 // which is how the NATS server spells any free port
	}
	return host, port, nil
}
