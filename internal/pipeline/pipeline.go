// Package pipeline carries changes from a source to a sink: it decodes, compacts, migrates, applies
// and acknowledges them. No other package knows that order.
//
// Five stages run concurrently: one receiver, several decoders, one batcher, one applier, and the
// acknowledgement. The channels between them keep stream order. While one batch is applied, the
// next one is received, decoded and compacted. The number and the bytes of messages that are
// received and not acknowledged are bounded; the receiver waits at the bound.
//
// A message is acknowledged when its changes and all earlier ones are durable: at the destination,
// or in the dead-letter queue. If the sink stores checkpoints, acknowledgement follows the stored
// checkpoint.
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

// Sink applies batches, with the contract of sink.Sink. The pipeline also uses it as a
// sink.Checkpointer, sink.Recorder or sink.Migrator if it is one.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
}

// Config configures a pipeline. Source, Sink, Dead, Metrics and Logger are required, and Tables if
// KeepsRows is set. Other zero fields mean the documented default.
type Config struct {
	Source Source
	Sink   Sink
	// KeepsRows is that of the sink's driver. Without it, events are not split into columns, and no
	// schema is needed. Limits are the driver's or, if the sink has some, the sink's own.
	KeepsRows bool
	Limits    sink.Limits
	Tables    Tables
	// SnapshotClock returns the time of the table's snapshot that the destination holds, or false.
	// Changes up to and including it are skipped. It is called concurrently.
	SnapshotClock func(table string) (cdc.Timestamp, bool)
	// Checkpoint is the position that the destination had stored when it was opened. Messages up to
	// it are skipped.
	Checkpoint cdc.Position
	// BatchBoundaries is the last argument of RecordBatchBoundaries, in this run or an earlier one:
	// the sequences of messages that ended batches, ascending. A batch that comes again ends at the
	// same message.
	BatchBoundaries []uint64
	// RecordBatchBoundaries stores BatchBoundaries durably. It is called before a batch is applied,
	// never concurrently. Nil: batches may be cut differently when they come again.
	RecordBatchBoundaries func(ends []uint64) error
	Rules                 Rules // nil: none
	// Gate decides which tables' changes are applied; nil: all. A table that fails then stops the
	// pipeline.
	Gate Gate
	// Unknown remembers the columns that schemas lack, over all runs; nil: over this run.
	Unknown *UnknownColumns
	Dead    *dlq.Queue
	// Destination identifies the destination in dead letters.
	Destination string
	Metrics     *Metrics
	Logger      *slog.Logger

	MaxRows  int // events per batch; default: Limits.Rows
	MaxBytes int // payload bytes per batch; default: Limits.Bytes, at most DefaultMaxBytes
	// A batch waits at least MinLatency for more changes, and at most MaxLatency. If both are 0,
	// MinLatency defaults to Limits.Age. MaxLatency defaults to the greater one of DefaultMaxLatency
	// and MinLatency.
	MinLatency time.Duration
	MaxLatency time.Duration

	MaxInFlight int     // messages received and not acknowledged; default DefaultMaxInFlight
	Budget      *Budget // of their memory; default: DefaultBudget, which no other pipeline shares
	Decoders    int     // default: one per processor, at most 4
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
		return fmt.Errorf("a batch cannot wait at least %v and at most %v", c.MinLatency, c.MaxLatency)
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
	// One batch is applied while the next one is formed, so two must fit.
	c.MaxRows = max(1, min(c.MaxRows, c.MaxInFlight/2))
	if c.Unknown == nil {
		c.Unknown = new(UnknownColumns)
	}
	if c.SnapshotClock == nil {
		c.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{}, false }
	}
	return nil
}

// ErrAbandoned is returned by a run that was stopped hard while messages were in flight. They come
// again.
var ErrAbandoned = errors.New("stopped before all received messages were applied; they will be received again")

// Pipeline is one run of changes from a source to a sink.
type Pipeline struct {
	c    Config
	sink sink.Capabilities // of c.Sink

	inFlight     *inFlight
	status       *statusTracker
	began        atomic.Bool
	acknowledged atomic.Uint64      // sequence up to which messages are acknowledged
	decode       chan *messageChunk // receiver -> decoders
	ordered      chan *messageChunk // receiver -> batcher: the same chunks, in order
	ready        chan struct{}      // applier -> batcher: the applier is idle
	batches      chan *batch        // batcher -> applier
	applied      chan durableBatch  // applier -> last stage
}

// New returns a pipeline that has not started.
func New(c Config) (*Pipeline, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	p := &Pipeline{
		c: c, sink: sink.CapabilitiesOf(c.Sink),
		inFlight: newInFlight(c.MaxInFlight, c.Budget),
		status:   newStatusTracker(c.Logger, c.Metrics),
		decode:   make(chan *messageChunk, c.Decoders),
		ordered:  make(chan *messageChunk, 2*c.Decoders),
		ready:    make(chan struct{}),
		batches:  make(chan *batch),
		applied:  make(chan durableBatch, 4),
	}
	c.Metrics.SetDeadLetters(c.Dead.Count(c.Destination))
	return p, nil
}

// Run carries changes until soft ends. Then it receives no more, applies and acknowledges all
// received messages, and returns nil. If hard ends, it stops at once, with ErrAbandoned if messages
// were in flight. They are not lost: unacknowledged messages come again. Any other error is fatal;
// messages received before it have been applied if possible. Run is called once.
func (p *Pipeline) Run(soft, hard context.Context) error {
	if p.began.Swap(true) {
		return errors.New("the pipeline has run already")
	}
	p.c.Metrics.running.Store(p)
	defer p.c.Metrics.running.Store(nil)
	// intake ends when the caller stops the pipeline or a stage fails.
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
	g.Go(func() error { return p.acknowledge(hard) })
	err := g.Wait()
	abandoned := p.inFlight.end()
	p.status.ended(abandoned)
	switch {
	case hard.Err() != nil && abandoned > 0:
		return ErrAbandoned
	case hard.Err() != nil:
		return nil
	case err != nil:
		return err
	default:
		return failed.err()
	}
}
