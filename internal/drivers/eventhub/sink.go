package eventhub

import (
	"context"
	"fmt"
	"sync"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// Sink writes events to hubs.
type Sink struct {
	config
	env    sink.Env
	loader encode.Loader

	mu           sync.Mutex // held by Apply and Probe
	failedEvents failedEvents
	scratch      scratch

	counting sync.Mutex // serializes calls of env.Adjusted

	state   sync.Mutex
	closed  bool
	session *hubSession // nil if no session is open
}

var _ sink.Sink = (*Sink)(nil)

func newSink(c config, env sink.Env) *Sink {
	s := &Sink{config: c, env: env}
	s.loader = encode.Loader{Apply: s.Apply, Limits: limits}
	return s
}

// current returns the open session. If none is open, it creates one.
func (s *Sink) current() (*hubSession, error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.session == nil {
		session, err := s.newSession()
		if err != nil {
			return nil, err
		}
		s.session = session
	}
	return s.session, nil
}

// newSession creates a session with the current secrets.
func (s *Sink) newSession() (*hubSession, error) {
	now, err := s.now()
	if err != nil {
		return nil, err
	}
	now.renew = s.renew // each new connection reads the secrets again
	return newHubSession(&now), nil
}

// drop closes a broken session at once. The next call of current creates another session.
func (s *Sink) drop(old *hubSession) {
	s.state.Lock()
	if s.session == old {
		s.session = nil
	}
	s.state.Unlock()
	old.close(false)
}

// Apply sends the batch's events and waits until Event Hubs has accepted all of them. If the batch
// fails, Apply remembers which events were accepted. When the batch or a part of it is retried,
// Apply does not send those events again.
func (s *Sink) Apply(ctx context.Context, b *change.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b.Events) == 0 {
		return nil
	}
	err := s.apply(ctx, b)
	if err != nil {
		err = fmt.Errorf("send %d changes: %w", len(b.Events), err)
	}
	return s.env.Access.Outcome(err)
}

func (s *Sink) apply(ctx context.Context, b *change.Batch) error {
	defer s.scratch.clear() // the events belong to the caller
	queues, err := s.keyQueues(b.Events)
	if err != nil {
		return err
	}
	session, err := s.current()
	if err != nil {
		return err
	}
	f := &inFlightBatch{session: session, queues: queues, sink: s}
	err = session.withPatience(ctx, f.send)
	if err == nil {
		s.failedEvents.forget(b.Events)
		return nil
	}
	s.failedEvents.record(queues)
	if !f.intact || fault.Of(err) == fault.Refused {
		s.drop(session)
	}
	return err
}

// Probe checks that the namespace answers, accepts the credentials, and lets eds send to the hub.
// If the hub depends on the change, Probe connects to anyHub instead, and does not report an error
// if anyHub does not exist.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.newSession()
	if err != nil {
		return s.env.Access.Outcome(err)
	}
	hub, fixed := s.name.Fixed()
	if !fixed {
		hub = anyHub
	}
	err = session.withPatience(ctx, func(ctx context.Context) error { return session.openLink(ctx, hub) })
	session.close(err == nil)
	if !fixed && missing(err) {
		err = nil // "not found" proves that the namespace has accepted the credentials
	}
	return s.env.Access.Outcome(err)
}

// anyHub is the hub that Probe connects to if the hubs' names depend on the changes. The hub need
// not exist.
const anyHub = "eds"

// BeginLoad begins the load of one table. The load sends each row as an event.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return s.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close closes the connections. Events that are unacknowledged by then may or may not have been
// accepted.
func (s *Sink) Close(context.Context) error {
	s.state.Lock()
	s.closed = true
	session := s.session
	s.session = nil
	s.state.Unlock()
	if session != nil {
		session.close(true)
	}
	return nil
}

// worse returns the error of the more severe class, or a if both have the same class. Either error
// may be nil.
func worse(a, b error) error {
	if a == nil || b != nil && fault.Of(b) > fault.Of(a) {
		return b
	}
	return a
}
