package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// More than maxPoison dead letters among poisonWindow events in a row are not
// bad rows: something is wrong that a person has to see to.
const (
	maxPoison    = 100
	poisonWindow = 1000
)

// poisonRate counts the dead letters among the last events.
type poisonRate struct {
	ordinals []uint64 // of the latest dead letters, ascending
}

// add counts the event of the given ordinal and reports whether there are too
// many around it. Ordinals come nearly in order.
func (r *poisonRate) add(ordinal uint64) (tooMany bool) {
	i, _ := slices.BinarySearch(r.ordinals, ordinal)
	r.ordinals = slices.Insert(r.ordinals, i, ordinal)
	newest := r.ordinals[len(r.ordinals)-1]
	r.ordinals = slices.DeleteFunc(r.ordinals, func(o uint64) bool { return o+poisonWindow <= newest })
	return len(r.ordinals) > maxPoison
}

// bury makes an event a dead letter.
func (a *applier) bury(ctx context.Context, it *item, stage string, reason error) error {
	if a.poison.add(it.ordinal) {
		return fault.Mark(fault.Fatal, fmt.Errorf("more than %d of the last %d events could not be applied, the last one because: %w", maxPoison, poisonWindow, reason))
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
		if keys := rowKeys(it); len(keys) > 0 {
			e.Key = keys[0]
		}
	}
	return e
}

// supersede marks the dead letters over which the events go.
func (a *applier) supersede(ctx context.Context, events []*item) error {
	if a.p.c.Dead.Len() == 0 {
		return nil
	}
	for _, it := range events {
		for _, key := range rowKeys(it) {
			err := a.p.persist(ctx, troubleDeadLetters, func() error {
				return a.p.c.Dead.Supersede(it.event.Table, key, it.message.Position)
			})
			if err != nil {
				return err
			}
		}
		if a.p.c.Dead.Len() == 0 {
			return nil
		}
	}
	return nil
}

// rowKeys returns hashes of the keys of the rows that the event concerns: that
// of the row it writes first. There are none where the key can't be found.
func rowKeys(it *item) []string {
	if it.effect.Table == nil {
		if id := it.event.RowID(); id != "" {
			return []string{hashKey([]byte(id))}
		}
		return nil
	}
	var keys []string
	for _, row := range []*change.Row{it.effect.Upsert, it.effect.Delete} {
		if row == nil {
			continue
		}
		var key []byte
		for slot := range it.effect.Table.Keys {
			key = change.AppendKey(key, row.Value(slot))
		}
		keys = append(keys, hashKey(key))
	}
	return keys
}

func hashKey(key []byte) string { return strconv.FormatUint(xxhash.Sum64(key), 16) }
