// Package devhq is an HQ for development: it implements the vendor's side of the protocol on one
// machine. It embeds a NATS server with JetStream and the same permissions as the real HQ, and
// serves the HTTP API. Its data comes from a simulated shop.
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

// Options configures an HQ. Only DataDir is required.
type Options struct {
	// DataDir is the directory that stores everything: the stream, the shop, keys, sessions,
	// exports and logs. An HQ that starts with the directory of an earlier HQ continues the work of
	// that HQ. If the earlier HQ was killed, the shop starts from its last snapshot. In that case
	// the stream is recreated and exports are deleted, because they may contain changes that the
	// shop has lost.
	DataDir string
	// HTTPAddr and NATSAddr are the host:port addresses to listen on. Port 0 means any free port,
	// and "" means 127.0.0.1:0.
	HTTPAddr, NATSAddr string

	Rate        float64       // changes per second; 0 means none
	Seed        uint64        // seed of a new shop
	Customers   int           // number of customers of a new shop; 0 means 500
	EvolveEvery time.Duration // time between schema changes; 0 means that the schema never changes
	// ClockOffset is how far the clock of the shop's database is ahead of the clock of NATS.
	ClockOffset time.Duration

	// Open lets clients without a credential read every company. The protocol allows this on
	// localhost.
	Open bool
	// SessionGrace is how long a session counts as alive while it has no connection to NATS. 0
	// means five seconds.
	SessionGrace time.Duration
	// CredentialLife is how long the credential of a session is valid. 0 means seven days.
	CredentialLife time.Duration
	// StreamAge and StreamBytes limit the age and the total size of the messages in the stream. 0
	// means seven days and 32 GiB.
	StreamAge   time.Duration
	StreamBytes int64
	// FileRows and FileBytes limit one file of an export, in rows and in bytes before compression.
	// 0 means 20,000 rows and 16 MiB.
	FileRows, FileBytes int

	Logger *slog.Logger // nil means no logging
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

// replyTimeout is the time limit for replies that arrive either quickly or never.
const replyTimeout = 10 * time.Second

// HQ is a running HQ. All of its methods are safe for concurrent use.
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
	exports   *exportRunner
	apiURL    string
	web       *http.Server

	chooseFault atomic.Pointer[func(*http.Request) Fault]
	starting    sync.Mutex // held while a session is being started

	work    *errgroup.Group // goroutines that serve the API, and run the workload and the exports
	stop    context.CancelFunc
	failed  <-chan struct{}
	sending sync.WaitGroup     // goroutine of the publisher
	abort   context.CancelFunc // stops the publisher and its callers

	closing  sync.Once
	closeErr error
}

// Start starts an HQ. It returns when the stream exists, the API answers and the shop is working.
// The context limits only the start: if it ends later, the HQ keeps running.
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
	h.exports, err = newExportRunner(h.store, h.shop, filepath.Join(o.DataDir, "exports"), fileLimits{o.FileRows, o.FileBytes}, time.Now())
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

// startBroker starts the NATS server and opens HQ's own connection to it.
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

// run starts the goroutines of HQ.
func (h *HQ) run(ctx context.Context, listener net.Listener) {
	host, _, _ := net.SplitHostPort(h.options.HTTPAddr) // the address is valid, because a listener uses it
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

// Done returns a channel that is closed when HQ fails or is closed. Close returns the reason.
func (h *HQ) Done() <-chan struct{} { return h.failed }

// Close finishes the work in progress, saves everything and stops HQ. If HQ has failed, Close
// returns the reason.
func (h *HQ) Close() error {
	h.closing.Do(func() { h.closeErr = h.close() })
	return h.closeErr
}

func (h *HQ) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	if err := h.web.Shutdown(ctx); err != nil { // a client keeps its connection open
		_ = h.web.Close()
	}
	// Start NATS in case it was stopped, because the stream must get all pending changes.
	err := h.broker.start()
	h.stop()
	giveUp := time.AfterFunc(replyTimeout, h.abort)
	err = errors.Join(err, h.work.Wait())
	giveUp.Stop()
	h.abort()
	h.sending.Wait()
	return errors.Join(err, h.release())
}

// release closes everything that Start has opened so far.
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

// Shop returns the shop, for reading its rows. Only HQ may call the methods that change the shop.
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
