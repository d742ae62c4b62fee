// Package pipeline carries changes from a source to a sink: it decodes,
// compacts, migrates, applies, and acknowledges, and is the only place that
// knows in which order.
//
// Five stages run concurrently, joined by channels that keep stream order: one
// receiver, several decoders, one batcher, one applier, one settler. While one
// batch is applied the next is received, decoded and compacted. What has been
// received and not yet acknowledged is bounded by count and by bytes; the
// receiver waits for room.
//
// A message is acknowledged once all that it and its predecessors ask for is
// durable: at the destination, or in the dead-letter queue. With a sink that
// stores checkpoints, acknowledgement follows the stored checkpoint.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Sink is what a pipeline applies batches to, as sink.Sink describes it. A sink that is a
// sink.Checkpointer, sink.Recorder or sink.Migrator as well is used as one.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
}

// Config is what a pipeline is made of. Source, Sink, Dead, Metrics and Logger
// are required, and Tables where KeepsRows is set; other zero fields mean the
// documented default.
type Config struct {
	Source Source
	Sink   Sink
	// KeepsRows and Limits are those of the sink's driver, or Limits the sink's own. Without KeepsRows
	// events are not split into columns, and no schema is needed.
	KeepsRows bool
	Limits    sink.Limits
	Tables    Tables
	// SnapshotClock returns the time of the snapshot that the destination holds
	// of a table, or false. Changes up to and including it are skipped. It is
	// called concurrently.
	SnapshotClock func(table string) (cdc.Timestamp, bool)
	// Checkpoint is the position that the destination had stored when it was
	// opened. Messages that it covers are skipped.
	Checkpoint cdc.Position
	// Ends are what RecordEnds was given last, in this run or an earlier one: the
	// sequences of messages that ended batches, ascending. A batch that comes again
	// ends where it did.
	Ends []uint64
	// RecordEnds stores, durably, what Ends is to be. It is called before a batch is
	// applied, not concurrently. Nil: nobody minds how batches are cut.
	RecordEnds func(ends []uint64) error
	Rules      Rules // nil: none
	// Gate says of which tables changes are applied; nil: of all. A table that fails then
	// stops the pipeline.
	Gate Gate
	// Unknown remembers the columns that schemas lack, over all runs; nil: of this one.
	Unknown *UnknownColumns
	Dead    *dlq.Queue
	// Destination is the identity by which dead letters know the destination.
	Destination string
	Metrics     *Metrics
	Logger      *slog.Logger

	MaxRows  int // events a batch; default: Limits.Rows
	MaxBytes int // payload bytes a batch; default: Limits.Bytes, at most DefaultMaxBytes
	// A batch waits at least MinLatency for more, and at most MaxLatency. Where
	// both are 0 they are Limits.Age; MaxLatency is DefaultMaxLatency then.
	MinLatency time.Duration
	MaxLatency time.Duration

	MaxInFlight int     // messages received and not acknowledged; default DefaultMaxInFlight
	Budget      *Budget // of their memory; default: DefaultBudget, which no other pipeline shares
	Decoders    int     // default: one a processor, at most 4
}

// Defaults of Config.
const (
	DefaultMaxBytes    = 16 << 20
	DefaultMaxRows     = 10_000
	DefaultMaxLatency  = 500 * time.Millisecond
	DefaultMaxInFlight = 25_000
)

