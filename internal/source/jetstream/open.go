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
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Config says what to read, and from where. Conn, Name, Filters and Logger are
// required.
type Config struct {
	Conn    *nats.Conn
	Stream  string // default "dbchange"
	Name    string // of the durable consumer
	Filters []string
	// Start says where a consumer begins that has not existed before.
	Start Start
	// Recorded is what Record was given last, in this run or an earlier one.
	Recorded Recorded
	// Checkpoint is the position that the destination has stored, zero where it
	// stores none. It wins over Recorded: where the destination has been put
	// back to an older state, reading begins there.
	Checkpoint cdc.Position
	// Accept goes on with what the stream has where some of it is missing.
	Accept bool
	// MaxAckPending bounds the messages received and not settled; default 25,000.
	MaxAckPending int
	// Record stores, durably, how far the consumer was read. It is called by
	// Settle before messages are acknowledged, at most once in RecordEvery, and
	// now and then while nothing comes; not concurrently. Nil means that a
	// subscription that HQ let expire can't be told from a first start, unless
	// the destination stores checkpoints.
	Record      func(Recorded) error
	RecordEvery time.Duration
	Logger      *slog.Logger

	tuning tuning
}

// tuning is what only tests change.
type tuning struct {
	pullBytes int           // at most, a pull; 0: the default
	noReset   bool          // as with a server that can't reset consumers
	ackWait   time.Duration // 0: the default
	heartbeat time.Duration // likewise
}

// Recorded is how far a consumer was read.
type Recorded struct {
	Settled cdc.Position // of the last message settled
	Scanned uint64       // sequence up to which nothing else was for this consumer
}

// Origin is a place in the stream to begin at.
type Origin uint8

const (
	FromNow       Origin = iota // what comes from now on
	FromTime                    // what was stored since Start.Time
	FromBeginning               // all that the stream has
)

// Start says where reading begins.
type Start struct {
	From Origin
	Time time.Time
	// Anew begins there also where the consumer exists: what it has
	// acknowledged so far counts for nothing.
	Anew bool
}

// GapError says that the stream no longer has all that follows what the
// destination holds. Only a new import makes it whole.
type GapError struct {
	// After is the sequence of the last message that is known to be applied; 0
	// where the destination holds a snapshot only.
	After uint64
	// First is the sequence of the oldest message that the stream has.
	First uint64
	// Since is the time of After's message or of the snapshot; zero where it is
	// not known.
	Since time.Time
	// Remade is true where the stream was made anew, so that sequences can't be
	// compared.
	Remade bool
}

func (e *GapError) Error() string {
	since := ""
	if !e.Since.IsZero() {
		since = " since " + e.Since.UTC().Format(time.RFC3339)
	}
	switch {
	case e.Remade:
		return fmt.Sprintf("the stream was made anew after message %d; changes%s may be missing: import again", e.After, since)
	case e.After == 0:
		return fmt.Sprintf("the stream begins at message %d, after the snapshot; changes%s are missing: import again", e.First, since)
	default:
		return fmt.Sprintf("the stream no longer has messages %d to %d; changes%s are missing: import again", e.After+1, e.First-1, since)
	}
}

const (
	maxPull           = 4096
	defaultPullBytes  = 8 << 20
	defaultAckPending = 25_000
	inactiveThreshold = 7 * 24 * time.Hour
	ackWait           = time.Minute
)

// Open finds the consumer or makes it, and decides where reading begins.
// Errors are transient unless marked; a *GapError is fatal.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Conn == nil || c.Name == "" || len(c.Filters) == 0 || c.Logger == nil {
		return nil, fault.Mark(fault.Fatal, errors.New("a stream source needs a connection, a consumer name, filters and a logger"))
	}
	if c.Stream == "" {
		c.Stream = "dbchange"
	}
	if c.MaxAckPending <= 0 {
		c.MaxAckPending = defaultAckPending
	}
	c.tuning.ackWait = cmp.Or(c.tuning.ackWait, ackWait)
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	s := &Source{c: c, js: js, closing: make(chan struct{}), recorded: c.Recorded}
	info, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	s.limits = limitsOf(info.Config, c.tuning)
	// Acknowledgements may have been lost that were given.
	floor := cdc.Position{Sequence: max(info.AckFloor.Stream, s.recorded.Settled.Sequence), Stored: s.recorded.Settled.Stored}
	s.ledger = newLedger(floor)
	s.reached = max(floor.Sequence, s.reached)
	s.lastPull = time.Now()
	if err := s.recordSettled(floor); err != nil {
		return nil, err
	}
	s.status = c.Conn.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	s.keeping.Add(1)
	go s.keepAlive()
	return s, nil
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

