package eventhub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// hubSession holds the connections to the namespace, one for each hub that the session has written
// to. All methods except close may be called concurrently.
type hubSession struct {
	*config
	progress atomic.Int64 // number of acknowledgements and large writes so far

	mu      sync.Mutex
	clients map[string]*azeventhubs.ProducerClient // by hub
	conns   map[net.Conn]struct{}                  // open connections
	dialErr error                                  // why the last dial failed; nil if it succeeded
	closed  bool
}

func newHubSession(c *config) *hubSession {
	return &hubSession{config: c, clients: make(map[string]*azeventhubs.ProducerClient), conns: make(map[net.Conn]struct{})}
}

// client returns the client of a hub. The first call for a hub creates the client, which connects
// when it is first used.
func (s *hubSession) client(hub string) (*azeventhubs.ProducerClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if client := s.clients[hub]; client != nil {
		return client, nil
	}
	client, err := s.newClient(hub)
	if err != nil { // the text of err may quote the connection string
		return nil, fault.Mark(fault.Refused, errors.New("the client rejects the connection string; copy it from the portal again"))
	}
	s.clients[hub] = client
	return client, nil
}

func (s *hubSession) newClient(hub string) (*azeventhubs.ProducerClient, error) {
	options := &azeventhubs.ProducerClientOptions{
		ApplicationID:    "eds",
		NewWebSocketConn: s.connect,
		// The sink retries from the first unacknowledged event of the batch, and the pipeline knows
		// how long to wait. Within a call the client reattaches only a link that it found detached.
		RetryOptions: azeventhubs.RetryOptions{MaxRetries: -1},
	}
	if s.credential != nil {
		return azeventhubs.NewProducerClient(s.host, hub, s.credential, options)
	}
	return azeventhubs.NewProducerClientFromConnectionString(s.forHub(hub), "", options)
}

// connect dials the namespace and tracks the connection. The client calls the connection a
// WebSocket, but it may be any connection that carries AMQP.
func (s *hubSession) connect(ctx context.Context, _ azeventhubs.WebSocketConnParams) (net.Conn, error) {
	now, err := s.now()
	var conn net.Conn
	if err == nil {
		conn, err = now.dial(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialErr = err
	if err != nil {
		return nil, err
	}
	if s.closed {
		conn.Close()
		return nil, errClosed
	}
	s.conns[conn] = struct{}{}
	return &trackedConn{Conn: conn, session: s}, nil
}

// trackedConn is a connection that is closed when the session ends, unless the client has closed
// the connection earlier.
type trackedConn struct {
	net.Conn
	session *hubSession
}

// leastWrite is the size, in bytes, of the smallest write that counts as progress. It is smaller
// than any message and larger than a keep-alive frame.
const leastWrite = 256

// Write writes p. A large write counts as progress, because the acknowledgement of a large message
// may take longer than the duration t.session.patience.
func (t *trackedConn) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if n >= leastWrite {
		t.session.progress.Add(1)
	}
	return n, err
}

func (t *trackedConn) Close() error {
	t.session.mu.Lock()
	delete(t.session.conns, t.Conn)
	t.session.mu.Unlock()
	return t.Conn.Close()
}

// openLink checks that the hub accepts a link. It writes nothing to the hub.
func (s *hubSession) openLink(ctx context.Context, hub string) error {
	client, err := s.client(hub)
	if err != nil {
		return s.classify(err)
	}
	batch, err := client.NewEventDataBatch(ctx, nil)
	if err != nil {
		return s.classify(err)
	}
	// A link without a size limit would make every event seem too large.
	if err := batch.AddEventData(new(azeventhubs.EventData), nil); err != nil {
		return fault.Mark(fault.Fatal, errors.New("the server does not say how large a message may be; check that it is Event Hubs"))
	}
	return nil
}

// closeTimeout is the maximum time that the peer may take to close its links.
const closeTimeout = 2 * time.Second

// close ends the session. If the parameter polite is true, it first closes the links in an orderly
// way; otherwise it closes the connections at once. Nothing more is sent, and the outcome of
// unacknowledged events stays unknown.
func (s *hubSession) close(polite bool) {
	s.mu.Lock()
	s.closed = true
	clients := s.clients
	s.mu.Unlock()
	if !polite {
		s.cut()
	}
	// If the peer does not read, a write may block beyond the end of the context.
	late := time.AfterFunc(closeTimeout, s.cut)
	defer late.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, client := range clients {
		group.Go(func() { _ = client.Close(ctx) }) // an error changes nothing
	}
	group.Wait()
	s.cut()
}

// cut closes every connection.
func (s *hubSession) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

// lastDialError returns the error of the last attempt to dial, or nil if that attempt succeeded.
func (s *hubSession) lastDialError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialErr
}

var errSilent = errors.New("nothing was acknowledged")

// withPatience calls f with a context. It cancels the context when there has been no progress for
// the duration s.patience.
func (s *hubSession) withPatience(ctx context.Context, f func(ctx context.Context) error) error {
	withPatience, cancel := context.WithCancelCause(ctx)
	var watchProgress sync.WaitGroup
	watchProgress.Go(func() { s.watchProgress(withPatience, cancel) })
	err := f(withPatience)
	silent := errors.Is(context.Cause(withPatience), errSilent)
	cancel(nil)
	watchProgress.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case silent:
		return fmt.Errorf("event hubs at %s acknowledged nothing for %v: %w", s.host, s.patience, errSilent)
	}
	return err
}

// watchProgress calls the function cancel when there has been no progress for the duration
// s.patience. It returns when ctx is done.
func (s *hubSession) watchProgress(ctx context.Context, cancel context.CancelCauseFunc) {
	const looks = 4 // number of checks during the patience
	ticker := time.NewTicker(s.patience / looks)
	defer ticker.Stop()
	last, quiet := s.progress.Load(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		quiet++
		if now := s.progress.Load(); now != last {
			last, quiet = now, 0
		}
		if quiet == looks {
			cancel(errSilent)
			return
		}
	}
}
