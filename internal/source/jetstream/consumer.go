package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
)

// apply changes c, a consumer configuration, so that the consumer starts at o.
func (o *consumerStart) apply(c *jetstream.ConsumerConfig) {
	c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = o.policy, o.sequence, o.time
}

// required returns c with the properties that every consumer of eds needs and that an update can
// change.
func (s *Source) required(c jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	c.MaxDeliver, c.MaxAckPending, c.AckWait, c.BackOff = -1, s.c.MaxAckPending, s.c.tuning.ackWait, nil
	c.InactiveThreshold, c.HeadersOnly, c.PauseUntil = inactiveThreshold, false, nil
	setFilters(&c, s.c.Filters)
	return c
}

func setFilters(c *jetstream.ConsumerConfig, filters []string) {
	c.FilterSubject, c.FilterSubjects = "", filters
	if len(filters) == 1 {
		c.FilterSubject, c.FilterSubjects = filters[0], nil
	}
}

// compatible reports whether an update can turn the consumer into one that eds and the reference
// server can both use. The reference server can only open a consumer without a start sequence and
// with a MaxWaiting of 1. NATS servers refuse to change either property.
func compatible(c *jetstream.ConsumerConfig) bool {
	return c.AckPolicy == jetstream.AckExplicitPolicy && c.DeliverPolicy != jetstream.DeliverByStartSequencePolicy && c.MaxWaiting == 1
}

// update sets the required properties of the consumer. It keeps the deliver policy, the start and
// MaxWaiting, because servers refuse to change them.
func (s *Source) update(ctx context.Context, info *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	have, want := info.Config, s.required(info.Config)
	if have.MaxDeliver == want.MaxDeliver && have.MaxAckPending == want.MaxAckPending && have.AckWait == want.AckWait &&
		len(have.BackOff) == 0 && have.InactiveThreshold == want.InactiveThreshold && !have.HeadersOnly && have.PauseUntil == nil &&
		have.FilterSubject == want.FilterSubject && slices.Equal(have.FilterSubjects, want.FilterSubjects) {
		return info, nil
	}
	consumer, err := s.js.UpdateConsumer(ctx, s.c.Stream, want)
	if err != nil {
		return nil, fmt.Errorf("update the consumer %s: %w", s.c.Name, err)
	}
	return consumer.CachedInfo(), nil
}

// create creates the consumer, which starts at o. If the consumer replaces a previous one, create
// keeps the properties of the previous consumer that Open does not decide.
func (s *Source) create(ctx context.Context, previous *jetstream.ConsumerInfo, o *consumerStart) (*jetstream.ConsumerInfo, error) {
	config := jetstream.ConsumerConfig{Durable: s.c.Name, Name: s.c.Name, AckPolicy: jetstream.AckExplicitPolicy}
	if previous != nil && previous.Config.AckPolicy == jetstream.AckExplicitPolicy {
		config = previous.Config
	}
	config = s.required(config)
	config.MaxWaiting = 1
	o.apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return nil, fmt.Errorf("create the consumer %s: %w", s.c.Name, err)
	}
	return consumer.CachedInfo(), nil
}

// startMargins lists the margins to try, in this order. A margin is how much earlier than a
// position's storage time a consumer starts. The margin is needed because a stream's leader can
// step its clock, and because old records are rounded up.
var startMargins = []time.Duration{time.Minute, 2 * continuity.ClockMargin}

// createAfter creates a consumer that delivers all messages after p. The consumer may deliver
// earlier messages first; the source acknowledges these messages and does not return them. The
// consumer has no start sequence, because the reference server cannot open a consumer with a start
// sequence.
func (s *Source) createAfter(ctx context.Context, previous *jetstream.ConsumerInfo, p cdc.Position) (*jetstream.ConsumerInfo, error) {
	if server := serverName(s.c.Conn); p.Sequence > 0 && !s.c.ResetSupport.missing(server) {
		if _, err := s.create(ctx, previous, everything()); err != nil {
			return nil, err
		}
		info, err := s.resetTo(ctx, p.Sequence+1)
		if err == nil || ctx.Err() != nil || !s.c.Conn.IsConnected() {
			return info, err
		}
		if errors.Is(err, context.DeadlineExceeded) { // although the server has answered the previous request
			s.rememberMissingReset(server)
		}
		if err := s.delete(ctx); err != nil {
			return nil, err
		}
	}
	margins := startMargins
	stored, known, err := s.storageTime(ctx, p)
	if err != nil {
		return nil, err
	}
	if !known {
		margins = nil
	}
	for _, margin := range margins {
		info, err := s.create(ctx, previous, sinceTime(stored.Add(-margin)))
		if err != nil || info.Delivered.Stream <= p.Sequence {
			return info, err
		}
		if err := s.delete(ctx); err != nil {
			return nil, err
		}
	}
	return s.create(ctx, previous, everything())
}

// storageTime returns the approximate time at which the message at p was stored, and whether that
// time is known. The caller must check that a consumer with that start time does not start after p.
func (s *Source) storageTime(ctx context.Context, p cdc.Position) (stored time.Time, known bool, err error) {
	if p.Sequence == 0 || p.Stored > 0 {
		return time.Unix(0, p.Stored), p.Sequence > 0, nil
	}
	at, err := s.tail(ctx, after(p.Sequence-1))
	if refuses(err) {
		return stored, false, nil
	}
	return time.Unix(0, at.stored), at.stored > 0, err
}

// createSince creates a consumer that delivers all messages stored at or after t, and returns the
// sequence after which the consumer starts. A start time alone is not enough: with several
// filters, nats-server skips messages of one filter up to the first message of another.
func (s *Source) createSince(ctx context.Context, previous *jetstream.ConsumerInfo, t time.Time) (*jetstream.ConsumerInfo, uint64, error) {
	before, err := s.before(ctx, t)
	if refuses(err) { // start from the oldest message, which delivers more than necessary
		info, err := s.create(ctx, previous, everything())
		if err != nil {
			return nil, 0, err
		}
		return info, info.Delivered.Stream, nil
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := s.createAfter(ctx, previous, cdc.Position{Sequence: before, Stored: t.UnixNano()})
	return info, before, err
}

// delete deletes the consumer. It first stores the record, so that a crash before the consumer is
// created again loses nothing.
func (s *Source) delete(ctx context.Context) error {
	if err := s.saveRecord(); err != nil {
		return err
	}
	err := s.js.DeleteConsumer(ctx, s.c.Stream, s.c.Name)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete the consumer %s: %w", s.c.Name, err)
	}
	return nil
}
