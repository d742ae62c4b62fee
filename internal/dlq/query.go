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

// Filter selects entries. An empty field selects all entries.
type Filter struct {
	IDs       []string // complete ids, or leading digits of ids
	Table     string
	Operation string
	Stage     string
	Since     time.Time // rejected at this time or later
	Until     time.Time // rejected before this time
	State     EntryState
	// Destination is the identity of a destination. The entries of other destinations are not
	// selected.
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

// names reports whether the filter's ids select e. It ignores the other fields of the filter.
func (f *Filter) names(e *Entry) bool {
	return len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(e.ID, strings.ToLower(id)) })
}

// List yields the entries that f selects, in stream order and without their payloads. It holds
// one entry and the names of all files in memory.
func (q *Queue) List(f Filter) iter.Seq2[Entry, error] { return q.each(f, false) }

// Read is like List, but yields the entries with their payloads.
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
			if err != nil || !f.match(&e) { // dropped or superseded since, or not selected
				continue
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Show returns an entry with its payload. The parameter id is the entry's id or its leading digits.
// If several ids start with these digits, Show returns an error.
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

// Drop deletes the entries that f selects, and returns the number of deleted entries.
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

// Replayed has the numbers of entries that a replay has handled.
type Replayed struct {
	Applied    int // applied to the destination and removed from the queue
	Superseded int // kept, because the destination has newer data
	Unknown    int // kept, because it is not known what data the destination has for their rows
	Rejected   int // kept, because they were rejected again
}

// ErrSuperseded means that an entry must not be applied, because the destination has newer data
// for its row.
var ErrSuperseded = errors.New("the destination holds a newer state of the row")

// Replay calls the function apply for each entry that f selects, in stream order. Each entry has
// its payload. The function must not change the rows that Entry.Changed names. If apply returns
// nil, the entry is removed. If apply returns a fault.Poison error, the entry is kept with the new
// reason. If apply returns ErrSuperseded, the entry is kept and marked as superseded. Any other
// error ends the replay. Replay skips superseded and unknown entries, because they could replace a
// newer row with an older one. If the parameter force is true, Replay skips neither kind of entry.
// Unknown entries are also applied if f selects entries by their ids.
//
// No other process may apply changes to the destination during a replay.
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

// applied removes e, which has been applied to the destination. Before the removal, it marks older
// entries of the same rows, so that these entries are not replayed later.
func (q *Queue) applied(e *Entry, destination string) error {
	if err := q.Supersede(destination, e.Table, e.Keys, e.Position()); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	_, err := q.removeAll([]*Entry{e})
	return err
}

// supersede marks e as superseded, so that it is not replayed later.
func (q *Queue) supersede(e *Entry) error {
	if e.State == Superseded {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mark(e)
}

func (q *Queue) rejectedAgain(e *Entry, reason error) error {
	if e.State == Superseded { // a forced replay does not change a superseded entry
		return nil
	}
	e.Reason = reason.Error()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.write(e)
}
