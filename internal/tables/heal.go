package tables

import (
	"cmp"
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Mark records the given tables as Missing or Incomplete. Each state has a Cause and a Reason, and
// a Gap if it is Incomplete. Mark waits until the main pipeline is between two batches. Tables that
// are already Missing keep their state. Tables that are Behind keep their state, too: the lane
// finds the same problem when it brings such a table forward.
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

// CoverOthers records that tables without a recorded state lack no changes from before the given
// time.
func (s *Set) CoverOthers(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.states[sink.OtherTables]
	if ok && t.State == sink.Incomplete && t.Since.Before(before) {
		s.put(sink.TableState{Table: t.Table, State: sink.OK, Applied: t.Applied})
	}
}

// Lack records that dead letters of the named tables were dropped, for the given reason. Lack waits
// until the main pipeline is between two batches.
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

// Postpone records that the next attempt to import the named tables starts no earlier than the time
// in the parameter next. Postpone also counts one more attempt. If the parameter reason is not "",
// it replaces the recorded reasons of these tables.
func (s *Set) Postpone(ctx context.Context, destination Sink, names []string, next time.Time, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.Next, t.Reason = next.UTC().Truncate(time.Millisecond), cmp.Or(reason, t.Reason)
		t.Attempts++
	})
}

// LeaveToStream changes the state of each named table from Missing or Incomplete to Behind, so that
// the lane applies the table's changes. It leaves any other state unchanged. Use it for tables that
// no import can load. Each of these tables must have every change up to its Applied position.
func (s *Set) LeaveToStream(ctx context.Context, destination Sink, names []string, reason string) error {
	return s.changeMissing(ctx, destination, names, func(t *sink.TableState) {
		t.State, t.Cause, t.Reason, t.Attempts, t.Next = sink.Behind, sink.CauseImporting, reason, 0, time.Time{}
	})
}

// changeMissing calls edit to change the states of the named tables, and records the new states. It
// skips tables that are neither Missing nor Incomplete.
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

// SetGone records which denied tables HQ no longer has. It calls has(table) for each denied table.
// The result must be true if HQ still has the table. Each call of SetGone replaces the record of
// the previous call.
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

// deletes counts the deletes of one table's rows since New created the Set.
type deletes struct {
	begun uint64 // counted before their transaction, so never less than the number of durable deletes
	ended uint64 // counted after their transaction
}

// Deletes returns how many deletes of the table's rows have started, and how many of these have
// ended, whether or not they became durable. If the result begun equals the result ended of an
// earlier call, no delete has started since that call.
func (s *Set) Deletes(table string) (begun, ended uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.deletes[table]
	return d.begun, d.ended
}

// countDeletes counts the deletes of b as started. After the transaction, the caller must call the
// returned function, which counts the same deletes as ended.
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

// Migrated returns a channel that receives a value after the main pipeline has changed the layout
// of any table.
func (s *Set) Migrated() <-chan struct{} { return s.migrated }
