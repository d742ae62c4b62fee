// Package jetstream reads a durable pull consumer of a JetStream stream, in order.
//
// The server may deliver a message again: after a lost connection, a restart of either side, or if
// its acknowledgement takes too long. It then comes after newer messages. This package returns each
// message once, in ascending sequence, and never skips one. Each subscription rewinds the consumer
// to its acknowledgement floor first. It ends at the first delivery that does not follow the
// previous one, and a new subscription starts.
//
// A Lane reads an ephemeral consumer with the same code: for some tables only, and without
// acknowledgements.
//
// The package only manages consumers and acknowledges messages: the credentials that HQ issues
// allow no more.
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

// Source is a pipeline.Source. Receive and Close belong to one goroutine; the other methods are
// safe for concurrent use.
type Source struct {
	c       Config
	js      jetstream.JetStream
	unacked *unacked
	limits  pullLimits
	status  chan nats.Status // changes of the connection

	watch *streamWatch

	// positionConsumer makes the consumer deliver everything that is not acknowledged.
	positionConsumer func(ctx context.Context) (*jetstream.ConsumerInfo, error)
	// strict treats messages as lost that the stream may have dropped.
	strict bool
	tables []string // that are read; nil: all

	subscription *subscription // nil: the next Receive subscribes
	backoff      retry.Backoff // after subscriptions that broke

	began   cdc.Position
	planned bool // the plan is new, so the first subscription need not verify the stream

	recordMu sync.Mutex
	recorded continuity.Record
	stored   continuity.Record // last argument of Config.Record
	saved    time.Time         // time of that call

	stop    context.CancelFunc // ends tasks
	stopped <-chan struct{}
	tasks   sync.WaitGroup // that run until Close

	healthMu       sync.Mutex
	unhealthy      error
	unhealthySince time.Time
	waiting        uint64 // when it last subscribed
	waitingKnown   bool
}

var (
	_ pipeline.Source         = (*Source)(nil)
	_ pipeline.HealthReporter = (*Source)(nil)
)

// Began returns the position after which the first message comes. Its Stored is 0 if that message
// was not applied.
func (s *Source) Began() cdc.Position { return s.began }

// Health returns since when and why no message can be received; nil if the source is healthy.
func (s *Source) Health() (since time.Time, reason error) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.unhealthySince, s.unhealthy
}

// Waiting returns how many messages the consumer had to deliver when the source last subscribed;
// false: it has not subscribed yet.
func (s *Source) Waiting() (messages uint64, known bool) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.waiting, s.waitingKnown
}

// setWaiting records the number of messages that the consumer has to deliver.
func (s *Source) setWaiting(info *jetstream.ConsumerInfo) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	s.waiting, s.waitingKnown = info.NumPending+uint64(info.NumAckPending), true
}

func (s *Source) setHealth(err error) {
	s.healthMu.Lock()
	previous := s.unhealthy
	s.unhealthy = err
	if previous == nil || err == nil {
		s.unhealthySince = time.Now()
	}
	s.healthMu.Unlock()
	switch {
	case err != nil && previous == nil:
		s.c.Logger.Warn("waiting for the stream, and trying again", "error", err)
	case err == nil && previous != nil:
		s.c.Logger.Info("the stream works again")
	}
}

// Receive returns the next messages. It repairs the connection and the subscription itself; its
// errors are ctx's, or fatal.
func (s *Source) Receive(ctx context.Context) ([]pipeline.Message, error) {
	for {
		if err := s.ensureSubscribed(ctx); err != nil {
			return nil, err
		}
		if err := s.checkAfterStall(ctx); err != nil {
			return nil, err
		}
		messages, err := s.subscription.next(ctx)
		var broken *brokenError
		switch {
		case err == nil:
			s.backoff.Reset()
		case errors.As(err, &broken):
			s.c.Logger.Info("subscribing again", "reason", broken.reason)
			s.dropSubscription()
			if !broken.expected && len(messages) == 0 {
				if err := retry.Sleep(ctx, s.backoff.Next(err)); err != nil {
					return nil, err
				}
			}
		case len(messages) == 0:
			return nil, err
		}
		if len(messages) > 0 {
			return messages, nil
		}
	}
}

// ensureSubscribed subscribes if there is no subscription, and retries until that succeeds.
func (s *Source) ensureSubscribed(ctx context.Context) error {
	if err := s.watch.failure(); err != nil {
		return err
	}
	if s.subscription != nil {
		return nil
	}
	policy := retry.Policy{
		Backoff:   s.backoff,
		Retryable: func(err error) bool { return fault.Of(err) != fault.Fatal },
		Failed:    func(err error, _ time.Duration) { s.setHealth(err) },
	}
	err := retry.Do(ctx, policy, func() error {
		if err := s.awaitConnection(ctx); err != nil {
			return err
		}
		return s.subscribe(ctx)
	})
	if err == nil || ctx.Err() == nil {
		s.setHealth(err)
	}
	return err
}

// ErrClosed says that the connection was closed for good.
var ErrClosed = errors.New("the connection to nats is closed")

// awaitConnection waits until the connection is up. Its error is ErrClosed or the cause of ctx.
func (s *Source) awaitConnection(ctx context.Context) error {
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

// dropSubscription ends the subscription.
func (s *Source) dropSubscription() {
	if s.subscription != nil {
		s.watch.end()
		s.subscription.unsubscribe()
		s.subscription = nil
	}
}

// Acknowledge acknowledges every message up to and including upTo.
func (s *Source) Acknowledge(_ context.Context, upTo cdc.Position) error {
	// Record first: the server must not know an acknowledgement that the record lacks.
	if err := s.recordAcknowledged(upTo); err != nil {
		return err
	}
	var failed error
	s.unacked.acknowledge(upTo, func(reply string) {
		// A lost acknowledgement is repeated when the message comes again.
		if err := s.c.Conn.Publish(reply, nil); errors.Is(err, nats.ErrConnectionClosed) {
			failed = fault.Mark(fault.Fatal, ErrClosed)
		}
	})
	return failed
}

// reportProgress prevents redelivery of messages that take long: it tells the server in time that
// they are in progress. It sleeps while there are none.
func (s *Source) reportProgress(ctx context.Context) {
	progress := []byte("+WPI")
	every := s.c.tuning.ackWait / 3
	timer := time.NewTimer(every)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-s.unacked.wake:
			timer.Reset(every)
		case <-timer.C:
			if s.unacked.progress(func(reply string) { _ = s.c.Conn.Publish(reply, progress) }) {
				timer.Reset(every)
			}
		case <-ctx.Done():
			return
		}
	}
}

// flushTimeout bounds how long Close waits for the server.
const flushTimeout = 5 * time.Second

// Close ends the subscription and waits until the server has the acknowledgements. The caller keeps
// the connection. Receive and Acknowledge must not be called afterwards.
func (s *Source) Close(ctx context.Context) error {
	s.dropSubscription()
	s.stop()
	s.tasks.Wait()
	s.c.Conn.RemoveStatusListener(s.status)
	err := s.saveRecord()
	if s.c.Conn.IsConnected() {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if e := s.c.Conn.FlushWithContext(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("acknowledge applied messages: %w", e))
		}
	}
	return err
}
