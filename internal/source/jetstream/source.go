// Package jetstream reads a durable pull consumer of a JetStream stream, in the order of the
// stream.
//
// The server may deliver a message again after a lost connection, after a restart of either side,
// or if the acknowledgement takes too long. The second delivery then follows newer messages. This
// package nevertheless returns each message once, in ascending sequence, and never skips a
// message. For that, each subscription first rewinds the consumer to its acknowledgement floor. A
// subscription ends at the first delivery that does not directly follow the previous delivery, and
// a new subscription starts.
//
// A Lane uses the same code to read an ephemeral consumer, for some tables only and without
// acknowledgements.
//
// The package only manages consumers and acknowledges messages, because the credentials that HQ
// issues permit nothing else.
package jetstream

import (
	"cmp"
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

// Source is a pipeline.Source that reads a durable consumer. Receive and Close must be called from
// one goroutine. The other methods are safe for concurrent use.
type Source struct {
	c       Config
	js      jetstream.JetStream
	unacked *unacked
	limits  pullLimits
	status  chan nats.Status // changes of the connection's status

	watch *streamWatch

	// positionConsumer makes the consumer deliver all messages that are not acknowledged.
	positionConsumer func(ctx context.Context) (*jetstream.ConsumerInfo, error)
	// strict means that messages that the stream may have dropped count as lost.
	strict bool
	tables []string // tables that are read, or nil for all

	subscription *subscription // nil if the next Receive has to subscribe
	backoff      retry.Backoff // waits after broken subscriptions

	began   cdc.Position
	planned bool // the plan is new, so the first subscription need not verify the stream

	recordMu sync.Mutex
	recorded continuity.Record
	stored   continuity.Record // the last record passed to Config.Record
	saved    time.Time         // when stored was passed to Config.Record

	stop    context.CancelFunc // ends the tasks
	stopped <-chan struct{}
	tasks   sync.WaitGroup // tasks that run until Close

	healthMu       sync.Mutex
	unhealthy      error
	unhealthySince time.Time
	waiting        uint64 // number of messages available at the last subscription
	waitingKnown   bool
}

var (
	_ pipeline.Source         = (*Source)(nil)
	_ pipeline.HealthReporter = (*Source)(nil)
)

// Began returns the position after which the source started. The position's field Stored is 0 if
// the message at that position was not applied.
func (s *Source) Began() cdc.Position { return s.began }

// Health returns why no message can be received, and since when. The reason is nil if the source
// is healthy.
func (s *Source) Health() (since time.Time, reason error) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.unhealthySince, s.unhealthy
}

// Waiting returns how many messages the consumer had to deliver when the source last subscribed. If
// the source has not subscribed yet, the result known is false.
func (s *Source) Waiting() (messages uint64, known bool) {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.waiting, s.waitingKnown
}

// setWaiting records the number of messages that the consumer still has to deliver, including
// unacknowledged ones.
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

// Receive returns the next messages. It repairs the connection and the subscription itself, so it
// returns only errors of ctx and fatal errors.
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
					return nil, cmp.Or(s.watch.failure(), err)
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

// ensureSubscribed subscribes if there is no subscription. It retries until it succeeds, ctx ends,
// or an error is fatal.
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

// ErrClosed means that the connection to NATS was closed and does not reconnect.
var ErrClosed = errors.New("the connection to nats is closed")

// awaitConnection waits until the connection is up. The error is ErrClosed or the cause of ctx.
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

// dropSubscription ends the current subscription, if any.
func (s *Source) dropSubscription() {
	if s.subscription != nil {
		s.watch.end()
		s.subscription.unsubscribe()
		s.subscription = nil
	}
}

// Acknowledge acknowledges every message up to and including upTo.
func (s *Source) Acknowledge(_ context.Context, upTo cdc.Position) error {
	// Record first: the server must not know of an acknowledgement that is missing in the record.
	if err := s.recordAcknowledged(upTo); err != nil {
		return err
	}
	var failed error
	s.unacked.acknowledge(upTo, func(reply string) {
		// If an acknowledgement is lost, it is sent again when the server redelivers the message.
		if err := s.c.Conn.Publish(reply, nil); errors.Is(err, nats.ErrConnectionClosed) {
			failed = fault.Mark(fault.Fatal, ErrClosed)
		}
	})
	return failed
}

// reportProgress prevents the redelivery of messages that take long to apply. Before the server's
// timeout, it reports to the server that these messages are in progress. It sleeps while no
// message is unacknowledged.
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

// flushTimeout is how long Close waits for the server.
const flushTimeout = 5 * time.Second

// Close ends the subscription, and waits until the server has received all acknowledgements. The
// connection belongs to the caller and stays open. Receive and Acknowledge must not be called
// after Close.
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
