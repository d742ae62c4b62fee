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
)

// subscribe starts a subscription. It positions the consumer before the first unacknowledged
// message. From then on, each delivery must directly follow the previous one.
func (s *Source) subscribe(ctx context.Context) error {
	s.drainStatus()
	reconnects := s.c.Conn.Stats().Reconnects
	connected, stop := s.whileConnected(ctx)
	defer stop()
	if err := s.verify(connected); err != nil {
		return err
	}
	info, err := s.positionConsumer(connected)
	if err != nil {
		return err
	}
	p := &subscription{
		s: s, inbox: s.c.Conn.NewRespInbox(), in: make(chan *nats.Msg, 2*maxPull),
		ordinal: info.Delivered.Consumer + 1, reconnects: reconnects, first: true,
	}
	if p.sub, err = s.c.Conn.ChanSubscribe(p.inbox+".*", p.in); err != nil {
		return fmt.Errorf("subscribe to the consumer %s: %w", s.c.Name, err)
	}
	s.subscription = p
	s.setWaiting(info)
	s.watch.begin(s.unacked.subscribe(info.Delivered.Consumer))
	return nil
}

// drainStatus discards the connection's status changes that were reported so far.
func (s *Source) drainStatus() {
	for {
		select {
		case <-s.status:
		default:
			return
		}
	}
}

// whileConnected returns a context that ends when the connection changes, because outstanding
// requests are not answered after that. The caller must call the returned function to release
// resources.
func (s *Source) whileConnected(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var listener sync.WaitGroup
	listener.Go(func() {
		select {
		case <-s.status:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		listener.Wait()
	}
}

// rewind makes the consumer deliver all unacknowledged messages again, and returns the consumer's
// new state.
func (s *Source) rewind(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	acknowledged, _, _ := s.unacked.position()
	if info == nil {
		s.c.Logger.Warn("the consumer is gone; creating it again", "after", acknowledged.Sequence)
		return s.createAfter(ctx, nil, acknowledged)
	}
	server, noAnswer := serverName(s.c.Conn), false
	if compatible(&info.Config) && !s.c.ResetSupport.missing(server) {
		reset, err := s.reset(ctx, info, acknowledged.Sequence)
		switch {
		case err == nil:
			return reset, nil
		case ctx.Err() != nil || !s.c.Conn.IsConnected():
			return nil, err
		}
		noAnswer = errors.Is(err, context.DeadlineExceeded)
		s.c.Logger.Debug("the server did not reset the consumer; deleting it and creating it again", "server", server, "error", err)
	}
	if err := s.delete(ctx); err != nil {
		return nil, err
	}
	if noAnswer { // although the server has answered the request to delete the consumer
		s.rememberMissingReset(server)
	}
	return s.createAfter(ctx, info, acknowledged)
}

// reset makes the consumer continue after the last acknowledged message. The server can reset a
// consumer that starts at a later message, or with new messages, only to its acknowledgement
// floor.
func (s *Source) reset(ctx context.Context, info *jetstream.ConsumerInfo, acknowledged uint64) (*jetstream.ConsumerInfo, error) {
	reset, err := s.resetTo(ctx, acknowledged+1)
	if errors.Is(err, jetstream.ErrConsumerInvalidReset) && info.AckFloor.Stream <= acknowledged {
		return s.resetTo(ctx, 0)
	}
	return reset, err
}

// resetTo requests that the server deliver all messages from the sequence first on. If first is 0,
// the server continues after the acknowledgement floor. Servers before 2.14 do not answer.
func (s *Source) resetTo(ctx context.Context, first uint64) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.c.tuning.resetWait)
	defer cancel()
	response, err := s.js.ResetConsumerToSequence(ctx, s.c.Stream, s.c.Name, first)
	if err != nil {
		return nil, fmt.Errorf("reset the consumer %s: %w", s.c.Name, err)
	}
	return response.ConsumerInfo, nil
}

func (s *Source) rememberMissingReset(server string) {
	s.c.Logger.Info("the server does not answer consumer resets (nats-server before 2.14); from now on, "+
		"eds deletes the consumer and creates it again at once", "server", server)
	if err := s.c.ResetSupport.markMissing(server); err != nil {
		s.c.Logger.Warn("could not store that the server does not answer consumer resets; "+
			"the next start waits for an answer again", "server", server, "error", err)
	}
}

// recordAcknowledged records that all messages up to p are acknowledged. It stores the record no
// more than once per RecordEvery.
func (s *Source) recordAcknowledged(p cdc.Position) error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	if p.Sequence > s.recorded.Settled.Sequence {
		s.recorded.Settled = p
	}
	if time.Since(s.saved) < s.c.RecordEvery {
		return nil
	}
	return s.save()
}

// scanEvery is how often an idle source stores its record.
const scanEvery = 10 * time.Minute

// recordScanned records that the consumer has no unacknowledged message at or before the given
// sequence.
func (s *Source) recordScanned(sequence uint64) {
	if _, _, idle := s.unacked.position(); !idle {
		return
	}
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	s.recorded.Scanned = max(s.recorded.Scanned, sequence)
	if time.Since(s.saved) < scanEvery {
		return
	}
	if err := s.save(); err != nil {
		s.c.Logger.Warn("could not store the position in the stream", "error", err)
	}
}

func (s *Source) saveRecord() error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	return s.save()
}

// save stores the record if it has changed. The caller holds recordMu.
func (s *Source) save() error {
	if s.stored == s.recorded {
		return nil
	}
	return s.store()
}

func (s *Source) store() error {
	if s.c.Record == nil {
		return nil
	}
	if err := s.c.Record(s.recorded); err != nil {
		return fmt.Errorf("store the position in the stream: %w", err)
	}
	s.saved, s.stored = time.Now(), s.recorded
	return nil
}
