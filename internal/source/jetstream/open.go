package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Config configures a source. The fields Conn, Name, Filters and Logger are required.
type Config struct {
	Conn    *nats.Conn
	Stream  string // default "dbchange"
	Name    string // name of the durable consumer
	Filters []string
	// Plan contains the position at which reading starts. It is derived from the evidence that
	// Observe collects.
	Plan continuity.Plan
	// MaxAckPending is the maximum number of received messages that are not acknowledged yet; the
	// default is 25,000.
	MaxAckPending int
	// Record durably stores how far the consumer was read. Acknowledge calls it before it
	// acknowledges messages, but not more than once per RecordEvery. An idle source calls it from
	// time to time. Calls are never concurrent. If Record is nil and the destination does not
	// store checkpoints, eds treats a consumer that HQ let expire as a first start.
	Record      func(continuity.Record) error
	RecordEvery time.Duration
	// ResetSupport knows the servers that do not answer a consumer reset. Nil means that no such
	// server is known yet.
	ResetSupport *ResetSupport
	// Unverified is called with the reason why eds cannot check that the stream has dropped no
	// unread message, or that it is still the same stream. It is called with "" as soon as eds can
	// check both. The reason replaces Plan.Unverified. Calls are never concurrent. Unverified may
	// be nil.
	Unverified func(reason string)
	Logger     *slog.Logger

	tuning tuning
}

// tuning holds parameters that only tests change.
type tuning struct {
	pullBytes int           // maximum size of a pull; 0 means the default
	ackWait   time.Duration // 0 means the default
	heartbeat time.Duration // 0 means the default
	resetWait time.Duration // 0 means the default
	watch     watchTimes
}

const (
	maxPull           = 4096
	defaultPullBytes  = 8 << 20
	defaultAckPending = 25_000
	inactiveThreshold = 7 * 24 * time.Hour
	ackWait           = time.Minute
	resetWait         = 5 * time.Second // time limit for the answer to a consumer reset
)

// withDefaults returns c with defaults set for missing values, or an error if a required field is
// missing.
func (c Config) withDefaults() (Config, error) {
	if c.Conn == nil || c.Name == "" || len(c.Filters) == 0 || c.Logger == nil {
		return c, fault.Mark(fault.Fatal, errors.New("a stream source needs a connection, a consumer name, filters and a logger"))
	}
	c.Stream = cmp.Or(c.Stream, "dbchange")
	if c.MaxAckPending <= 0 {
		c.MaxAckPending = defaultAckPending
	}
	if c.ResetSupport == nil {
		c.ResetSupport = NewResetSupport("", nil)
	}
	c.tuning.ackWait = cmp.Or(c.tuning.ackWait, ackWait)
	c.tuning.resetWait = cmp.Or(c.tuning.resetWait, resetWait)
	c.tuning.watch = cmp.Or(c.tuning.watch, watchTimes{stalled: 10 * time.Second, every: time.Minute, refused: 10 * time.Minute})
	return c, nil
}

// newSource returns a source that has not sent any request yet.
func newSource(c Config) (*Source, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	return &Source{c: c, js: js}, nil
}

// Observe adds to e the state of the consumer and the stream, as reported by the server. Errors
// are transient.
func Observe(ctx context.Context, c Config, e *continuity.Evidence) error {
	s, err := newSource(c)
	if err != nil {
		return err
	}
	return s.observe(ctx, e)
}

// Before returns the largest sequence that meets this condition: every message up to that sequence
// was stored before t or no longer exists. Errors are transient.
func Before(ctx context.Context, c Config, t time.Time) (uint64, error) {
	s, err := newSource(c)
	if err != nil {
		return 0, err
	}
	return s.before(ctx, t)
}

