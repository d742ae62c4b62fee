package dlq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Filter chooses entries. A zero field chooses all.
type Filter struct {
	IDs       []string // whole, or their leading digits
	Table     string
	Operation string
	Stage     string
	Since     time.Time // rejected then or later
	Until     time.Time // rejected before
	State     State
	// Destination leaves out the entries of other destinations than the one of this
	// identity.
	Destination string
}

func (f *Filter) match(e *Entry) bool {
	switch {
	case f.Table != "" && f.Table != e.Table,
		f.Operation != "" && !strings.EqualFold(f.Operation, e.Operation),
		f.Stage != "" && f.Stage != e.Stage:
		return false
	case !f.Since.IsZero() && e.Time.Before(f.Since), !f.Until.IsZero() && !e.Time.Before(f.Until):
		return false
	case f.State != "" && f.State != e.State:
		return false
	}
	return e.of(f.Destination) && f.names(e)
}

// names reports whether the filter's ids choose e, as far as these are concerned.
func (f *Filter) names(e *Entry) bool {
	return len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(e.ID, strings.ToLower(id)) })
}

// List yields the entries that f chooses, in stream order, without their
// payloads. It holds the names of the queue's files in memory, and one entry.
func (q *Queue) List(f Filter) iter.Seq2[Entry, error] { return q.each(f, false) }

// Read is List with the payloads.
func (q *Queue) Read(f Filter) iter.Seq2[Entry, error] { return q.each(f, true) }

func (q *Queue) each(f Filter, payload bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		names, err := q.names()
		if err != nil {
			yield(Entry{}, fmt.Errorf("list the dead-letter queue: %w", err))
			return
		}
		for _, name := range names {
			var e Entry
			if e.identify(name); !f.names(&e) {
				continue
			}
			e, err := q.read(name, payload)
			if err != nil || !f.match(&e) { // it was dropped or superseded meanwhile, or is not chosen
				continue
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Show returns the entry of the given id, or of the only one that begins so,
// with its payload.
func (q *Queue) Show(id string) (Entry, error) {
	if id == "" {
		return Entry{}, ErrNotFound
	}
	var found []Entry
	for e, err := range q.List(Filter{IDs: []string{id}}) {
		if err != nil {
			return Entry{}, err
		}
		if found = append(found, e); len(found) > 1 && found[0].ID != id {
			return Entry{}, fmt.Errorf("more than one entry of the dead-letter queue begins with %q", id)
		}
	}
	if len(found) == 0 {
		return Entry{}, ErrNotFound
	}
	for e, err := range q.each(Filter{IDs: []string{found[0].ID}}, true) {
		return e, err
	}
	return Entry{}, ErrNotFound
}

// Drop removes the entries that f chooses and returns how many there were.
func (q *Queue) Drop(f Filter) (int, error) {
	var all []*Entry
	for e, err := range q.List(f) {
		if err != nil {
			return 0, err
		}
		all = append(all, &e)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n, err := q.removeAll(all)
	if err != nil {
		return n, fmt.Errorf("drop from the dead-letter queue: %w", err)
	}
	return n, nil
}

// Replayed counts what a replay did.
type Replayed struct {
	Applied    int // and removed from the queue
	Superseded int // left, because the destination has something newer
	Unknown    int // left, because it is not known what the destination has of their rows
	Rejected   int // left, because they were rejected again
}

// ErrSuperseded says that an entry must not be applied, because the destination
// holds a newer state of its row.
var ErrSuperseded = errors.New("the destination holds a newer state of the row")

// Replay calls apply with each entry that f chooses, in stream order and with its payload.
// Apply leaves alone the rows that Entry.Changed names. An entry that apply takes is
// removed. One that it rejects as poison stays, with the new reason, and so does one for
// which it returns ErrSuperseded. Any other error ends the replay.
// Entries that are not waiting are passed over, unless force is set, or those of unknown
// rows are chosen by their ids: applying them could put an old row over a newer one.
//
// Nothing else may apply changes to the destination meanwhile.
func (q *Queue) Replay(ctx context.Context, f Filter, force bool, apply func(ctx context.Context, e Entry) error) (Replayed, error) {
	var done Replayed
	for e, err := range q.each(f, true) {
		if err != nil {
			return done, err
		}
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		switch {
		case e.Stage == stageDamaged:
			done.Rejected++
			continue
		case e.State == Superseded && !force:
			done.Superseded++
			continue
		case e.State == Unknown && !force && len(f.IDs) == 0:
			done.Unknown++
			continue
		}
		err = apply(ctx, e)
		switch {
		case err == nil:
			done.Applied++
			err = q.applied(&e, cmp.Or(e.Destination, f.Destination))
		case errors.Is(err, ErrSuperseded):
			done.Superseded++
			err = q.supersede(&e)
		case fault.Of(err) == fault.Poison:
			done.Rejected++
			err = q.rejectedAgain(&e, err)
		}
		if err != nil {
			return done, fmt.Errorf("replay %s: %w", e.ID, err)
		}
	}
	return done, nil
}

// applied removes e, which the destination has. Before that it keeps older entries of its
// rows from being replayed later.
func (q *Queue) applied(e *Entry, destination string) error {
	if err := q.Supersede(destination, e.Table, e.Keys, e.Position()); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, err := q.removeAll([]*Entry{e})
	return err
}

// supersede keeps e from being replayed later.
func (q *Queue) supersede(e *Entry) error {
	if e.State == Superseded {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mark(e)
}

func (q *Queue) rejectedAgain(e *Entry, reason error) error {
	if e.State == Superseded { // a forced replay changes nothing about that
		return nil
	}
	e.Reason = reason.Error()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.write(e)
}
