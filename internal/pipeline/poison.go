package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// More than maxPoison dead letters among the last poisonWindow events of a table are not
// bad rows: something is wrong with the table. Events that cannot be decoded, or whose
// schema version HQ denies, do not count: they say nothing about the table. They stop the
// run if the queue holds maxUnread letters, so that they do not fill the disk.
const (
	maxPoison    = 100
	poisonWindow = 1000
	maxUnread    = 10_000
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

// bury makes an event a dead letter.
func (a *applier) bury(ctx context.Context, it *item, stage string, reason error) error {
	if n := a.p.c.Dead.Len(); stage != stageApply && n >= maxUnread {
		return fault.Mark(fault.Fatal, fmt.Errorf("%d events are in the dead-letter queue; replay them once eds or hq knows them, or drop them, see: eds dlq list; the next one: %w", n, reason))
	}
	e := letter(it, stage, reason)
	err := a.p.persist(ctx, troubleDeadLetters, func() error { return a.p.c.Dead.Put(e) })
	if err != nil {
		return err
	}
	a.p.status.buried(&e)
	return nil
}

// letter is the entry of the dead-letter queue for it.
func letter(it *item, stage string, reason error) dlq.Entry {
	m := it.message
	e := dlq.Entry{
		Sequence: m.Position.Sequence, Stored: m.Position.Stored, Subject: m.Subject,
		Stage: stage, Reason: reason.Error(), Time: time.Now(), Encoding: m.Encoding, Payload: m.Data,
	}
	if it.event == nil {
		// dbchange.<table>.<operation>.<company>...
		if tokens := strings.Split(m.Subject, "."); len(tokens) > 3 {
			e.Table, e.Operation = tokens[1], tokens[2]
		}
	}
	if ev := it.event; ev != nil {
		e.Table, e.Operation, e.EventID = ev.Table, ev.Op.String(), ev.ID
		e.Encoding, e.Payload = "", ev.Payload
		e.Keys = change.LetterKeys(ev, it.effect)
	}
	return e
}

// supersede marks the dead letters of rows that the events change.
func (a *applier) supersede(ctx context.Context, events []*item) error {
	for _, it := range events {
		if a.p.c.Dead.Len() == 0 {
			return nil
		}
		keys := change.RowKeys(it.event, it.effect)
		err := a.p.persist(ctx, troubleDeadLetters, func() error {
			return a.p.c.Dead.Supersede(it.event.Table, keys, it.message.Position)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