// Open creates or updates the consumer so that it delivers messages as planned, and returns a
// source for it. Errors are transient unless marked otherwise.
func Open(ctx context.Context, c Config) (*Source, error) {
	s, err := newSource(c)
	if err != nil {
		return nil, err
	}
	s.planned = true
	info, floor, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	s.positionConsumer = s.rewind
	s.limits = limitsOf(info.Config, s.c.tuning)
	s.recorded.Settled, s.began = floor, floor
	s.unacked = newUnacked(floor, s.recorded.Scanned)
	s.watch = newStreamWatch(c.Plan)
	if err := s.store(); err != nil { // replaces any earlier record, even if the plan starts from the beginning
		return nil, err
	}
	s.start(ctx, s.reportProgress, s.watchStream)
	return s, nil
}

// start starts the tasks, which run until Close, and listens for changes of the connection.
func (s *Source) start(ctx context.Context, tasks ...func(context.Context)) {
	s.status = s.c.Conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.stopped = ctx.Done()
	for _, task := range tasks {
		s.tasks.Go(func() { task(ctx) })
	}
}

// MaxAckPending returns the maximum number of received messages that are not acknowledged yet.
func (s *Source) MaxAckPending() int { return s.c.MaxAckPending }

// limitsOf returns the limits for pull requests: the defaults, reduced to the maximums in the
// configuration of the consumer.
func limitsOf(c jetstream.ConsumerConfig, t tuning) pullLimits {
	l := pullLimits{messages: maxPull, bytes: cmp.Or(t.pullBytes, defaultPullBytes), heartbeat: cmp.Or(t.heartbeat, heartbeat)}
	l.expires = 6 * l.heartbeat
	if c.MaxRequestBatch > 0 {
		l.messages = min(l.messages, c.MaxRequestBatch)
	}
	if c.MaxRequestMaxBytes > 0 {
		l.bytes = min(l.bytes, c.MaxRequestMaxBytes)
	}
	if c.MaxRequestExpires > 0 {
		l.expires = min(l.expires, c.MaxRequestExpires)
		l.heartbeat = min(l.heartbeat, l.expires/2)
	}
	return l
}

// begin carries out the plan. It returns the consumer, and the position after which the consumer's
// first message follows.
func (s *Source) begin(ctx context.Context) (info *jetstream.ConsumerInfo, floor cdc.Position, err error) {
	previous, err := s.info(ctx)
	if err != nil {
		return nil, floor, err
	}
	plan := s.c.Plan
	if plan.Start.From == continuity.FromSequence {
		floor.Sequence = plan.Start.Sequence - 1
		if plan.Applied.Sequence == floor.Sequence {
			floor = plan.Applied
		}
		s.recorded = continuity.Record{Settled: floor, Scanned: plan.Reached}
		if previous != nil && compatible(&previous.Config) {
			info, err = s.update(ctx, previous)
			return info, floor, err
		}
	}
	if previous != nil {
		if err := s.delete(ctx); err != nil {
			return nil, floor, err
		}
	}
	switch plan.Start.From {
	case continuity.FromSequence:
		info, err = s.createAfter(ctx, previous, floor)
		return info, floor, err
	case continuity.FromTime:
		info, floor.Sequence, err = s.createSince(ctx, previous, plan.Start.Time)
		return info, floor, err
	case continuity.FromBeginning:
		info, err = s.create(ctx, previous, everything())
	default:
		info, err = s.create(ctx, previous, &consumerStart{policy: jetstream.DeliverNewPolicy})
	}
	if err == nil {
		floor.Sequence = info.Delivered.Stream
	}
	return info, floor, err
}

// consumerStart is the start of a consumer, in the terms of a NATS consumer configuration.
type consumerStart struct {
	policy   jetstream.DeliverPolicy
	sequence uint64
	time     *time.Time
}

func everything() *consumerStart { return &consumerStart{policy: jetstream.DeliverAllPolicy} }

// sinceTime returns a start at the first message that was stored at or after t.
func sinceTime(t time.Time) *consumerStart {
	return &consumerStart{policy: jetstream.DeliverByStartTimePolicy, time: &t}
}

// after returns a start at the first message after the given sequence. It is for temporary
// consumers only.
func after(sequence uint64) *consumerStart {
	return &consumerStart{policy: jetstream.DeliverByStartSequencePolicy, sequence: sequence + 1}
}
