// Package devhq is an HQ for development: the other side of the protocol, on one machine. It embeds
// a NATS server with JetStream and the permissions of the real HQ, serves the HTTP API, and gets its
// data from a simulated shop.
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

// Options configure an HQ. Only DataDir is required.
type Options struct {
	// DataDir keeps everything: the stream, the shop, keys, sessions, exports, logs. An HQ that
	// starts with the directory of an earlier one continues it. If that one was killed, the shop
	// is as in its last snapshot. Then the stream begins again and exports are deleted, because
	// both may hold changes that the shop has lost.
	DataDir string
	// HTTPAddr and NATSAddr are host:port to listen on. Port 0 means any free one, "" means
	// 127.0.0.1:0.
	HTTPAddr, NATSAddr string

	Rate        float64       // changes per second; 0 means none
	Seed        uint64        // of a new shop
	Customers   int           // of a new shop; 0 means 500
	EvolveEvery time.Duration // time between changes of the schema; 0 means that it never changes
	// ClockOffset is the time by which the clock of the shop's database is ahead of NATS.
	ClockOffset time.Duration

	// Open lets clients without a credential read every company, as the protocol allows on
	// localhost.
	Open bool
	// SessionGrace is the time that a session without a connection to NATS counts as live; 0
	// means five seconds.
	SessionGrace time.Duration
	// CredentialLife is the time until the credential of a session expires; 0 means seven days.
	CredentialLife time.Duration
	// StreamAge and StreamBytes bound the messages in the stream; 0 means seven days and 32 GiB.
	StreamAge   time.Duration
	StreamBytes int64
	// FileRows and FileBytes, before compression, bound a file of an export; 0 means 20,000 and
	// 16 MiB.
	FileRows, FileBytes int

	Logger *slog.Logger // nil means no log
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

// replyTimeout bounds waits for replies that arrive at once or never.
const replyTimeout = 10 * time.Second

// HQ is a running HQ. Its methods are safe for concurrent use.
type HQ struct {
	options   Options
	logger    *slog.Logger
	store     *store
	authority *authority
	keys      *keyring
	broker    *broker
	admin     *nats.Conn
	received  *receivedLog
	shop      *shop.Shop
	publisher *publisher
	workload  *workload
	exports   *exporter
	apiURL    string
	web       *http.Server

	chooseFault atomic.Pointer[func(*http.Request) Fault]
	starting    sync.Mutex // held while a session starts

	work    *errgroup.Group // serves the API, runs the workload and exports
	stop    context.CancelFunc
	failed  <-chan struct{}
	sending sync.WaitGroup     // the publisher
	abort   context.CancelFunc // stops the publisher and its callers

	closing  sync.Once
	closeErr error
}

// Start starts an HQ and returns when it is ready: the stream exists, the API answers, the shop
// works. The context bounds only the start.
func Start(ctx context.Context, o Options) (_ *HQ, err error) {
	o = o.withDefaults()
	h := &HQ{options: o, logger: o.Logger, received: newReceivedLog()}
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
	h.workload = newWorkload(h.shop, h.publisher, o.Rate)
	h.exports, err = newExporter(h.store, h.shop, filepath.Join(o.DataDir, "exports"), fileLimits{o.FileRows, o.FileBytes}, time.Now())
	if err != nil {
		return nil, fmt.Errorf("load the export jobs: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", o.HTTPAddr, err)
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
	if err := h.received.subscribe(h.admin); err != nil {
		return err
	}
	h.publisher = newPublisher(func() (*nats.Conn, error) {
		return h.broker.connect(admin, "hq publisher", nats.NoReconnect())
	}, h.logger)
	return nil
}

// run starts the goroutines.
func (h *HQ) run(ctx context.Context, listener net.Listener) {
	host, _, _ := net.SplitHostPort(h.options.HTTPAddr) // valid: the listener has it
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
	h.work.Go(func() error { return h.workload.run(working, hard) })
	h.work.Go(func() error { return h.exports.run(working) })
	if h.options.EvolveEvery > 0 {
		h.work.Go(func() error { return h.workload.evolveEvery(working, hard, h.options.EvolveEvery, h.logger) })
	}
}

// Done is closed when HQ fails or is closed. Close returns the reason.
func (h *HQ) Done() <-chan struct{} { return h.failed }

// Close finishes the work in progress, saves everything and stops HQ. If HQ failed, it returns the
// error.
func (h *HQ) Close() error {
	h.closing.Do(func() { h.closeErr = h.close() })
	return h.closeErr
}

func (h *HQ) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	if err := h.web.Shutdown(ctx); err != nil { // a client keeps its connection
		_ = h.web.Close()
	}
	// The stream must get the pending changes, also if NATS was stopped.
	err := h.broker.start()
	h.stop()
	giveUp := time.AfterFunc(replyTimeout, h.abort)
	err = errors.Join(err, h.work.Wait())
	giveUp.Stop()
	h.abort()
	h.sending.Wait()
	return errors.Join(err, h.release())
}

// release closes everything that Start opened.
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

// Shop returns the shop for reading its rows. Only HQ makes it work.
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
		port = -1 // the NATS server's value for any free port
	}
	return host, port, nil
}