func (c *Config) complete() error {
	switch {
	case c.Source == nil, c.Sink == nil, c.Dead == nil, c.Metrics == nil, c.Logger == nil:
		return errors.New("a pipeline needs a source, a sink, a dead-letter queue, metrics and a logger")
	case c.KeepsRows && c.Tables == nil:
		return errors.New("a pipeline whose sink keeps rows needs their tables")
	case c.MinLatency < 0 || c.MaxLatency < 0 || c.MaxLatency > 0 && c.MaxLatency < c.MinLatency:
		return fmt.Errorf("a batch can not wait at least %v and at most %v", c.MinLatency, c.MaxLatency)
	}
	defaults := func(field *int, values ...int) {
		for _, v := range values {
			if *field <= 0 {
				*field = v
			}
		}
	}
	defaults(&c.MaxInFlight, DefaultMaxInFlight)
	defaults(&c.MaxRows, c.Limits.Rows, DefaultMaxRows)
	if c.MaxBytes <= 0 && c.Limits.Bytes > 0 {
		c.MaxBytes = min(c.Limits.Bytes, DefaultMaxBytes)
	}
	defaults(&c.MaxBytes, DefaultMaxBytes)
	if c.Budget == nil {
		c.Budget = NewBudget(DefaultBudget)
	}
	defaults(&c.Decoders, min(runtime.GOMAXPROCS(0), 4))
	if c.MinLatency == 0 && c.MaxLatency == 0 {
		c.MinLatency = c.Limits.Age
	}
	if c.MaxLatency == 0 {
		c.MaxLatency = max(DefaultMaxLatency, c.MinLatency)
	}
	// One batch is applied while the next is formed: two must fit.
	c.MaxRows = max(1, min(c.MaxRows, c.MaxInFlight/2))
	if c.Unknown == nil {
		c.Unknown = new(UnknownColumns)
	}
	if c.SnapshotClock == nil {
		c.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{}, false }
	}
	return nil
}

// ErrAbandoned says that a run was ended by force: what it held comes again.
var ErrAbandoned = errors.New("stopped before everything that was received had been applied; it will be received again")

// Pipeline is one run of changes from a source to a sink.
type Pipeline struct {
	c    Config
	sink sink.Capabilities // of c.Sink

	flow    *flow
	status  *tracker
	began   atomic.Bool
	settled atomic.Uint64  // sequence up to which messages are acknowledged
	forget  atomic.Bool    // the applier is to look at all tables again
	decode  chan *chunk    // receiver -> decoders
	ordered chan *chunk    // receiver -> batcher: the same chunks, in order
	ready   chan struct{}  // applier -> batcher: it is idle
	batches chan *batch    // batcher -> applier
	applied chan delivered // applier -> settler
}

// New returns a pipeline that has not begun.
func New(c Config) (*Pipeline, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	p := &Pipeline{
		c: c, sink: sink.CapabilitiesOf(c.Sink),
		flow:    newFlow(c.MaxInFlight, c.Budget),
		status:  newTracker(c.Logger, c.Metrics),
		decode:  make(chan *chunk, c.Decoders),
		ordered: make(chan *chunk, 2*c.Decoders),
		ready:   make(chan struct{}),
		batches: make(chan *batch),
		applied: make(chan delivered, 4),
	}
	c.Metrics.CountLetters(c.Dead.Count(c.Destination))
	return p, nil
}

// Run carries changes until soft ends; then it takes in no more, applies and
// acknowledges what it holds, and returns nil. Where hard ends it stops at
// once, with ErrAbandoned if it held anything: nothing is lost, for what was
// not acknowledged comes again. Any other error is fatal, and what was received
// before it has been applied where that was possible. Run is called once.
func (p *Pipeline) Run(soft, hard context.Context) error {
	if p.began.Swap(true) {
		return errors.New("the pipeline has run already")
	}
	p.c.Metrics.running.Store(p)
	defer p.c.Metrics.running.Store(nil)
	// intake ends when there is nothing more to take in: by the caller's wish,
	// or because a stage has failed.
	intake, endIntake := context.WithCancel(soft)
	defer endIntake()
	g, ctx := errgroup.WithContext(hard)
	stop := context.AfterFunc(ctx, endIntake)
	defer stop()
	defer context.AfterFunc(soft, p.status.stopping)()

	var failed intakeFailure
	g.Go(func() error { return p.receive(ctx, intake, &failed) })
	for range p.c.Decoders {
		g.Go(func() error { return p.decodeChunks(ctx, intake, &failed) })
	}
	g.Go(func() error { return p.formBatches(ctx, endIntake) })
	g.Go(func() error { return p.applyBatches(ctx) })
	g.Go(func() error { return p.settle(hard) })
	err := g.Wait()
	held := p.flow.end()
	p.status.ended(held)
	switch {
	case hard.Err() != nil && held > 0:
		return ErrAbandoned
	case hard.Err() != nil:
		return nil
	case err != nil:
		return err
	default:
		return failed.err()
	}
}