// begin carries out what decide says.
func (s *Source) begin(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := s.info(ctx)
	if err != nil {
		return nil, err
	}
	b, err := s.bounds(ctx)
	if err != nil {
		return nil, err
	}
	d := s.c.decide(info, b)
	if d.gap != nil && !s.c.Accept {
		return nil, fault.Mark(fault.Fatal, d.gap)
	}
	if d.gap != nil {
		s.c.Logger.Warn("going on over a gap", "error", d.gap)
	}
	if d.note != "" {
		s.c.Logger.Warn(d.note)
	}
	if d.make == nil && usable(&info.Config) {
		s.reached = d.reached
		return s.update(ctx, info)
	}
	if d.make == nil { // of another acknowledgement policy, which can't be changed
		d.make = &origin{policy: jetstream.DeliverByStartSequencePolicy, sequence: info.AckFloor.Stream + 1}
	}
	if info != nil {
		if err := s.delete(ctx); err != nil {
			return nil, err
		}
	}
	// What was recorded is of another subscription now.
	s.recorded = Recorded{}
	if !s.c.Start.Anew {
		s.recorded.Settled.Stored = cmp.Or(s.c.Checkpoint.Stored, s.c.Recorded.Settled.Stored)
	}
	return s.create(ctx, info, d.make)
}

// origin is a start in the server's terms.
type origin struct {
	policy   jetstream.DeliverPolicy
	sequence uint64
	time     *time.Time
}

// decision is what Open does.
type decision struct {
	make    *origin // the consumer to make in place of what there is; nil: keep it
	reached uint64  // up to where nothing can be missing
	gap     *GapError
	note    string
}

// decide says where reading begins, given the consumer, or nil, and the stream.
func (c *Config) decide(info *jetstream.ConsumerInfo, b bounds) decision {
	settled, checkpoint := c.Recorded.Settled.Sequence, c.Checkpoint.Sequence
	putBack := checkpoint > 0 && settled > checkpoint
	resume, since := max(settled, c.Recorded.Scanned), c.Recorded.Settled.Stored
	if checkpoint > 0 {
		since = c.Checkpoint.Stored
		if putBack || resume < checkpoint {
			resume = checkpoint
		}
	}
	missing := func() *GapError {
		if b.first <= resume+1 {
			return nil
		}
		return &GapError{After: resume, First: b.first, Since: when(since)}
	}
	after := &origin{policy: jetstream.DeliverByStartSequencePolicy, sequence: resume + 1}
	switch {
	case c.Start.Anew, info == nil && resume == 0:
		return c.fromStart(b)
	case resume > 0 && b.last < resume:
		return decision{make: &origin{policy: jetstream.DeliverAllPolicy}, gap: &GapError{After: resume, First: b.first, Since: when(since), Remade: true}}
	case info == nil:
		return decision{make: after, gap: missing(), note: fmt.Sprintf("the subscription was lost; it is made again after message %d", resume)}
	case putBack:
		return decision{make: after, gap: missing(), note: fmt.Sprintf("the destination is at message %d, though message %d had been applied; reading again from there", resume, settled)}
	case c.Recorded == Recorded{} && checkpoint > 0:
		// Nobody remembers what the consumer has seen beyond the checkpoint: it
		// may have been other subscribers' messages.
		d := decision{reached: max(b.first-1, checkpoint)}
		if info.AckFloor.Stream > checkpoint {
			d.make = after
			d.note = fmt.Sprintf("the consumer is ahead of the destination's checkpoint, message %d; reading again from there", checkpoint)
		}
		return d
	case resume > 0:
		return decision{reached: resume, gap: missing()}
	default:
		return decision{reached: b.first - 1}
	}
}

func when(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// origin returns where s begins.
func (s *Start) origin() *origin {
	switch s.From {
	case FromTime:
		return &origin{policy: jetstream.DeliverByStartTimePolicy, time: &s.Time}
	case FromBeginning:
		return &origin{policy: jetstream.DeliverAllPolicy}
	default:
		return &origin{policy: jetstream.DeliverNewPolicy}
	}
}

// fromStart begins where Start says.
func (c *Config) fromStart(b bounds) decision {
	d := decision{make: c.Start.origin()}
	switch {
	case c.Start.From == FromNow:
		d.note = "there is no snapshot to go on from: reading what comes from now on"
	case c.Start.From == FromTime && b.atStart == b.first && b.first > 1 && b.last >= b.first:
		// The oldest message that is left came after the snapshot, and was not
		// the first one ever.
		d.gap = &GapError{First: b.first, Since: c.Start.Time}
	}
	return d
}
