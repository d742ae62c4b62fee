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
// A Lane reads an ephemeral consumer by the same code: for some tables only, and without
// acknowledgements.
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
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
)

// Source is a pipeline.Source. Receive and Close belong to one goroutine; the
// rest is safe for concurrent use.
type Source struct {
	c      Config
	js     jetstream.JetStream
	ledger *ledger
	limits pullLimits
	status chan nats.Status // changes of the connection

	watch *watch

	// place makes the consumer deliver everything that is not settled.
	place func(ctx context.Context) (*jetstream.ConsumerInfo, error)
	// strict takes messages that the stream may have dropped for lost.
	strict bool
	tables []string // that are read; nil: all

	subscription *subscription // nil: to be made
	backoff      retry.Backoff

	began   cdc.Position
	planned bool // where reading begins was decided just now

	recordMu sync.Mutex
	recorded continuity.Record
	stored   continuity.Record // what Record was given last
	saved    time.Time         // and when

	stop    context.CancelFunc // of what is kept up until Close
	stopped <-chan struct{}
	keeping sync.WaitGroup

	healthMu sync.Mutex
	ill      error
	illSince time.Time
	waiting  uint64 // when it last subscribed
	counted  bool   // it has
}

var (
	_ pipeline.Source         = (*Source)(nil)
	_ pipeline.HealthReporter = (*Source)(nil)
)

// Began returns the position after which the first message comes. Its Stored is 0 if
// that message was not applied.
func (s *Source) Began() cdc.Position { return s.began }

// Health returns since when nothing can be received, and why; nil where all is well.
func (s *Source) Health() (since time.Time, reason error) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.illSince, s.ill
}

// Waiting returns how many messages the consumer had to deliver when the source last
// subscribed; false: it has not yet.
func (s *Source) Waiting() (messages uint64, known bool) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.waiting, s.counted
}

// setWaiting records what the server said of the consumer.
func (s *Source) setWaiting(info *jetstream.ConsumerInfo) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	s.waiting, s.counted = info.NumPending+uint64(info.NumAckPending), true
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

// Receive returns the next messages. It mends the connection and the
// subscription itself; its errors are ctx's, or fatal.
func (s *Source) Receive(ctx context.Context) ([]pipeline.Message, error) {
	for {
		if err := s.subscribed(ctx); err != nil {
			return nil, err
		}
		if err := s.lookAfterStall(ctx); err != nil {
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
	if err := s.watch.failure(); err != nil {
		return err
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
		s.watch.end()
		s.subscription.leave()
		s.subscription = nil
	}
}

// Acknowledge acknowledges every message up to and including upTo.
func (s *Source) Acknowledge(_ context.Context, upTo cdc.Position) error {
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
func (s *Source) keepAlive(ctx context.Context) {
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
		case <-ctx.Done():
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
	s.stop()
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
