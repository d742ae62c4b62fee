package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// A table fails if more than maxPoison of its last poisonWindow events became dead letters. So many
// dead letters show that the table is at fault, not single rows. Events that cannot be decoded, or
// whose schema version HQ denies, do not count, because their errors do not depend on the
// destination's table.
const (
	maxPoison    = 100
	poisonWindow = 1000
)

// poisonRate counts the recent dead letters of a table. Counting starts at the table's first dead
// letter.
type poisonRate struct {
	events uint64   // number of events so far
	dead   []uint64 // ordinals of the dead letters among the last poisonWindow events, ascending
}

// pass counts applied events.
func (r *poisonRate) pass(events int) { r.events += uint64(events) }

// add counts a dead letter, and reports whether the table has too many of them.
func (r *poisonRate) add() (tooMany bool) {
	r.events++
	r.dead = append(r.dead, r.events)
	r.dead = slices.DeleteFunc(r.dead, func(n uint64) bool { return n+poisonWindow <= r.events })
	return len(r.dead) > maxPoison
}

// reject dead-letters an event. If the event's table then has too many dead letters, the table
// fails instead, and the event is withheld.
func (a *applier) reject(ctx context.Context, it *item, stage string, reason error) error {
	if it.event == nil || stage == stageSchema {
		return a.deadLetter(ctx, it, stage, reason)
	}
	g, table := a.p.c.Gate, it.event.Table
	if g != nil && !g.Applies(table, it.message.Position) {
		a.withheld++
		return nil
	}
	if a.poison[table] == nil {
		a.poison[table] = new(poisonRate)
	}
	switch {
	case !a.poison[table].add():
		return a.deadLetter(ctx, it, stage, reason)
	case g == nil:
		return fault.Mark(fault.Fatal, errTooMany(reason))
	}
	g.Fail(table, a.durable, sink.CausePoison, errTooMany(reason))
	delete(a.poison, table)
	a.withheld++
	return nil
}

// countApplied counts the applied events of tables that have had dead letters.
func (a *applier) countApplied(events []*item) {
	if len(a.poison) == 0 {
		return
	}
	for _, it := range events {
		if r := a.poison[it.event.Table]; r != nil {
			r.pass(1)
		}
	}
}

func errTooMany(last error) error {
	return fmt.Errorf("more than %d of the last %d changes could not be applied; the last error: %w", maxPoison, poisonWindow, last)
}

// deadLetter puts an event into the dead-letter queue. If the queue is full and there is a Gate,
// the Gate records that the table lacks the event.
func (a *applier) deadLetter(ctx context.Context, it *item, stage string, reason error) error {
	e := a.newEntry(it, stage, reason)
	err := a.p.retry(ctx, dependencyDeadLetters, func() error { return a.p.c.Dead.Put(e) })
	if g := a.p.c.Gate; errors.Is(err, dlq.ErrFull) && g != nil {
		table := e.Table
		if schema.CheckStreamTable(table) != nil {
			table = sink.OtherTables
		}
		g.Lack(table, errQueueFull)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("dead-letter a change that cannot be applied (%v): %w", reason, err) // only err determines the class
	}
	a.p.status.deadLettered(&e)
	return nil
}

// errQueueFull is the recorded reason if a table lacks changes because the dead-letter queue was
// full.
var errQueueFull = errors.New("changes could not be applied, and the dead-letter queue is full")

// newEntry returns the dead-letter queue's entry for the item.
func (a *applier) newEntry(it *item, stage string, reason error) dlq.Entry {
	m := it.message
	e := dlq.Entry{
		Sequence: m.Position.Sequence, Stored: m.Position.Stored, Subject: m.Subject,
		Stage: stage, Reason: reason.Error(), Time: time.Now(), Encoding: m.Encoding, Payload: m.Data, Destination: a.p.c.Destination,
	}
	if it.event == nil {
		// dbchange.<table>.<operation>.<company>...
		if tokens := strings.Split(m.Subject, "."); len(tokens) > 3 {
			e.Table, e.Operation = label(tokens[1]), label(tokens[2])
		}
	}
	if ev := it.event; ev != nil {
		e.Table, e.Operation, e.EventID = ev.Table, ev.Op.String(), ev.ID
		e.Encoding, e.Payload, e.Clock = "", ev.Payload, ev.Clock
		e.Keys, e.Rows = change.LetterKeys(ev, it.effect)
	}
	return e
}

// deleteOldRow moves the stored checkpoint past a dead letter. If the event moved a row to another
// key, deleteOldRow also deletes the row with the old key, because the source no longer has that
// row.
func (a *applier) deleteOldRow(ctx context.Context, it *item, through cdc.Position) error {
	g, effect := a.p.c.Gate, it.effect
	if effect.Upsert == nil || effect.Delete == nil || g != nil && !g.Applies(it.event.Table, it.message.Position) {
		return a.advanceCheckpoint(ctx, through)
	}
	deletion := change.Effect{Table: effect.Table, Delete: effect.Delete}
	var b change.Builder
	b.Add(it.event, deletion)
	b.Pass(through)
	err := a.deliver(ctx, b.Batch())
	if fault.Of(err) == fault.Poison || a.failTables(err) { // the row stays
		return a.advanceCheckpoint(ctx, through)
	}
	if err != nil {
		return err
	}
	_, rows := change.LetterKeys(it.event, deletion)
	return a.p.retry(ctx, dependencyDeadLetters, func() error {
		return a.p.c.Dead.Delivered(a.p.c.Destination, it.message.Position, rows[0])
	})
}

// supersede marks dead letters as superseded if they concern rows that the events change.
func (a *applier) supersede(ctx context.Context, events []*item) error {
	for _, it := range events {
		if !a.p.c.Dead.Concerns(it.event.Table, it.message.Position) {
			continue
		}
		keys := change.RowKeys(it.event, it.effect)
		err := a.p.retry(ctx, dependencyDeadLetters, func() error {
			return a.p.c.Dead.Supersede(a.p.c.Destination, it.event.Table, keys, it.message.Position)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
