package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/shopmonkeyus/eds/internal/continuity"
)

// info returns the consumer, or nil if there is none.
func (s *Source) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	consumer, err := s.js.Consumer(ctx, s.c.Stream, s.c.Name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up the consumer %s: %w", s.c.Name, err)
	}
	return consumer.CachedInfo(), nil
}

// observe adds to e what the server says about the consumer and the stream. The
// stream's own state may not be asked for. Instead, temporary consumers say where
// they begin and how much is pending, and deliver the headers of one message.
func (s *Source) observe(ctx context.Context, e *continuity.Evidence) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	var start *origin
	if info != nil {
		e.Consumer = &continuity.Consumer{
			Acknowledged: info.AckFloor.Consumer > 0 || info.Delivered.Consumer > uint64(max(info.NumAckPending, 0)),
			Ours:         info.Config.MaxDeliver == -1 && info.Config.InactiveThreshold == inactiveThreshold, Created: info.Created.UnixNano(),
		}
		if e.Consumer.Floor, start = ackFloor(info); start != nil && e.Sequence() > 0 {
			start = nil // another position is known, so this one does not matter
		}
	}
	err = s.observeStream(ctx, e, start)
	if refuses(err) && !s.strict {
		s.c.Logger.Warn("the server does not say what the stream holds; missing messages would not be noticed", "error", err)
		e.Stream = continuity.Stream{Silent: true}
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask what the stream %s holds: %w", s.c.Stream, err)
	}
	return nil
}

// refuses reports whether err is a refusal to say what the stream holds.
func refuses(err error) bool {
	return errors.As(err, new(*jetstream.APIError)) && !errors.Is(err, jetstream.ErrStreamNotFound)
}

// observeStream adds what two temporary consumers say. If start is not nil, the
// acknowledgement floor of the consumer is where a consumer made at start begins.
func (s *Source) observeStream(ctx context.Context, e *continuity.Evidence, start *origin) error {
	oldest, err := s.look(ctx, &origin{policy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	e.Stream = continuity.Stream{First: oldest.sequence, FirstStored: oldest.stored, Pending: oldest.pending}
	if start != nil {
		return s.observeFloor(ctx, e, start)
	}
	switch sequence := e.Sequence(); {
	case sequence == oldest.sequence:
		e.Stream.Stored = oldest.stored
	case sequence > oldest.sequence:
		at, err := s.look(ctx, after(sequence-1))
		if err != nil {
			return err
		}
		e.Stream.Pending = at.pending
		if at.sequence == sequence {
			e.Stream.Stored = at.stored
		}
	}
	return nil
}

// observeFloor adds where a consumer starts that nothing was acknowledged to.
func (s *Source) observeFloor(ctx context.Context, e *continuity.Evidence, start *origin) error {
	consumer, forget, err := s.peek(ctx, start, nil)
	if err != nil {
		return err
	}
	forget()
	info := consumer.CachedInfo()
	e.Consumer.Floor = info.Delivered.Stream
	if e.Consumer.Floor < e.Stream.First {
		return nil
	}
	e.Stream.Pending = info.NumPending + 1
	e.Stream.Stored = start.time.UnixNano() - 1 // at the latest: the next one is the first since
	return nil
}

// sight is what the stream holds from some message on.
type sight struct {
	start    uint64 // where looking began: not before the oldest message of the stream
	sequence uint64 // of the first such message; if there is none, where it would be
	stored   int64  // its storage time, 0 if there is none
	pending  uint64 // how many there are
}

// look returns what the stream holds from o on, of all tenants: only then does a
// message of another stream at the same sequence show. Only headers are read.
func (s *Source) look(ctx context.Context, o *origin) (sight, error) {
	return s.lookFor(ctx, o, nil)
}

// lookFor looks only at messages of the given subjects; none: all.
func (s *Source) lookFor(ctx context.Context, o *origin, filters []string) (sight, error) {
	consumer, forget, err := s.peek(ctx, o, filters)
	if err != nil {
		return sight{}, err
	}
	defer forget()
	info := consumer.CachedInfo()
	seen := sight{start: info.Delivered.Stream + 1, sequence: info.Delivered.Stream + 1, pending: info.NumPending}
	if seen.pending == 0 {
		return seen, nil
	}
	batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(lookWait))
	if err != nil {
		return sight{}, err
	}
	for m := range batch.Messages() {
		at, err := m.Metadata()
		if err != nil {
			return sight{}, err
		}
		seen.sequence, seen.stored = at.Sequence.Stream, at.Timestamp.UnixNano()
	}
	if err := batch.Error(); err != nil {
		return seen, err
	}
	if seen.stored == 0 {
		return seen, errors.New("the server does not send a message that it has, or had just now")
	}
	return seen, nil
}

// lookWait bounds the wait for a message that the stream has.
const lookWait = 5 * time.Second

// peek makes a temporary consumer at o. The function removes it.
func (s *Source) peek(ctx context.Context, o *origin, filters []string) (jetstream.Consumer, func(), error) {
	config := jetstream.ConsumerConfig{
		Name: s.c.Name + "-probe-" + nuid.Next(), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, HeadersOnly: true, InactiveThreshold: time.Minute,
	}
	setFilters(&config, filters)
	o.apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return nil, nil, err
	}
	return consumer, func() {
		_ = s.js.DeleteConsumer(ctx, s.c.Stream, config.Name) // if this fails, the server removes it soon
	}, nil
}

// before returns the sequence up to which every message was stored before t, or is gone.
func (s *Source) before(ctx context.Context, t time.Time) (uint64, error) {
	consumer, forget, err := s.peek(ctx, sinceTime(t), nil)
	if err != nil {
		return 0, fmt.Errorf("ask where the stream %s was at %s: %w", s.c.Stream, t.UTC().Format(time.RFC3339), err)
	}
	forget()
	return consumer.CachedInfo().Delivered.Stream, nil
}

// ackFloor returns the sequence up to which the consumer needs no message any more. If
// the server does not say it, the result is the start of the consumer, by time, before
// which it needs none. Before the first acknowledgement servers before 2.14 report 0,
// wherever the consumer started.
func ackFloor(info *jetstream.ConsumerInfo) (uint64, *origin) {
	switch {
	case info.AckFloor.Stream > 0:
		return info.AckFloor.Stream, nil
	case info.Delivered.Consumer == 0:
		return info.Delivered.Stream, nil
	}
	switch info.Config.DeliverPolicy {
	case jetstream.DeliverAllPolicy:
		return 0, nil
	case jetstream.DeliverByStartSequencePolicy:
		return max(info.Config.OptStartSeq, 1) - 1, nil
	case jetstream.DeliverByStartTimePolicy:
		return 0, sinceTime(*info.Config.OptStartTime)
	default: // a start relative to the moment of its creation
		return 0, sinceTime(info.Created)
	}
}
