package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// applier makes batches durable, one at a time. One goroutine uses it.
type applier struct {
	p          *Pipeline
	migrator   sink.Migrator // nil if the sink has no tables
	migrated   map[*schema.Table]bool
	poison     map[string]*poisonRate // recent dead letters, by table
	boundaries []uint64               // ends of batches that may be delivered again, ascending
	durable    cdc.Position           // position up to which every change is durable
	withheld   int                    // events of the current batch that the Gate withheld
}

// durableBatch describes a durable batch that the last stage acknowledges: its last position, its
// number of messages, and their memory in bytes.
type durableBatch struct {
	upTo             cdc.Position
	messages, memory int
}

// applyBatches is the fourth stage. It applies the batches, and passes each durable one to the last
// stage.
func (p *Pipeline) applyBatches(ctx context.Context) error {
	defer close(p.applied)
	a := &applier{
		p: p, migrated: make(map[*schema.Table]bool), poison: make(map[string]*poisonRate),
		boundaries: slices.Clone(p.c.BatchBoundaries), durable: p.c.Checkpoint,
	}
	if p.c.KeepsRows {
		a.migrator = p.sink.Migrator
	}
	for {
		b, err := a.next(ctx)
		if b == nil || err != nil {
			return err
		}
		if err := a.apply(ctx, b); err != nil {
			return err
		}
		select {
		case p.applied <- durableBatch{b.change.Last, b.messages, b.memory}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next returns the next batch, or nil after the last one. While it waits, it checks the destination
// every sink.CheckEvery, unless the destination is metered or keeps no records.
func (a *applier) next(ctx context.Context) (*receivedBatch, error) {
	var due <-chan time.Time
	recorder := a.p.sink.Recorder
	if recorder != nil && !a.p.c.Limits.Metered {
		ticker := time.NewTicker(sink.CheckEvery)
		defer ticker.Stop()
		due = ticker.C
	}
	ready := a.p.ready
	for {
		select {
		case ready <- struct{}{}:
			ready = nil
		case b := <-a.p.batches:
			return b, nil
		case <-due:
			err := a.p.retry(ctx, dependencyDestination, func() error { return recorder.Check(ctx) })
			if err != nil {
				return nil, fmt.Errorf("check the destination: %w", err)
			}
		}
	}
}

// apply makes the changes of b durable, and dead-letters the rejected events of b.
func (a *applier) apply(ctx context.Context, b *receivedBatch) error {
	leave, err := a.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if first := b.change.First; first.Sequence > a.durable.Sequence+1 {
		a.durable = cdc.Position{Sequence: first.Sequence - 1, Stored: first.Stored}
	}
	a.withheld = 0
	for _, it := range b.rejects {
		if err := a.reject(ctx, it, it.stage, it.poison); err != nil {
			return err
		}
	}
	if err := a.deny(ctx, b); err != nil {
		return err
	}
	switch {
	case len(b.events) > 0:
		if err := a.recordBoundary(ctx, b.change.Last.Sequence); err != nil {
			return err
		}
		if err := a.applyEvents(ctx, b.events, b.change); err != nil {
			return err
		}
	case a.p.sink.Checkpointer != nil:
		// Acknowledgement must not overtake the stored checkpoint.
		if err := a.deliver(ctx, b.change); err != nil {
			return err
		}
	}
	b.skip(skipBehind, a.withheld)
	a.p.status.batchDone(b, a.p.c.Dead.Count(a.p.c.Destination))
	return nil
}

// applyEvents makes the given events durable. The batch c was built from these events. If one of
// the events is poison, applyEvents bisects the batch until it has found that event, and applies
// all other events in stream order.
func (a *applier) applyEvents(ctx context.Context, events []*item, c *change.Batch) error {
	events, c = a.withhold(events, c)
	if len(events) == 0 {
		return a.advanceCheckpoint(ctx, c.Last)
	}
	if err := a.supersede(ctx, events); err != nil {
		return err
	}
	if err := a.migrate(ctx, c.Sets); err != nil {
		return err
	}
	if events, c = a.withhold(events, c); len(events) == 0 {
		return a.advanceCheckpoint(ctx, c.Last)
	}
	began := time.Now()
	err := a.deliver(ctx, c)
	switch {
	case err == nil:
		a.countApplied(events)
		a.p.status.applied(events, c, time.Since(began))
		return nil
	case a.failTables(err):
		return a.applyEvents(ctx, events, c)
	case fault.Of(err) != fault.Poison:
		return err
	case len(events) == 1:
		if err := a.reject(ctx, events[0], stageApply, err); err != nil {
			return err
		}
		return a.deleteOldRow(ctx, events[0], c.Last)
	}
	half := len(events) / 2
	first, second := build(events[:half]), build(events[half:])
	second.Last = c.Last
	if err := a.applyEvents(ctx, events[:half], first); err != nil {
		return err
	}
	return a.applyEvents(ctx, events[half:], second)
}

// build returns a batch of the events. All events must come from one earlier batch.
func build(events []*item) *change.Batch {
	var b change.Builder
	for _, it := range events {
		b.Add(it.event, it.effect)
	}
	return b.Batch()
}

// advanceCheckpoint moves the stored checkpoint to the given position without applying a change, if
// the sink stores checkpoints. It is called after dead letters and withheld events.
func (a *applier) advanceCheckpoint(ctx context.Context, through cdc.Position) error {
	if a.p.sink.Checkpointer == nil {
		return nil
	}
	return a.deliver(ctx, &change.Batch{First: through, Last: through})
}

// deliver passes c to the sink, and retries until c is durable. The error is poison, fatal, or the
// cause of ctx.
func (a *applier) deliver(ctx context.Context, c *change.Batch) error {
	err := a.p.retry(ctx, dependencyDestination, func() error { return a.p.attempt(ctx, c) })
	switch {
	case err == nil:
		a.durable = a.durable.Advance(c.Last)
		return nil
	case fault.Of(err) == fault.Poison && len(c.Events) > 0:
		return err
	case fault.Of(err) == fault.Poison: // there is no event to dead-letter
		err = fault.Mark(fault.Fatal, err)
	}
	return fmt.Errorf("apply changes: %w", err)
}

// attempt makes one attempt to apply c in the sink. A panic of the sink counts as poison, so that
// one event cannot crash the program repeatedly.
func (p *Pipeline) attempt(ctx context.Context, c *change.Batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			p.c.Logger.Error("a batch made the destination's driver panic", "first", c.First.Sequence, "last", c.Last.Sequence,
				"panic", panicText(r), "stack", string(debug.Stack()))
			err = fault.Mark(fault.Poison, errors.New("the destination's driver panicked: "+panicText(r)))
		}
	}()
	return p.c.Sink.Apply(ctx, c)
}

// migrate adapts the destination to the layouts of the sets' tables. If there is a Gate and the
// destination refuses a table, only that table fails. Any error that migrate returns is fatal.
func (a *applier) migrate(ctx context.Context, sets []*change.RowSet) error {
	if a.migrator == nil {
		return nil
	}
	var tables []*schema.Table
	for _, s := range sets {
		if !a.migrated[s.Table] {
			tables = append(tables, s.Table)
		}
	}
	if len(tables) == 0 {
		return nil
	}
	refused, err := sink.MigrateTables(tables, func(tables []*schema.Table) error { return a.migrateTables(ctx, tables) },
		func(err error) bool {
			return ctx.Err() != nil || a.p.c.Gate == nil || concernsAllTables(err)
		})
	for _, t := range tables {
		if err := refused[t]; err != nil && !a.failTables(err) {
			a.p.c.Gate.Fail(t.Name, a.durable, sink.CauseRefused, err)
		}
	}
	if err != nil {
		// A single event does not cause a failed migration, so the error is never poison.
		return fault.Mark(fault.Fatal, fmt.Errorf("migrate the destination's tables: %w", err))
	}
	return nil
}

func (a *applier) migrateTables(ctx context.Context, tables []*schema.Table) error {
	var migrations []string
	err := a.p.retry(ctx, dependencyDestination, func() (err error) {
		migrations, err = a.migrator.Migrate(ctx, tables)
		a.p.status.migrated(migrations)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range tables {
		a.migrated[t] = true
	}
	return nil
}
