// Package jetstream reads a durable pull consumer of a JetStream stream, in
// order.
//
// The server may deliver a message again: after a lost connection, a restart of
// either side, or too long a wait for its acknowledgement; and it delivers it
// behind newer ones. Here a message is passed on once, in ascending sequence,
// and no gap is ever passed over. Each subscription begins with the consumer
// rewound to its acknowledgement floor, and is left, for a new one, at the
// first delivery that does not follow the one before.
//
// Nothing is asked of the server but consumers and acknowledgements: the
// credentials that HQ issues allow no more.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// Source is a pipeline.Source. Receive and Close belong to one goroutine; the
// rest is safe for concurrent use.
type Source struct {
	c      Config
	js     jetstream.JetStream
	ledger *ledger
	limits pullLimits
	status chan nats.Status // changes of the connection

	subscription *subscription // nil: to be made
	reached      uint64        // nothing of ours up to here is still to be received
	lastPull     time.Time     // when the server last sent anything
	backoff      fault.Backoff

	recordMu sync.Mutex
	recorded Recorded
	stored   Recorded  // what Record was given last
	saved    time.Time // and when

	closing chan struct{}
	keeping sync.WaitGroup

	healthMu sync.Mutex
	ill      error
	illSince time.Time
}

var (
	_ pipeline.Source  = (*Source)(nil)
	_ pipeline.Patient = (*Source)(nil)
)

// Health returns since when nothing can be received, and why; nil where all is well.
func (s *Source) Health() (since time.Time, reason error) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.illSince, s.ill
}

func (s *Source) setHealth(err error) {
	s.healthMu.Lock()
	was := s.ill
	s.ill = err
	if was == nil || err == nil {
		s.illSince = time.Now()
	}
	s.healthMu.Unlock()
	switch {
	case err != nil && was == nil:
		s.c.Logger.Warn("waiting for the stream, and trying again", "error", err)
	case err == nil && was != nil:
		s.c.Logger.Info("the stream works again")
	}
}

// staleAfter is for how long a subscription may be left unread before the
// stream is looked at again: it may have dropped what lies behind.
const staleAfter = 5 * time.Minute

// Receive returns the next messages. It mends the connection and the
// subscription itself; its errors are ctx's, or fatal.
func (s *Source) Receive(ctx context.Context) ([]pipeline.Message, error) {
	for {
		if err := s.subscribed(ctx); err != nil {
			return nil, err
		}
		messages, err := s.subscription.next(ctx)
		var broken *brokenError
		switch {
		case err == nil:
			s.backoff.Reset()
		case errors.As(err, &broken):
			s.c.Logger.Info("subscribing again", "reason", broken.reason)
			s.drop()
			if !broken.expected && len(messages) == 0 {
				s.rest(ctx, err)
			}
		case len(messages) == 0:
			return nil, err
		}
		if len(messages) > 0 {
			return messages, nil
		}
	}
}

// subscribed makes sure that there is a subscription.
func (s *Source) subscribed(ctx context.Context) error {
	if s.subscription != nil && time.Since(s.lastPull) > staleAfter {
		s.drop()
	}
	for s.subscription == nil {
		if err := s.connected(ctx); err != nil {
			return err
		}
		err := s.subscribe(ctx)
		switch {
		case err == nil:
			s.setHealth(nil)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case fault.Of(err) == fault.Fatal:
			s.setHealth(err)
			return err
		default:
			s.setHealth(err)
			s.rest(ctx, err)
		}
	}
	return nil
}

// rest waits a while before the next attempt.
func (s *Source) rest(ctx context.Context, err error) {
	t := time.NewTimer(s.backoff.Next(err))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ErrClosed says that the connection was closed for good.
var ErrClosed = errors.New("the connection to nats is closed")

// connected waits until the connection stands.
func (s *Source) connected(ctx context.Context) error {
	for {
		reason := s.c.Conn.LastError()
		switch s.c.Conn.Status() {
		case nats.CONNECTED:
			return nil
		case nats.CLOSED:
			err := ErrClosed
			if reason != nil {
				err = fmt.Errorf("%w: %w", ErrClosed, reason)
			}
			s.setHealth(err)
			return fault.Mark(fault.Fatal, err)
		}
		err := errors.New("not connected to nats")
		if reason != nil {
			err = fmt.Errorf("not connected to nats: %w", reason)
		}
		s.setHealth(err)
		select {
		case <-s.status:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// drop leaves the subscription.
func (s *Source) drop() {
	if s.subscription != nil {
		s.subscription.leave()
		s.subscription = nil
	}
}

// Settle acknowledges every message up to and including upTo.
func (s *Source) Settle(_ context.Context, upTo cdc.Position) error {
	// Recorded first: what the server holds for acknowledged must be known here.
	if err := s.recordSettled(upTo); err != nil {
		return err
	}
	var failed error
	s.ledger.settle(upTo, func(reply string) {
		// A lost acknowledgement is given again when the message comes again.
		if err := s.c.Conn.Publish(reply, nil); errors.Is(err, nats.ErrConnectionClosed) {
			failed = fault.Mark(fault.Fatal, ErrClosed)
		}
	})
	return failed
}

// keepAlive tells the server, in time, of messages that take long. It sleeps
// while there are none.
func (s *Source) keepAlive() {
	defer s.keeping.Done()
	progress := []byte("+WPI")
	every := s.c.tuning.ackWait / 3
	timer := time.NewTimer(every)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-s.ledger.work:
			timer.Reset(every)
		case <-timer.C:
			if s.ledger.progress(func(reply string) { _ = s.c.Conn.Publish(reply, progress) }) {
				timer.Reset(every)
			}
		case <-s.closing:
			return
		}
	}
}

// flushing bounds how long Close waits for the server.
const flushing = 5 * time.Second

// Close gives back what Open took and sees acknowledgements through. The
// connection stays the caller's. Nothing may be received or settled afterwards.
func (s *Source) Close(ctx context.Context) error {
	s.drop()
	close(s.closing)
	s.keeping.Wait()
	s.c.Conn.RemoveStatusListener(s.status)
	err := s.saveRecord()
	if s.c.Conn.IsConnected() {
		ctx, cancel := context.WithTimeout(ctx, flushing)
		defer cancel()
		if e := s.c.Conn.FlushWithContext(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("acknowledge what was applied: %w", e))
		}
	}
	return err
}
