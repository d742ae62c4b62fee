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

// More than maxPoison dead letters among the last poisonWindow events of a table are not
// bad rows: something is wrong with the table. Events that cannot be decoded, or whose
// schema version HQ denies, do not count: they say nothing about the table.
const (
	maxPoison    = 100
	poisonWindow = 1000
)

// poisonRate counts the dead letters among the last events of a table, since its first.
type poisonRate struct {
	events uint64   // so far
	dead   []uint64 // of these, the numbers of the latest dead letters, ascending
}

// pass counts events that were applied.
func (r *poisonRate) pass(events int) { r.events += uint64(events) }

// add counts a dead letter, and reports whether there are too many.
func (r *poisonRate) add() (tooMany bool) {
	r.events++
	r.dead = append(r.dead, r.events)
	r.dead = slices.DeleteFunc(r.dead, func(n uint64) bool { return n+poisonWindow <= r.events })
	return len(r.dead) > maxPoison
}

// reject makes an event a dead letter, unless its table has too many of them: then the
// table fails.
func (a *applier) reject(ctx context.Context, it *item, stage string, reason error) error {
	if it.event == nil || stage == stageSchema {
		return a.bury(ctx, it, stage, reason)
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
		return a.bury(ctx, it, stage, reason)
	case g == nil:
		return fault.Mark(fault.Fatal, errTooMany(reason))
	}
	g.Fail(table, a.through, sink.CausePoison, errTooMany(reason))
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
	return fmt.Errorf("more than %d of the last %d changes could not be applied, the last one because: %w", maxPoison, poisonWindow, last)
}

// bury makes an event a dead letter. If the queue is full, its table lacks the event.
func (a *applier) bury(ctx context.Context, it *item, stage string, reason error) error {
	e := a.letter(it, stage, reason)
	err := a.p.persist(ctx, troubleDeadLetters, func() error { return a.p.c.Dead.Put(e) })
	if g := a.p.c.Gate; errors.Is(err, dlq.ErrFull) && g != nil {
		table := e.Table
		if schema.CheckStreamTable(table) != nil {
			table = sink.OtherTables
		}
		g.Lack(table, errLetterLost)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("set aside a change that cannot be applied (%v): %w", reason, err) // of err's kind alone
	}
	a.p.status.buried(&e)
	return nil
}

// errLetterLost is why a table lacks changes after the dead-letter queue was full.
var errLetterLost = errors.New("changes could not be applied, and the dead-letter queue has no room for them")

// letter is the entry of the dead-letter queue for it.
func (a *applier) letter(it *item, stage string, reason error) dlq.Entry {
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

// leavePlace moves the stored checkpoint over a dead letter. If the event moves a row to
// another key, the row leaves its old one all the same: the source does not have it there.
func (a *applier) leavePlace(ctx context.Context, it *item, through cdc.Position) error {
	g, effect := a.p.c.Gate, it.effect
	if effect.Upsert == nil || effect.Delete == nil || g != nil && !g.Applies(it.event.Table, it.message.Position) {
		return a.passOver(ctx, through)
	}
	left := change.Effect{Table: effect.Table, Delete: effect.Delete}
	var b change.Builder
	b.Add(it.event, left)
	b.Pass(through)
	err := a.deliver(ctx, b.Batch())
	if fault.Of(err) == fault.Poison || a.failTables(err) { // no more can be done
		return a.passOver(ctx, through)
	}
	if err != nil {
		return err
	}
	_, rows := change.LetterKeys(it.event, left)
	return a.p.persist(ctx, troubleDeadLetters, func() error {
		return a.p.c.Dead.Delivered(a.p.c.Destination, it.message.Position, rows[0])
	})
}

// supersede marks the dead letters of rows that the events change.
func (a *applier) supersede(ctx context.Context, events []*item) error {
	for _, it := range events {
		if !a.p.c.Dead.Concerns(it.event.Table, it.message.Position) {
			continue
		}
		keys := change.RowKeys(it.event, it.effect)
		err := a.p.persist(ctx, troubleDeadLetters, func() error {
			return a.p.c.Dead.Supersede(a.p.c.Destination, it.event.Table, keys, it.message.Position)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
