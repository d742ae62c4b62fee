// Package pipeline carries changes from a source to a sink: it decodes, compacts, migrates, applies
// and acknowledges them. No other package depends on the order of these steps.
//
// Five stages run concurrently: one receiver, several decoders, one batcher, one applier, and the
// acknowledgement. The channels between the stages keep the order of the stream. While one batch is
// applied, the next batch is received, decoded and compacted. The number and the bytes of
// unacknowledged messages are bounded. At the bound, the receiver waits.
//
// A message is acknowledged after its changes and all earlier changes have become durable, either
// at the destination or in the dead-letter queue. If the sink stores checkpoints, messages are
// acknowledged only up to the stored checkpoint.
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

// Sink applies batches, with the contract of sink.Sink. If it also implements sink.Checkpointer,
// sink.Recorder or sink.Migrator, the pipeline uses these interfaces.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
}

// Config configures a pipeline. Source, Sink, Dead, Metrics and Logger are required. Tables is
// required if KeepsRows is set. For all other fields, zero selects the documented default.
type Config struct {
	Source Source
	Sink   Sink
	// KeepsRows is the property of the sink's driver. If false, events are not split into columns,
	// and no schema is needed. Limits are the sink's own limits if the sink has any, else the
	// limits of its driver.
	KeepsRows bool
	Limits    sink.Limits
	Tables    Tables
	// SnapshotClock returns the time of the table's snapshot in the destination, or false if there
	// is none. Changes up to and including this time are skipped. SnapshotClock is called
	// concurrently.
	SnapshotClock func(table string) (cdc.Timestamp, bool)
	// Checkpoint is the position that the destination had stored when it was opened. Messages up to
	// and including this position are skipped.
	Checkpoint cdc.Position
	// BatchBoundaries is the list that was last passed to RecordBatchBoundaries, in this run or an
	// earlier one. It has the sequences of the messages that ended batches, in ascending order. A
	// batch that is delivered again ends at the same message.
	BatchBoundaries []uint64
	// RecordBatchBoundaries stores BatchBoundaries durably. It is called before a batch is applied.
	// Calls are never concurrent. If nil, messages that are delivered again may form different
	// batches.
	RecordBatchBoundaries func(ends []uint64) error
	Rules                 Rules // nil for no rules
	// Gate decides which tables' changes are applied. If nil, all changes are applied, and a table
	// that fails stops the pipeline.
	Gate Gate
	// Unknown remembers the columns that schemas lack, across runs. If nil, the pipeline remembers
	// them for this run only.
	Unknown *UnknownColumns
	Dead    *dlq.Queue
	// Destination identifies the destination in dead letters.
	Destination string
	Metrics     *Metrics
	Logger      *slog.Logger

	MaxRows  int // events per batch; default: Limits.Rows
	MaxBytes int // payload bytes per batch; default: Limits.Bytes, at most DefaultMaxBytes
	// A batch waits at least MinLatency and at most MaxLatency for more changes. If both are 0,
	// MinLatency defaults to Limits.Age. MaxLatency defaults to DefaultMaxLatency or MinLatency,
	// whichever is greater.
	MinLatency time.Duration
	MaxLatency time.Duration

	MaxInFlight int     // messages received and not acknowledged; default DefaultMaxInFlight
	Budget      *Budget // of the messages' memory; default: a separate one of DefaultBudget
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

// ErrAbandoned is returned by a run that was stopped hard while messages were in flight. These
// messages will be delivered again.
var ErrAbandoned = errors.New("stopped before all received messages were applied; they will be received again")

// Pipeline carries changes from a source to a sink, for one run.
type Pipeline struct {
	c    Config
	sink sink.Capabilities // capabilities of c.Sink

	inFlight     *inFlight
	status       *statusTracker
	began        atomic.Bool
	acknowledged atomic.Uint64       // sequence up to which all messages are acknowledged
	decode       chan *messageChunk  // receiver -> decoders
	ordered      chan *messageChunk  // receiver -> batcher: the same chunks, in stream order
	ready        chan struct{}       // applier -> batcher: the applier is idle
	batches      chan *receivedBatch // batcher -> applier
	applied      chan durableBatch   // applier -> last stage
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
		batches:  make(chan *receivedBatch),
		applied:  make(chan durableBatch, 4),
	}
	c.Metrics.SetDeadLetters(c.Dead.Count(c.Destination))
	return p, nil
}

// Run carries changes until the context soft ends. It then receives no more messages, applies and
// acknowledges all received ones, and returns nil. If the context hard ends, Run stops at once, and
// returns ErrAbandoned if messages were in flight. These messages are not lost, because
// unacknowledged messages are delivered again. Any other error is fatal; messages received before
// the error have been applied if possible. Run may be called only once.
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
