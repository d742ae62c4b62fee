package tables

import (
	"cmp"
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Mark records that tables are Missing or Incomplete. Each has a Cause and a Reason, and a Gap
// if it is Incomplete. Mark waits until the main pipeline is between two batches. Tables that are
// already Missing keep their state. So do tables that are Behind: the lane finds the same problem
// when it brings them forward.
func (s *Set) Mark(ctx context.Context, destination Sink, found []sink.TableState) error {
	if err := s.main.acquire(ctx); err != nil {
		return err
	}
	defer s.main.release()
	s.mu.Lock()
	for _, t := range found {
		was := s.states[t.Table]
		if was.State == sink.Behind || was.State == sink.Missing || was.State == t.State && was.Cause == t.Cause {
			continue
		}
		t.Applied, t.Since = later(was.Applied, s.position), s.now().UTC().Truncate(time.Millisecond)
		t.Gap = cmp.Or(t.Gap, was.Gap)
		s.put(t)
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}

// CoverOthers records that tables without a state of their own lack no changes from before the
// given time.
func (s *Set) CoverOthers(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.states[sink.OtherTables]
	if ok && t.State == sink.Incomplete && t.Since.Before(before) {
		s.put(sink.TableState{Table: t.Table, State: sink.OK, Applied: t.Applied})
	}
}

// Lack records that dead letters of tables were dropped, for the given reason. It waits until
// the main pipeline is between two batches.
func (s *Set) Lack(ctx context.Context, destination Sink, names []string, reason string) error {
	if err := s.main.acquire(ctx); err != nil {
		return err
	}
	defer s.main.release()
	s.mu.Lock()
	for _, name := range names {
		s.lack(name, reason)
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}

// Postpone records that the next attempt to import the tables begins no earlier than next. If
// reason is not "", it replaces their reasons.
func (s *Set) Postpone(ctx context.Context, destination Sink, names []string, next time.Time, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.Next, t.Reason = next.UTC().Truncate(time.Millisecond), cmp.Or(reason, t.Reason)
		t.Attempts++
	})
}

// LeaveToStream marks tables as Behind that are Missing, so that the lane applies their changes.
// Use it for tables that no import can bring. They have every change up to Applied.
func (s *Set) LeaveToStream(ctx context.Context, destination Sink, names []string, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.State, t.Cause, t.Reason, t.Attempts, t.Next = sink.Behind, sink.CauseImporting, reason, 0, time.Time{}
	})
}

// changeMissing edits and records the states of the named tables that are Missing or
// Incomplete.
func (s *Set) changeMissing(ctx context.Context, destination Sink, names []string, edit func(*sink.TableState)) error {
	s.mu.Lock()
	for _, name := range names {
		if t, ok := s.states[name]; ok && (t.State == sink.Missing || t.State == sink.Incomplete) {
			edit(&t)
			s.put(t)
		}
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}

// SetGone records which denied tables HQ no longer has: those for which has returns false. It
// replaces the result of an earlier call.
func (s *Set) SetGone(has func(table string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.gone)
	for name, t := range s.states {
		if t.Cause == sink.CauseDenied && !has(name) {
			s.gone[name] = true
		}
	}
}

// deletes counts the deletes of a table's rows since New.
type deletes struct {
	begun uint64 // counted before their transactions, so never less than the durable ones
	ended uint64 // counted after their transactions
}

// Deletes returns how many deletes of the table's rows have begun, and how many of these have
// ended, durable or not. If begun equals an earlier ended, there were none in between.
func (s *Set) Deletes(table string) (begun, ended uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.deletes[table]
	return d.begun, d.ended
}

// countDeletes counts the deletes of b as begun. The caller calls ended after the transaction.
func (s *Set) countDeletes(b *change.Batch) (ended func()) {
	counts := make(map[string]uint64)
	for _, set := range b.Sets {
		if n := len(set.Deletes); n > 0 {
			counts[set.Table.Name] += uint64(n)
		}
	}
	count := func(add func(*deletes, uint64)) {
		if len(counts) == 0 {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for table, n := range counts {
			d := s.deletes[table]
			add(&d, n)
			s.deletes[table] = d
		}
	}
	count(func(d *deletes, n uint64) { d.begun += n })
	return func() { count(func(d *deletes, n uint64) { d.ended += n }) }
}

// Migrated returns a channel that receives a value after the main pipeline has changed the
// layout of a table.
func (s *Set) Migrated() <-chan struct{} { return s.migrated }
