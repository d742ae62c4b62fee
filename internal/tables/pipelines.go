package tables

import (
	"context"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Sink is a destination that records the states of tables.
type Sink interface {
	sink.Sink
	sink.Recorder
	sink.Migrator
}

// MainView is the main pipeline's view of a Set. It is both the sink and the Gate of the main
// pipeline.
type MainView struct {
	Sink
	set *Set
}

// Main returns the main pipeline's view of s. The main pipeline applies its batches to destination.
func (s *Set) Main(destination Sink) *MainView { return &MainView{destination, s} }

// Apply makes b durable, together with the states that are not recorded yet.
func (m *MainView) Apply(ctx context.Context, b *change.Batch) error {
	s := m.set
	s.recording.Lock()
	defer s.recording.Unlock()
	s.mu.Lock()
	states := s.unstoredStates(func(t sink.TableState) bool { return t.State == sink.OK && !ahead(t, b.Last) })
	s.mu.Unlock()
	defer s.countDeletes(b)()
	err := error(nil)
	if len(states) == 0 {
		err = m.Sink.Apply(ctx, b)
	} else {
		err = m.ApplyTables(ctx, b, states)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position = later(s.position, b.Last)
	s.markStored(states, s.position)
	return nil
}

// unstoredStates returns all states that are not recorded yet, and also each state for which the
// given predicate is true. The caller holds s.mu.
func (s *Set) unstoredStates(also func(sink.TableState) bool) []sink.TableState {
	var states []sink.TableState
	for name, t := range s.states {
		if s.unstored[name] || also(t) {
			states = append(states, t)
		}
	}
	return states
}

// Migrate adapts the destination's layout so that it can hold rows of the tables. If it changes any
// table, it signals the channel of Migrated.
func (m *MainView) Migrate(ctx context.Context, tables []*schema.Table) ([]string, error) {
	lines, err := m.Sink.Migrate(ctx, tables)
	if len(lines) > 0 {
		select {
		case m.set.migrated <- struct{}{}:
		default: // the previous signal was not received yet
		}
	}
	return lines, err
}

// Enter waits for the main pipeline's turn. If ctx ends first, it returns the cause of ctx.
func (m *MainView) Enter(ctx context.Context) error { return m.set.main.acquire(ctx) }

// Leave ends the main pipeline's turn.
func (m *MainView) Leave() { m.set.main.release() }

// Withholds reports whether any table has a state, so that Applies may return false.
func (m *MainView) Withholds() bool {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	return len(m.set.states) > 0
}

// Applies reports whether the main pipeline applies the table's change at p.
func (m *MainView) Applies(table string, p cdc.Position) bool {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	t, ok := m.set.states[table]
	return !ok || t.State.Applies() && lacks(t, p)
}

// Fail marks the table as having failed after the change at p, so that the lane applies the table's
// later changes. If the parameter cause is sink.CauseAbsent, the table becomes Missing instead.
func (m *MainView) Fail(table string, p cdc.Position, cause sink.Cause, reason error) {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.states[table]
	t.Table, t.Applied, t.Attempts = table, later(t.Applied, p), 0
	s.put(s.failed(t, cause, reason))
}

// Lack marks the table as Incomplete. A table that is Behind becomes Incomplete when it has caught
// up.
func (m *MainView) Lack(table string, reason error) {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	m.set.lack(table, reason.Error())
}

// lack records that dead letters of a table were dropped. If there are already maxStates states,
// lack records the loss under sink.OtherTables. The caller holds s.mu.
func (s *Set) lack(table, reason string) {
	t, known := s.states[table]
	if !known && len(s.states) >= maxStates {
		table = sink.OtherTables
		t = s.states[table]
	}
	if t.Gap == reason && !t.Accepted {
		return
	}
	t.Table, t.Gap, t.Accepted = table, reason, false
	if t.State != sink.Behind && t.State != sink.Missing {
		t.Applied = later(t.Applied, s.position)
		t.State, t.Cause, t.Reason, t.Since = sink.Incomplete, sink.CauseLetters, reason, s.now().UTC().Truncate(time.Millisecond)
	}
	s.put(t)
}

// maxStates bounds the number of states. The stream can name any number of tables. Beyond the
// bound, a table that HQ denies is no longer left to the lane, and a table with dropped dead
// letters no longer gets its own record.
const maxStates = 1000

// Denied returns false for up to maxStates tables, so that the table fails and the lane decides.
// For any further table, it returns true: the table's changes become dead letters.
func (m *MainView) Denied(table string) bool {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	_, known := m.set.states[table]
	return !known && len(m.set.states) >= maxStates
}

// Known records that HQ knows a newer schema version of the table, if HQ denied an earlier one.
func (m *MainView) Known(table string) {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[table].Cause == sink.CauseDenied {
		s.known[table] = true
	}
}

// LaneView is the lane's view of a Set. It is both the sink and the Gate of the lane's pipeline.
type LaneView struct {
	Sink
	set *Set
}

// Begin assigns the given tables to the lane. There must be at least one table, and all of them
// must be Behind. Begin returns the lane's view, and the position after which the lane starts to
// read: the lowest Applied position of these tables.
func (s *Set) Begin(destination Sink, tables []sink.TableState) (*LaneView, cdc.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.members)
	s.reached = tables[0].Applied
	for _, t := range tables {
		s.members[t.Table] = true
		if lacks(t, s.reached) {
			s.reached = t.Applied
		}
	}
	return &LaneView{destination, s}, s.reached
}

// Apply makes b durable, and records that the lane's tables have all changes up to the end of b.
func (l *LaneView) Apply(ctx context.Context, b *change.Batch) error {
	s := l.set
	s.recording.Lock()
	defer s.recording.Unlock()
	s.mu.Lock()
	before := s.unstoredStates(func(t sink.TableState) bool { return s.members[t.Table] && lacks(t, b.Last) })
	after := slices.Clone(before)
	for i := range after {
		if t := &after[i]; s.members[t.Table] {
			t.Applied = later(t.Applied, b.Last)
		}
	}
	s.mu.Unlock()
	defer s.countDeletes(b)()
	if err := l.Advance(ctx, b, after); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached = later(s.reached, b.Last)
	for i, t := range before {
		if s.states[t.Table] == t {
			s.states[t.Table] = after[i]
		} else if now := s.states[t.Table]; now.State == sink.Behind { // the table has failed since
			now.Applied = later(now.Applied, after[i].Applied)
			s.states[t.Table] = now
		}
	}
	s.markStored(after, s.position)
	return nil
}

// Enter waits for the lane's turn. If ctx ends first, it returns the cause of ctx.
func (l *LaneView) Enter(ctx context.Context) error { return l.set.lane.acquire(ctx) }

// Leave ends the lane's turn.
func (l *LaneView) Leave() { l.set.lane.release() }

// Withholds returns true, because the lane applies the changes of some tables only.
func (l *LaneView) Withholds() bool { return true }

// Applies reports whether the lane applies the table's change at p.
func (l *LaneView) Applies(table string, p cdc.Position) bool {
	l.set.mu.Lock()
	defer l.set.mu.Unlock()
	return l.set.members[table] && lacks(l.set.states[table], p)
}

// Fail removes the table from the lane until the next attempt to bring the table forward.
func (l *LaneView) Fail(table string, _ cdc.Position, cause sink.Cause, reason error) {
	s := l.set
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members, table)
	s.put(s.failed(s.states[table], cause, reason))
}

// Lack records that the table lacks changes. The table becomes Incomplete when it has caught up.
func (l *LaneView) Lack(table string, reason error) {
	l.set.mu.Lock()
	defer l.set.mu.Unlock()
	l.set.lack(table, reason.Error())
}

// Denied reports whether the table's changes become dead letters. They do if HQ has denied a schema
// version of the table for denialPatience, and either knows a newer version or no longer has the
// table.
func (l *LaneView) Denied(table string) bool {
	s := l.set
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.states[table]
	return (s.known[table] || s.gone[table]) && t.Cause == sink.CauseDenied && s.now().Sub(t.Since) >= denialPatience
}

// Known does nothing: only the main pipeline records newer versions.
func (l *LaneView) Known(string) {}
