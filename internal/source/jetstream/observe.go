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

// observe adds the state of the consumer and the stream to e. The credential does not allow eds to
// request the stream's own state. Instead, temporary consumers report their start and their number
// of pending messages, and deliver the headers of one message.
func (s *Source) observe(ctx context.Context, e *continuity.Evidence) error {
	info, err := s.info(ctx)
	if err != nil {
		return err
	}
	var start *consumerStart
	if info != nil {
		e.Consumer = &continuity.Consumer{
			Acknowledged: info.AckFloor.Consumer > 0 || info.Delivered.Consumer > uint64(max(info.NumAckPending, 0)),
			Ours:         info.Config.MaxDeliver == -1 && info.Config.InactiveThreshold == inactiveThreshold,
			Created:      info.Created.UnixNano(),
		}
		if e.Consumer.Floor, start = ackFloor(info); start != nil && e.Sequence() > 0 {
			start = nil // not needed, because another position is known
		}
	}
	err = s.observeStream(ctx, e, start)
	if refuses(err) && !s.strict {
		s.c.Logger.Warn("the server refuses to describe the stream; eds would not notice missing messages", "error", err)
		e.Stream = continuity.StreamEvidence{Silent: true}
		return nil
	}
	if err != nil {
		return fmt.Errorf("observe the stream %s: %w", s.c.Stream, err)
	}
	return nil
}

// refuses reports whether err is the server's refusal to describe the stream.
func refuses(err error) bool {
	return errors.As(err, new(*jetstream.APIError)) && !errors.Is(err, jetstream.ErrStreamNotFound)
}

// observeStream adds to e the state of the stream, as reported by up to two temporary consumers. If
// the parameter start is not nil, the server did not report the durable consumer's acknowledgement
// floor. The floor is then derived from a temporary consumer with the given start.
func (s *Source) observeStream(ctx context.Context, e *continuity.Evidence, start *consumerStart) error {
	oldest, err := s.tail(ctx, &consumerStart{policy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	e.Stream = continuity.StreamEvidence{First: oldest.sequence, FirstStored: oldest.stored, Pending: oldest.pending}
	if start != nil {
		return s.observeFloor(ctx, e, start)
	}
	switch sequence := e.Sequence(); {
	case sequence == oldest.sequence:
		e.Stream.Stored = oldest.stored
	case sequence > oldest.sequence:
		at, err := s.tail(ctx, after(sequence-1))
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

// observeFloor adds to e the acknowledgement floor of a consumer that has no acknowledged message.
// The floor is the sequence before the first message of a temporary consumer with the given start.
func (s *Source) observeFloor(ctx context.Context, e *continuity.Evidence, start *consumerStart) error {
	consumer, deleteProbe, err := s.createProbe(ctx, start, nil)
	if err != nil {
		return err
	}
	deleteProbe()
	info := consumer.CachedInfo()
	e.Consumer.Floor = info.Delivered.Stream
	if e.Consumer.Floor < e.Stream.First {
		return nil
	}
	e.Stream.Pending = info.NumPending + 1
	e.Stream.Stored = start.time.UnixNano() - 1 // the latest possible time, because the next message is the first one since start
	return nil
}

// streamTail describes the messages of a stream from a given message to the end.
type streamTail struct {
	start    uint64 // first sequence of the tail; never less than the sequence of the stream's oldest message
	sequence uint64 // sequence of the first message; if there is none, of the next message to be stored
	stored   int64  // storage time of the first message in Unix nanoseconds, or 0 if there is none
	pending  uint64 // number of messages in the tail
}

// tail returns the tail of the stream that starts at o. It covers the messages of all tenants,
// because only then can eds notice that another stream has a different message at the same
// sequence. It reads message headers only.
func (s *Source) tail(ctx context.Context, o *consumerStart) (streamTail, error) {
	return s.filteredTail(ctx, o, nil)
}

// filteredTail is like tail, but covers only messages that match the filters. If there are no
// filters, it covers all messages.
func (s *Source) filteredTail(ctx context.Context, o *consumerStart, filters []string) (streamTail, error) {
	consumer, deleteProbe, err := s.createProbe(ctx, o, filters)
	if err != nil {
		return streamTail{}, err
	}
	defer deleteProbe()
	info := consumer.CachedInfo()
	seen := streamTail{start: info.Delivered.Stream + 1, sequence: info.Delivered.Stream + 1, pending: info.NumPending}
	if seen.pending == 0 {
		return seen, nil
	}
	batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(tailWait))
	if err != nil {
		return streamTail{}, err
	}
	for m := range batch.Messages() {
		at, err := m.Metadata()
		if err != nil {
			return streamTail{}, err
		}
		seen.sequence, seen.stored = at.Sequence.Stream, at.Timestamp.UnixNano()
	}
	if err := batch.Error(); err != nil {
		return seen, err
	}
	if seen.stored == 0 {
		return seen, errors.New("the server does not send a message that it had a moment ago")
	}
	return seen, nil
}

// tailWait is the time limit for receiving a message that the stream has.
const tailWait = 5 * time.Second

// createProbe creates a temporary consumer that starts at o. The caller must call the returned
// function to delete the consumer.
func (s *Source) createProbe(ctx context.Context, o *consumerStart, filters []string) (jetstream.Consumer, func(), error) {
	config := jetstream.ConsumerConfig{
		Name: s.c.Name + "-probe-" + nuid.Next(), AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, HeadersOnly: true, InactiveThreshold: time.Minute,
	}
	setFilters(&config, filters)
	o.apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return nil, nil, err
	}
	return consumer, func() {
		_ = s.js.DeleteConsumer(ctx, s.c.Stream, config.Name) // if this fails, the server soon deletes the inactive consumer
	}, nil
}

// before returns the largest sequence that meets this condition: every message up to that sequence
// was stored before t or no longer exists.
func (s *Source) before(ctx context.Context, t time.Time) (uint64, error) {
	consumer, deleteProbe, err := s.createProbe(ctx, sinceTime(t), nil)
	if err != nil {
		return 0, fmt.Errorf("find the position of the stream %s at %s: %w", s.c.Stream, t.UTC().Format(time.RFC3339), err)
	}
	deleteProbe()
	return consumer.CachedInfo().Delivered.Stream, nil
}

// ackFloor returns the sequence up to which the consumer needs no messages any more. If the server
// does not report that sequence, ackFloor returns the start time of the consumer instead; the
// consumer needs no messages from before that time. Servers before 2.14 report 0 until the first
// acknowledgement, wherever the consumer starts.
func ackFloor(info *jetstream.ConsumerInfo) (uint64, *consumerStart) {
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
	default: // the consumer starts relative to the moment of its creation
		return 0, sinceTime(info.Created)
	}
}
