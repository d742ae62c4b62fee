package pipeline

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Gate decides for each table which of its changes a pipeline applies. The pipeline skips all other
// changes, which remain in the stream until the table is brought forward. Only the applier's
// goroutine calls Enter, Leave, Fail and Denied.
type Gate interface {
	// Enter waits until the next batch may be applied, or returns an error when ctx ends. If it
	// returns nil, the pipeline calls Leave after the batch.
	Enter(ctx context.Context) error
	Leave()
	// Withholds reports whether Applies may return false for any table. If it returns false, the
	// pipeline does not call Applies for a batch's events.
	Withholds() bool
	// Applies reports whether to apply the change of the table at position p.
	Applies(table string, p cdc.Position) bool
	// Fail stops the pipeline from applying further changes of the table, which has every change up
	// to p. The sink records the failure with the next batch.
	Fail(table string, p cdc.Position, cause sink.Cause, reason error)
	// Lack records that changes of the table are permanently missing. The sink records this with
	// the next batch.
	Lack(table string, reason error)
	// Denied is called for a change of the table whose schema version HQ denies. If Denied returns
	// true, the change becomes a dead letter. Otherwise, the pipeline calls Fail for the table.
	Denied(table string) (deadLetter bool)
	// Known tells the Gate that the pipeline has withheld a change of the table whose schema
	// version HQ knows.
	Known(table string)
}

// skipBehind is the reason for skipping changes of a table that is behind. A lane reads these
// changes from the stream again later.
const skipBehind skipReason = "behind"

// enter waits until the Gate allows the next batch. The caller calls leave after the batch.
func (a *applier) enter(ctx context.Context) (leave func(), err error) {
	g := a.p.c.Gate
	if g == nil {
		return func() {}, nil
	}
	began := time.Now()
	err = retry.Watch(func() { a.p.status.attemptHangs(dependencyTables, began) }, func() error { return g.Enter(ctx) })
	if err != nil {
		return nil, err
	}
	a.p.status.recovered(dependencyTables)
	return g.Leave, nil
}

// deny handles the events of b whose schema version HQ denies. Each becomes a dead letter, or its
// table fails.
func (a *applier) deny(ctx context.Context, b *receivedBatch) error {
	for _, it := range b.denied {
		g, table := a.p.c.Gate, it.event.Table
		switch {
		case !g.Applies(table, it.message.Position):
			a.withheld++
		case g.Denied(table):
			if err := a.deadLetter(ctx, it, stageSchema, it.denied); err != nil {
				return err
			}
		default:
			g.Fail(table, a.durable, sink.CauseDenied, it.denied)
			a.withheld++
		}
	}
	return nil
}

// withhold returns the events that the Gate allows, and a batch that contains only their changes.
// The batch c was built from the given events.
func (a *applier) withhold(events []*item, c *change.Batch) ([]*item, *change.Batch) {
	g := a.p.c.Gate
	if g == nil || !g.Withholds() {
		return events, c
	}
	var applied []*item
	for _, it := range events {
		if g.Applies(it.event.Table, it.message.Position) {
			applied = append(applied, it)
			continue
		}
		a.withheld++
		g.Known(it.event.Table)
	}
	switch len(applied) {
	case len(events):
		return events, c
	case 0:
		return nil, &change.Batch{First: c.First, Last: c.Last}
	}
	rest := build(applied)
	rest.First, rest.Last = c.First, c.Last
	return applied, rest
}

// failTables handles err, an error of the destination that may concern single tables. It calls the
// Gate's Fail for each table that the destination cannot hold, and reports whether there is any
// such table.
func (a *applier) failTables(err error) bool {
	if a.p.c.Gate == nil || fault.Of(err) == fault.Transient {
		return false
	}
	tables := tableErrors(err)
	for table, reason := range tables {
		cause := sink.CauseRefused
		if errors.Is(reason, sink.ErrMissing) {
			cause = sink.CauseAbsent
		}
		a.p.c.Gate.Fail(table, a.durable, cause, reason)
	}
	return len(tables) > 0
}

// tableErrors searches the tree of err for errors of type *sink.TableError. It returns the error in
// each, by table.
func tableErrors(err error) map[string]error {
	found := make(map[string]error)
	if of, ok := err.(*sink.TableError); ok {
		found[of.Table] = of.Err
		return found
	}
	switch err := err.(type) {
	case interface{ Unwrap() error }:
		maps.Copy(found, tableErrors(err.Unwrap()))
	case interface{ Unwrap() []error }:
		for _, e := range err.Unwrap() {
			maps.Copy(found, tableErrors(e))
		}
	}
	return found
}

// concernsAllTables reports whether err, from a failed migration, has a cause that does not depend
// on the table.
func concernsAllTables(err error) bool {
	return fault.Of(err) == fault.Transient || errors.As(err, new(*sink.WriterError)) || errors.As(err, new(*sink.ReopenError))
}
