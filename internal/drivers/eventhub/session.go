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

// session is the connections to the namespace: one for each hub that was written
// to. Its methods may be called concurrently, but for close.
type session struct {
	*config
	moved atomic.Int64 // counts acknowledgements, and what was written

	mu      sync.Mutex
	clients map[string]*azeventhubs.ProducerClient // by hub
	conns   map[net.Conn]struct{}                  // that are open
	failure error                                  // why the last connection was not opened
	closed  bool
}

func newSession(c *config) *session {
	return &session{config: c, clients: make(map[string]*azeventhubs.ProducerClient), conns: make(map[net.Conn]struct{})}
}

// client returns the client of a hub, which connects when it is first used.
func (s *session) client(hub string) (*azeventhubs.ProducerClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if client := s.clients[hub]; client != nil {
		return client, nil
	}
	client, err := s.newClient(hub)
	if err != nil { // its text may quote the connection string
		return nil, fault.Mark(fault.Refused, errors.New("the client does not take the connection string; copy it from the portal again"))
	}
	s.clients[hub] = client
	return client, nil
}

func (s *session) newClient(hub string) (*azeventhubs.ProducerClient, error) {
	options := &azeventhubs.ProducerClientOptions{
		ApplicationID:    "eds",
		NewWebSocketConn: s.connect,
		// What failed is tried again from the start of the batch's remainder, by
		// whoever knows how long to wait; only a link that was found detached is
		// opened anew within a call.
		RetryOptions: azeventhubs.RetryOptions{MaxRetries: -1},
	}
	if s.credential != nil {
		return azeventhubs.NewProducerClient(s.host, hub, s.credential, options)
	}
	return azeventhubs.NewProducerClientFromConnectionString(s.text(hub), "", options)
}

// connect opens a connection, which carries AMQP whatever the client takes it
// for, and keeps hold of it.
func (s *session) connect(ctx context.Context, _ azeventhubs.WebSocketConnParams) (net.Conn, error) {
	now, err := s.now()
	var conn net.Conn
	if err == nil {
		conn, err = now.dial(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	if err != nil {
		return nil, err
	}
	if s.closed {
		conn.Close()
		return nil, errClosed
	}
	s.conns[conn] = struct{}{}
	return &tracked{Conn: conn, session: s}, nil
}

// tracked is a connection that the session knows to be open.
type tracked struct {
	net.Conn
	session *session
}

// leastWrite is less than a message, and more than what keeps a connection alive.
const leastWrite = 256

// Write counts as progress: a large message takes its time.
func (t *tracked) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if n >= leastWrite {
		t.session.moved.Add(1)
	}
	return n, err
}

func (t *tracked) Close() error {
	t.session.mu.Lock()
	delete(t.session.conns, t.Conn)
	t.session.mu.Unlock()
	return t.Conn.Close()
}

// reach makes sure that the hub can be written to, without writing anything.
func (s *session) reach(ctx context.Context, hub string) error {
	client, err := s.client(hub)
	if err != nil {
		return s.explain(err)
	}
	batch, err := client.NewEventDataBatch(ctx, nil)
	if err != nil {
		return s.explain(err)
	}
	if err := batch.AddEventData(new(azeventhubs.EventData), nil); err != nil { // or every event would seem too large
		return fault.Mark(fault.Fatal, errors.New("the other side does not say how large a message may be; check that it is Event Hubs"))
	}
	return nil
}

// closeTimeout bounds how long the other side may take to take leave.
const closeTimeout = 2 * time.Second

// close ends the session; politely, unless it is broken. What was sent and not
// acknowledged stays unknown, and nothing of it is sent any more.
func (s *session) close(polite bool) {
	s.mu.Lock()
	s.closed = true
	clients := s.clients
	s.mu.Unlock()
	if !polite {
		s.cut()
	}
	// A write that nobody reads would be waited for longer.
	late := time.AfterFunc(closeTimeout, s.cut)
	defer late.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, client := range clients {
		group.Go(func() { _ = client.Close(ctx) }) // it has nothing to say
	}
	group.Wait()
	s.cut()
}

// cut closes every connection.
func (s *session) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

// lastFailure returns why the last connection was not opened, or nil where it was.
func (s *session) lastFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

var errSilent = errors.New("nothing was acknowledged")

// within calls f with a context that ends once the patience has passed without
// any progress.
func (s *session) within(ctx context.Context, f func(ctx context.Context) error) error {
	within, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.watch(within, cancel) })
	err := f(within)
	silent := errors.Is(context.Cause(within), errSilent)
	cancel(nil)
	watch.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case silent:
		return fmt.Errorf("event hubs at %s have acknowledged nothing for %v: %w", s.host, s.patience, errSilent)
	}
	return err
}

// watch ends a context once a patience has passed in which nothing moved.
func (s *session) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	const looks = 4 // in the time of the patience
	ticker := time.NewTicker(s.patience / looks)
	defer ticker.Stop()
	last, quiet := s.moved.Load(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		quiet++
		if now := s.moved.Load(); now != last {
			last, quiet = now, 0
		}
		if quiet == looks {
			cancel(errSilent)
			return
		}
	}
}
