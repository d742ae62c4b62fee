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

// subscribe begins a subscription: the consumer is placed before the first message that
// is not settled, and each delivery has to follow the one before.
func (s *Source) subscribe(ctx context.Context) error {
	s.forgetStatus()
	reconnects := s.c.Conn.Stats().Reconnects
	asking, stop := s.whileConnected(ctx)
	defer stop()
	if err := s.verify(asking); err != nil {
		return err
	}
	info, err := s.place(asking)
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
	s.watch.begin(s.ledger.begin(info.Delivered.Consumer))
	return nil
}

// forgetStatus drops what was told about the connection before now.
func (s *Source) forgetStatus() {
	for {
		select {
		case <-s.status:
		default:
			return
		}
	}
}

// whileConnected returns a context that ends when the connection changes: no
// answer comes then. The function must be called.
func (s *Source) whileConnected(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-s.status:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watch.Wait()
	}
}

// rewind makes the consumer deliver everything that is not settled again, and
// returns its state then.
func (s *Source) rewind(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	settled, _, _ := s.ledger.position()
	if info == nil {
		s.c.Logger.Warn("the consumer is gone; creating it again", "after", settled.Sequence)
		return s.createAfter(ctx, nil, settled)
	}
	server, silent := serverName(s.c.Conn), false
	if usable(&info.Config) && !s.c.Silence.knows(server) {
		reset, err := s.reset(ctx, info, settled.Sequence)
		switch {
		case err == nil:
			return reset, nil
		case ctx.Err() != nil || !s.c.Conn.IsConnected():
			return nil, err
		}
		silent = errors.Is(err, context.DeadlineExceeded)
		s.c.Logger.Debug("the server did not reset the consumer; deleting it and creating it again", "server", server, "error", err)
	}
	if err := s.delete(ctx); err != nil {
		return nil, err
	}
	if silent { // it does answer other requests
		s.rememberSilence(server)
	}
	return s.createAfter(ctx, info, settled)
}

// reset has the consumer go on after the last settled message. A consumer that has
// started later, or with new messages, can only go back to its acknowledgement floor.
func (s *Source) reset(ctx context.Context, info *jetstream.ConsumerInfo, settled uint64) (*jetstream.ConsumerInfo, error) {
	reset, err := s.resetTo(ctx, settled+1)
	if errors.Is(err, jetstream.ErrConsumerInvalidReset) && info.AckFloor.Stream <= settled {
		return s.resetTo(ctx, 0)
	}
	return reset, err
}

// resetTo asks the server to deliver everything from a sequence on; 0 is the one after
// the acknowledgement floor. Servers before 2.14 do not answer.
func (s *Source) resetTo(ctx context.Context, first uint64) (*jetstream.ConsumerInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.c.tuning.resetWait)
	defer cancel()
	answer, err := s.js.ResetConsumerToSequence(ctx, s.c.Stream, s.c.Name, first)
	if err != nil {
		return nil, fmt.Errorf("reset the consumer %s: %w", s.c.Name, err)
	}
	return answer.ConsumerInfo, nil
}

func (s *Source) rememberSilence(server string) {
	s.c.Logger.Info("the server does not answer consumer resets, as before nats-server 2.14; from now on the consumer is deleted and created again at once", "server", server)
	if err := s.c.Silence.add(server); err != nil {
		s.c.Logger.Warn("could not store that the server does not answer consumer resets; the next start waits for an answer again", "server", server, "error", err)
	}
}

// recordSettled notes that everything up to p is settled, and stores that where
// it is time to.
func (s *Source) recordSettled(p cdc.Position) error {
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

// scanEvery is how often it is stored that nothing came.
const scanEvery = 10 * time.Minute

// recordScanned notes that there is nothing for this consumer up to sequence
// that is not settled.
func (s *Source) recordScanned(sequence uint64) {
	if _, _, idle := s.ledger.position(); !idle {
		return
	}
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	s.recorded.Scanned = max(s.recorded.Scanned, sequence)
	if time.Since(s.saved) < scanEvery {
		return
	}
	if err := s.save(); err != nil {
		s.c.Logger.Warn("the place in the stream could not be stored", "error", err)
	}
}

func (s *Source) saveRecord() error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	return s.save()
}

// save stores what is recorded if that has changed. The lock is held.
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
		return fmt.Errorf("store the place in the stream: %w", err)
	}
	s.saved, s.stored = time.Now(), s.recorded
	return nil
}
