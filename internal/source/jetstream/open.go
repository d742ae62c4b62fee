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

// Config says what to read, and from where. Conn, Name, Filters and Logger are
// required.
type Config struct {
	Conn    *nats.Conn
	Stream  string // default "dbchange"
	Name    string // of the durable consumer
	Filters []string
	// Plan says where reading begins. It follows from what Observe has seen.
	Plan continuity.Plan
	// MaxAckPending bounds the messages received and not settled; default 25,000.
	MaxAckPending int
	// Record stores, durably, how far the consumer was read. Acknowledge calls it before
	// it acknowledges messages, at most once in RecordEvery, and an idle source now
	// and then; not concurrently. If it is nil, a consumer that HQ let expire looks
	// like a first start, unless the destination stores checkpoints.
	Record      func(continuity.Record) error
	RecordEvery time.Duration
	// Silence knows the servers that do not answer a consumer reset; nil begins with none.
	Silence *Silence
	// Unverified is told why eds cannot check that the stream has dropped no message
	// before it was received, or is still the same one; "" once it can. It replaces
	// Plan.Unverified. It is not called concurrently; nil is told nothing.
	Unverified func(reason string)
	Logger     *slog.Logger

	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	pullBytes int           // at most, a pull; 0: the default
	ackWait   time.Duration // 0: the default
	heartbeat time.Duration // likewise
	resetWait time.Duration // likewise
	watch     watchTimes
}

const (
	maxPull           = 4096
	defaultPullBytes  = 8 << 20
	defaultAckPending = 25_000
	inactiveThreshold = 7 * 24 * time.Hour
	ackWait           = time.Minute
	resetWait         = 5 * time.Second // for the answer to a consumer reset
)

// complete returns c with the defaults in place of what is missing.
func (c Config) complete() (Config, error) {
	if c.Conn == nil || c.Name == "" || len(c.Filters) == 0 || c.Logger == nil {
		return c, fault.Mark(fault.Fatal, errors.New("a stream source needs a connection, a consumer name, filters and a logger"))
	}
	c.Stream = cmp.Or(c.Stream, "dbchange")
	if c.MaxAckPending <= 0 {
		c.MaxAckPending = defaultAckPending
	}
	if c.Silence == nil {
		c.Silence = NewSilence("", nil)
	}
	c.tuning.ackWait = cmp.Or(c.tuning.ackWait, ackWait)
	c.tuning.resetWait = cmp.Or(c.tuning.resetWait, resetWait)
	c.tuning.watch = cmp.Or(c.tuning.watch, watchTimes{stalled: 10 * time.Second, every: time.Minute, refused: 10 * time.Minute})
	return c, nil
}

// newSource returns a source that has not asked the server anything.
func newSource(c Config) (*Source, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	return &Source{c: c, js: js}, nil
}

// Observe adds to e what the server says about the consumer and the stream. Its
// errors are transient.
func Observe(ctx context.Context, c Config, e *continuity.Evidence) error {
	s, err := newSource(c)
	if err != nil {
		return err
	}
	return s.observe(ctx, e)
}

// Before returns the sequence up to which every message was stored before t, or is gone.
// Errors are transient.
func Before(ctx context.Context, c Config, t time.Time) (uint64, error) {
	s, err := newSource(c)
	if err != nil {
		return 0, err
	}
	return s.before(ctx, t)
}

// Open makes the consumer deliver what the plan says. Errors are transient unless
// marked.
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
	s.place = s.rewind
	s.limits = limitsOf(info.Config, s.c.tuning)
	s.recorded.Settled, s.began = floor, floor
	s.ledger = newLedger(floor, s.recorded.Scanned)
	s.watch = newWatch(c.Plan)
	if err := s.store(); err != nil { // it replaces an earlier one, even if this is the beginning
		return nil, err
	}
	s.start(ctx, s.keepAlive, s.watchStream)
	return s, nil
}

// start runs tasks until Close, and listens to changes of the connection.
func (s *Source) start(ctx context.Context, tasks ...func(context.Context)) {
	s.status = s.c.Conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.stopped = ctx.Done()
	for _, task := range tasks {
		s.keeping.Go(func() { task(ctx) })
	}
}

// MaxAckPending returns how many messages may be received and not settled.
func (s *Source) MaxAckPending() int { return s.c.MaxAckPending }

// limitsOf returns the pull that the consumer admits.
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

// begin carries out the plan. It returns the consumer, and the position after
// which the first message comes.
func (s *Source) begin(ctx context.Context) (info *jetstream.ConsumerInfo, floor cdc.Position, err error) {
	former, err := s.info(ctx)
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
		if former != nil && usable(&former.Config) {
			info, err = s.update(ctx, former)
			return info, floor, err
		}
	}
	if former != nil {
		if err := s.delete(ctx); err != nil {
			return nil, floor, err
		}
	}
	switch plan.Start.From {
	case continuity.FromSequence:
		info, err = s.createAfter(ctx, former, floor)
		return info, floor, err
	case continuity.FromTime:
		info, floor.Sequence, err = s.createSince(ctx, former, plan.Start.Time)
		return info, floor, err
	case continuity.FromBeginning:
		info, err = s.create(ctx, former, everything())
	default:
		info, err = s.create(ctx, former, &origin{policy: jetstream.DeliverNewPolicy})
	}
	if err == nil {
		floor.Sequence = info.Delivered.Stream
	}
	return info, floor, err
}

// origin is a start in the server's terms.
type origin struct {
	policy   jetstream.DeliverPolicy
	sequence uint64
	time     *time.Time
}

func everything() *origin { return &origin{policy: jetstream.DeliverAllPolicy} }

// sinceTime is the start with the first message stored at or after t.
func sinceTime(t time.Time) *origin {
	return &origin{policy: jetstream.DeliverByStartTimePolicy, time: &t}
}

// after is the start with the first message after sequence. It is for temporary
// consumers.
func after(sequence uint64) *origin {
	return &origin{policy: jetstream.DeliverByStartSequencePolicy, sequence: sequence + 1}
}
