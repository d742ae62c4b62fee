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

// applier makes batches durable, one after the other. It belongs to one
// goroutine.
type applier struct {
	p        *Pipeline
	migrator sink.Migrator // nil where the sink has no tables
	migrated map[*schema.Table]bool
	poison   poisonRate
	ends     []uint64 // of batches that may come again, ascending
}

// delivered is what the settler acknowledges.
type delivered struct {
	upTo            cdc.Position
	messages, bytes int
}

// applyBatches is the fourth stage.
func (p *Pipeline) applyBatches(ctx context.Context) error {
	defer close(p.applied)
	a := &applier{p: p, migrated: make(map[*schema.Table]bool), ends: slices.Clone(p.c.Ends)}
	if m, ok := p.c.Sink.(sink.Migrator); ok && p.c.KeepsRows {
		a.migrator = m
	}
	for {
		var b *batch
		var ok bool
		select {
		case p.ready <- struct{}{}:
			b, ok = <-p.batches
		case b, ok = <-p.batches: // it has ended
		}
		if !ok {
			return nil
		}
		if err := a.apply(ctx, b); err != nil {
			return err
		}
		select {
		case p.applied <- delivered{b.change.Last, b.messages, b.bytes}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// apply makes b durable, and its rejected events dead letters.
func (a *applier) apply(ctx context.Context, b *batch) error {
	if a.p.forget.Swap(false) {
		clear(a.migrated)
	}
	for _, it := range b.rejects {
		if err := a.bury(ctx, it, it.stage, it.poison); err != nil {
			return err
		}
	}
	switch {
	case len(b.events) > 0:
		if err := a.announce(ctx, b.change.Last.Sequence); err != nil {
			return err
		}
		if err := a.applyEvents(ctx, b.events, b.change); err != nil {
			return err
		}
	case a.p.checkpointing:
		// Acknowledgement must not overtake the stored checkpoint.
		if err := a.deliver(ctx, b.change); err != nil {
			return err
		}
	}
	a.p.status.delivered(b, a.p.c.Dead.Len())
	return nil
}

// applyEvents makes the events durable, which c was built of. Where one of them
// is poison it halves them, and the halves, until the one is found, and goes on
// with the others in their order.
func (a *applier) applyEvents(ctx context.Context, events []*item, c *change.Batch) error {
	if err := a.supersede(ctx, events); err != nil {
		return err
	}
	if err := a.migrate(ctx, c.Sets); err != nil {
		return err
	}
	began := time.Now()
	err := a.deliver(ctx, c)
	switch {
	case err == nil:
		a.p.status.applied(events, c, time.Since(began))
		return nil
	case fault.Of(err) != fault.Poison:
		return err
	case len(events) == 1:
		if err := a.bury(ctx, events[0], stageApply, err); err != nil {
			return err
		}
		return a.passOver(ctx, c.Last)
	}
	half := len(events) / 2
	first, second := build(events[:half]), build(events[half:])
	second.Last = c.Last
	if err := a.applyEvents(ctx, events[:half], first); err != nil {
		return err
	}
	return a.applyEvents(ctx, events[half:], second)
}

// build forms a batch of events that were accepted into one before.
func build(events []*item) *change.Batch {
	var b change.Builder
	for _, it := range events {
		b.Add(it.event, it.effect)
	}
	return b.Batch()
}

// passOver moves the stored checkpoint over a dead letter.
func (a *applier) passOver(ctx context.Context, through cdc.Position) error {
	if !a.p.checkpointing {
		return nil
	}
	return a.deliver(ctx, &change.Batch{First: through, Last: through})
}

// deliver gives c to the sink until it is durable. The error is poison or fatal,
// or ctx's.
func (a *applier) deliver(ctx context.Context, c *change.Batch) error {
	err := a.p.persist(ctx, troubleDestination, func() error { return a.p.attempt(ctx, c) })
	switch {
	case err == nil:
		return nil
	case fault.Of(err) == fault.Poison && len(c.Events) > 0:
		return err
	case fault.Of(err) == fault.Poison: // there is no event that could be
		err = fault.Mark(fault.Fatal, err)
	}
	return fmt.Errorf("apply changes: %w", err)
}

// attempt gives c to the sink. What makes the sink panic is taken for poison,
// so that one event can't end the program again and again.
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

// migrate makes the destination able to hold rows of the sets' tables.
func (a *applier) migrate(ctx context.Context, sets []*change.Set) error {
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
	var lines []string
	err := a.p.persist(ctx, troubleDestination, func() (err error) {
		lines, err = a.migrator.Migrate(ctx, tables)
		a.p.status.migrated(lines)
		return err
	})
	if err != nil {
		// A table that can not be made is no single event's fault.
		return fault.Mark(fault.Fatal, fmt.Errorf("bring the destination's tables in step: %w", err))
	}
	for _, t := range tables {
		a.migrated[t] = true
	}
	return nil
}

// persist calls attempt until it succeeds, fails with an error that is not
// transient, or ctx ends.
func (p *Pipeline) persist(ctx context.Context, what trouble, attempt func() error) error {
	var backoff fault.Backoff
	for {
		err := attempt()
		switch {
		case err == nil || fault.Of(err) != fault.Transient:
			p.status.recovered(what)
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		p.status.trouble(what, err)
		sleep(ctx, backoff.Next(err))
	}
}
