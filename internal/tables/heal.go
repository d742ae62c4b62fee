package tables

import (
	"cmp"
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Mark records that tables are Missing or Incomplete, each with a Cause, a Reason, and a
// Gap if it is Incomplete. It waits until the main pipeline is between two batches. Tables
// that are Missing already keep their state. So do those that are Behind: a lane finds the
// same when it brings them forward.
func (s *Set) Mark(ctx context.Context, destination Sink, found []sink.TableState) error {
	if err := s.main.take(ctx); err != nil {
		return err
	}
	defer s.main.giveBack()
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

// CoverOthers records that tables of which nothing is recorded lack nothing from before the
// given time.
func (s *Set) CoverOthers(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.states[sink.OtherTables]
	if ok && t.State == sink.Incomplete && t.Since.Before(before) {
		s.put(sink.TableState{Table: t.Table, State: sink.OK, Applied: t.Applied})
	}
}

// Lack records that dead letters of tables were given up, for the given reason. It waits
// until the main pipeline is between two batches.
func (s *Set) Lack(ctx context.Context, destination Sink, names []string, reason string) error {
	if err := s.main.take(ctx); err != nil {
		return err
	}
	defer s.main.giveBack()
	s.mu.Lock()
	for _, name := range names {
		s.lack(name, reason)
	}
	s.mu.Unlock()
	return s.Flush(ctx, destination)
}

// Postpone records that the next attempt to import the tables begins no earlier than next.
// A reason that is not "" replaces theirs.
func (s *Set) Postpone(ctx context.Context, destination Sink, names []string, next time.Time, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.Next, t.Reason = next.UTC().Truncate(time.Millisecond), cmp.Or(reason, t.Reason)
		t.Attempts++
	})
}

// Release leaves tables Behind that are Missing, so that a lane applies the changes since.
// It is for tables that no import can bring, and that have everything up to Applied.
func (s *Set) Release(ctx context.Context, destination Sink, names []string, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.State, t.Cause, t.Reason, t.Attempts, t.Next = sink.Behind, sink.CauseImporting, reason, 0, time.Time{}
	})
}

// changeMissing changes and records the states of those of the tables that are Missing or
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

// SetGone says which of the tables that HQ denies it does not have at all any more. It
// replaces what an earlier call said.
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

// deletes counts the deletes of a table's rows since the Set was made.
type deletes struct {
	begun uint64 // before their transactions, so never less than those that are durable
	ended uint64 // after them
}

// Deletes returns how many deletes of the table's rows were begun, and how many of these
// have ended, durable or not. If Begun is what Ended was earlier, none took place between.
func (s *Set) Deletes(table string) (begun, ended uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.deletes[table]
	return d.begun, d.ended
}

// countDeletes counts the deletes of b, and returns what is to be called after its
// transaction.
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

// Migrated returns a channel that receives after the main pipeline has changed a table.
func (s *Set) Migrated() <-chan struct{} { return s.migrated }
