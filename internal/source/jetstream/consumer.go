package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// info returns the consumer, or nil where there is none.
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

// bounds are the sequences of the stream's first and last message; of an empty
// stream the first is the one after the last.
type bounds struct {
	first, last uint64
	atStart     uint64 // of the first message that Start asks for
}

// unbounded is what is known of a stream that does not tell.
var unbounded = bounds{first: 1, last: math.MaxUint64}

// bounds asks for the ends of the stream. It does so by making consumers, which
// are told where they begin, and removing them: the stream's own state may not
// be asked for. A server that refuses more consumers leaves them unknown.
func (s *Source) bounds(ctx context.Context) (bounds, error) {
	var b bounds
	for _, probe := range []struct {
		place *uint64
		at    *origin
	}{
		{&b.first, &origin{policy: jetstream.DeliverAllPolicy}},
		{&b.last, &origin{policy: jetstream.DeliverNewPolicy}},
		{&b.atStart, s.c.Start.origin()},
	} {
		next, err := s.probe(ctx, probe.at)
		if refused := new(jetstream.APIError); errors.As(err, &refused) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			s.c.Logger.Warn("the server does not tell what the stream holds; missing messages would not be noticed", "error", err)
			return unbounded, nil
		}
		if err != nil {
			return bounds{}, fmt.Errorf("ask what the stream %s holds: %w", s.c.Stream, err)
		}
		*probe.place = next
	}
	b.last--
	return b, nil
}

// probe returns the sequence of the message that a consumer made at o would get
// first.
func (s *Source) probe(ctx context.Context, o *origin) (uint64, error) {
	config := jetstream.ConsumerConfig{
		Name: s.c.Name + "-probe-" + nuid.Next(), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	}
	o.apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return 0, err
	}
	// Where this fails the server removes it soon.
	_ = s.js.DeleteConsumer(ctx, s.c.Stream, config.Name)
	return consumer.CachedInfo().Delivered.Stream + 1, nil
}

// apply makes a consumer of configuration c begin at o.
func (o *origin) apply(c *jetstream.ConsumerConfig) {
	c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = o.policy, o.sequence, o.time
}

// demands sets what every consumer of ours must have, and can be changed.
func (s *Source) demands(c jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	c.MaxDeliver, c.MaxAckPending, c.AckWait, c.BackOff = -1, s.c.MaxAckPending, s.c.tuning.ackWait, nil
	c.InactiveThreshold, c.HeadersOnly, c.PauseUntil = inactiveThreshold, false, nil
	c.FilterSubject, c.FilterSubjects = "", s.c.Filters
	if len(s.c.Filters) == 1 {
		c.FilterSubject, c.FilterSubjects = s.c.Filters[0], nil
	}
	return c
}

// usable reports whether the consumer can become one of ours by an update.
func usable(c *jetstream.ConsumerConfig) bool { return c.AckPolicy == jetstream.AckExplicitPolicy }

// update gives the consumer what it lacks. What a server refuses to change
// stays: deliver policy, start, MaxWaiting.
func (s *Source) update(ctx context.Context, info *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	have, want := info.Config, s.demands(info.Config)
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

// create makes the consumer at o. Of one that it takes the place of, it keeps
// what Open does not decide.
func (s *Source) create(ctx context.Context, former *jetstream.ConsumerInfo, o *origin) (*jetstream.ConsumerInfo, error) {
	config := jetstream.ConsumerConfig{Durable: s.c.Name, Name: s.c.Name, AckPolicy: jetstream.AckExplicitPolicy}
	if former != nil && usable(&former.Config) {
		config = former.Config
	}
	config = s.demands(config)
	o.apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return nil, fmt.Errorf("create the consumer %s: %w", s.c.Name, err)
	}
	return consumer.CachedInfo(), nil
}

// delete removes the consumer. Where to go on is recorded, so that a death
// between this and create loses nothing.
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
