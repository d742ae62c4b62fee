package jetstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// subscribe begins a subscription: the consumer is rewound to the first message
// that is not settled, and what comes has to follow without a gap.
func (s *Source) subscribe(ctx context.Context) error {
	s.forgetStatus()
	reconnects := s.c.Conn.Stats().Reconnects
	asking, stop := s.whileConnected(ctx)
	defer stop()
	if err := s.complete(asking); err != nil {
		return err
	}
	info, err := s.rewind(asking)
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
	s.subscription, s.lastPull = p, time.Now()
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

// complete returns an error where the stream has lost messages that were not
// received yet.
func (s *Source) complete(ctx context.Context) error {
	b, err := s.bounds(ctx)
	if err != nil {
		return err
	}
	settled, _, _ := s.ledger.position()
	gap := &GapError{After: s.reached, First: b.first, Since: when(settled.Stored)}
	switch {
	case b.last < s.reached:
		gap.Remade = true
	case b.first <= s.reached+1:
		return nil
	}
	return fault.Mark(fault.Fatal, gap)
}

// rewind makes the consumer deliver everything that is not settled again, and
// returns its state then.
func (s *Source) rewind(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	settled, _, _ := s.ledger.position()
	after := &origin{policy: jetstream.DeliverByStartSequencePolicy, sequence: settled.Sequence + 1}
	if info == nil {
		s.c.Logger.Warn("the subscription was lost; it is made again", "after", settled.Sequence)
		return s.create(ctx, nil, after)
	}
	if !s.c.tuning.noReset && usable(&info.Config) {
		reset, err := s.js.ResetConsumer(ctx, s.c.Stream, s.c.Name)
		if err == nil {
			return reset.ConsumerInfo, nil
		}
		if ctx.Err() != nil || !s.c.Conn.IsConnected() {
			return nil, fmt.Errorf("rewind the consumer %s: %w", s.c.Name, err)
		}
		s.c.Logger.Debug("the server can not reset consumers; the consumer is made again", "error", err)
	}
	// Servers before 2.14.
	if err := s.delete(ctx); err != nil {
		return nil, err
	}
	return s.create(ctx, info, after)
}

// recordSettled notes that everything up to p is settled, and stores that where
// it is time to.
func (s *Source) recordSettled(p cdc.Position) error {
	s.recordMu.Lock()
	defer s.recordMu.Unlock()
	if p.Sequence > s.recorded.Settled.Sequence {
		s.recorded.Settled = s.recorded.Settled.Advance(p)
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

// save stores what is recorded. The lock is held.
func (s *Source) save() error {
	if s.c.Record == nil || s.stored == s.recorded {
		return nil
	}
	if err := s.c.Record(s.recorded); err != nil {
		return fmt.Errorf("store the place in the stream: %w", err)
	}
	s.saved, s.stored = time.Now(), s.recorded
	return nil
}
