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

	mu        sync.Mutex // held by calls that send
	unsettled unsettled
	scratch   scratch

	counting sync.Mutex // held where env.Adjusted is called

	state   sync.Mutex
	closed  bool
	session *session // nil: none is open
}

var _ sink.Sink = (*Sink)(nil)

func newSink(c config, env sink.Env) *Sink {
	s := &Sink{config: c, env: env}
	s.loader = encode.Loader{Apply: s.Apply, Limits: limits}
	return s
}

// current returns the open session, or opens one.
func (s *Sink) current() (*session, error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.session == nil {
		fresh, err := s.fresh()
		if err != nil {
			return nil, err
		}
		s.session = fresh
	}
	return s.session, nil
}

// fresh returns a session with the secrets that there are now.
func (s *Sink) fresh() (*session, error) {
	now, err := s.now()
	if err != nil {
		return nil, err
	}
	now.renew = s.renew // for its connections
	return newSession(&now), nil
}

// drop closes a session that is broken.
func (s *Sink) drop(old *session) {
	s.state.Lock()
	if s.session == old {
		s.session = nil
	}
	s.state.Unlock()
	old.close(false)
}

// Apply sends the batch's events and waits until Event Hubs have accepted every
// one. What was accepted of a batch that failed is remembered, and not sent again
// when the batch, or a part of it, is tried again.
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
	return s.env.Access.Judge(err)
}

func (s *Sink) apply(ctx context.Context, b *change.Batch) error {
	defer s.scratch.clear() // the events are the caller's
	lanes, err := s.lanes(b.Events)
	if err != nil {
		return err
	}
	session, err := s.current()
	if err != nil {
		return err
	}
	f := &flight{session: session, lanes: lanes, sink: s}
	err = session.within(ctx, f.fly)
	if err == nil {
		s.unsettled.settle(b.Events)
		return nil
	}
	s.unsettled.keep(lanes)
	if !f.intact || fault.Of(err) == fault.Refused {
		s.drop(session)
	}
	return err
}

// Probe makes sure that the namespace answers, takes the credentials, and lets
// eds send to the hub, where there is only one.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := s.fresh()
	if err != nil {
		return s.env.Access.Judge(err)
	}
	hub, fixed := s.name.Fixed()
	if !fixed {
		hub = anyHub
	}
	err = session.within(ctx, func(ctx context.Context) error { return session.reach(ctx, hub) })
	session.close(err == nil)
	if !fixed && missing(err) {
		err = nil // whoever is told so has been let in
	}
	return s.env.Access.Judge(err)
}

// anyHub is asked for where the hubs that there should be are not known yet. It
// need not exist.
const anyHub = "eds"

// BeginLoad begins the load of one table.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return s.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close ends the connections. What was sent and not acknowledged is not promised.
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

// worse returns the error of the two that more depends on.
func worse(a, b error) error {
	if a == nil || b != nil && fault.Of(b) > fault.Of(a) {
		return b
	}
	return a
}
