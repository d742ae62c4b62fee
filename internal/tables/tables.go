// Package tables holds the states of a destination's tables while the stream is followed,
// and assigns the changes of each table to a pipeline.
//
// Two pipelines share a Set. The main pipeline moves the checkpoint, and skips the changes of
// tables that are behind. The lane reads these changes from the stream again, and so brings the
// tables forward. When the lane has caught up, Join returns its tables to the main pipeline. Both
// pipelines apply through one sink, one batch at a time. So a pipeline that applies a change of a
// table knows that the table has all earlier changes.
package tables

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// These constants bound the wait before the next attempt to bring a table forward, after the table
// itself has caused a failure. The wait starts at the first bound and doubles with each attempt, up
// to the last bound. The wait is shorter if HQ denies a schema version. HQ often publishes a
// version just after the first change that has the version, and sends no notice when it publishes
// the version later.
const (
	firstWait       = time.Minute
	lastWait        = 24 * time.Hour
	firstDenialWait = 5 * time.Second
	lastDenialWait  = 10 * time.Minute
)

// denialPatience is how long HQ may deny a schema version before changes of that version become
// dead letters. It applies only if HQ knows a newer version of the table, or no longer has the
// table.
const denialPatience = time.Hour

// maxReason is the maximum length of a recorded reason, in bytes. Longer reasons are cut.
const maxReason = 1000

// Set holds the states of all tables. It is safe for concurrent use.
type Set struct {
	logger *slog.Logger
	now    func() time.Time
	main   turn // the main pipeline holds this turn while it applies a batch
	lane   turn // the lane holds this turn while it applies a batch
	// recording is held while states are recorded, so that an older state never overwrites a
	// newer one.
	recording sync.Mutex
	// migrated receives a value after the main pipeline has changed the layout of a table.
	migrated chan struct{}

	mu       sync.Mutex
	states   map[string]sink.TableState // by table; only tables that are not OK or are ahead of position
	unstored map[string]bool            // tables whose state is not recorded yet
	known    map[string]bool            // denied tables for which HQ knows a newer version
	gone     map[string]bool            // denied tables that HQ no longer has
	deletes  map[string]deletes         // deletes since New, by table
	position cdc.Position               // the main pipeline has applied all changes up to here
	members  map[string]bool            // tables of the lane
	held     map[string]bool            // tables that an import is about to replace
	reached  cdc.Position               // the lane has applied its tables' changes up to here
	changed  chan struct{}              // closed at the next change; nil if no caller waits
}

// New returns a Set with the recorded states. The parameter position is the checkpoint: the main
// pipeline has applied everything up to that position, except changes of tables with a state.
func New(states []sink.TableState, position cdc.Position, logger *slog.Logger) *Set {
	s := &Set{
		logger: logger, now: time.Now, main: newTurn(), lane: newTurn(), migrated: make(chan struct{}, 1),
		states: make(map[string]sink.TableState), unstored: make(map[string]bool), position: position,
		known: make(map[string]bool), gone: make(map[string]bool), deletes: make(map[string]deletes),
		members: make(map[string]bool), held: make(map[string]bool),
	}
	for _, t := range states {
		s.states[t.Table] = t
	}
	return s
}

// States returns the states of the tables that are not OK, sorted by table name.
func (s *Set) States() []sink.TableState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []sink.TableState
	for _, name := range slices.Sorted(maps.Keys(s.states)) {
		if t := s.states[name]; t.State != sink.OK {
			all = append(all, t)
		}
	}
	return all
}

// Due returns the tables that are Behind and can be brought forward now. The result next is the
// time at which the next table becomes due, or zero if no table waits. Due omits held tables.
func (s *Set) Due() (due []sink.TableState, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, name := range slices.Sorted(maps.Keys(s.states)) {
		t := s.states[name]
		switch {
		case t.State != sink.Behind, s.held[name]:
		case !t.Next.After(now):
			due = append(due, t)
		case next.IsZero() || t.Next.Before(next):
			next = t.Next
		}
	}
	return due, next
}

// RecordLoss records that the stream no longer has the messages with sequences below the parameter
// first. The lane continues to bring its tables forward without the lost changes. For each table
// that lacks some of these changes, the parameter reason is recorded as the gap.
func (s *Set) RecordLoss(first uint64, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.members {
		t := s.states[name]
		if t.Applied.Sequence+1 >= first {
			continue
		}
		t.Applied = cdc.Position{Sequence: first - 1, Stored: t.Applied.Stored}
		t.Gap = reason.Error()
		s.put(t)
		s.logger.Error("changes of a table are missing", "table", name, "error", reason)
	}
}

// Accept records that the operator accepts the gaps of the named tables.
func (s *Set) Accept(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if t, ok := s.states[name]; ok && t.Gap != "" {
			t.Accepted = true
			s.put(t)
		}
	}
}

// Members returns the number of tables that the lane brings forward.
func (s *Set) Members() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members)
}

// Changed returns a channel that is closed at the next change of the Set.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// notify closes the channel that was returned by Changed. The caller holds s.mu.
func (s *Set) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// put replaces the state of a table, marks the state as not recorded yet, and logs a change of the
// State or the Cause. The caller holds s.mu.
func (s *Set) put(t sink.TableState) {
	if len(t.Reason) > maxReason {
		t.Reason = t.Reason[:maxReason]
	}
	was, ok := s.states[t.Table]
	s.states[t.Table] = t
	s.unstored[t.Table] = true
	s.notify()
	if ok && was.State == t.State && was.Cause == t.Cause || !ok && t.State == sink.OK {
		return
	}
	log := s.logger.Warn
	if t.State == sink.OK || t.Cause == sink.CauseImporting {
		log = s.logger.Info
	}
	log("the state of a table has changed", "table", t.Table, "state", t.State, "cause", t.Cause, "reason", t.Reason,
		"remedy", t.Remedy())
}

// markStored marks the given states as recorded, except states that have changed since. It removes
// the states of tables that are OK and not ahead of the position in the parameter through. The
// caller holds s.mu.
func (s *Set) markStored(states []sink.TableState, through cdc.Position) {
	for _, t := range states {
		now, ok := s.states[t.Table]
		if !ok || now != t {
			continue // the state has changed since
		}
		delete(s.unstored, t.Table)
		if t.State == sink.OK && !ahead(t, through) {
			delete(s.states, t.Table)
		}
	}
	s.notify()
}

// failed returns the state that replaces t after another failure: Behind with a longer wait, or
// Missing if the parameter cause is sink.CauseAbsent.
func (s *Set) failed(t sink.TableState, cause sink.Cause, reason error) sink.TableState {
	now := s.now().UTC().Truncate(time.Millisecond)
	if t.State != sink.Behind || t.Cause != cause {
		t.Since = now
	}
	t.State, t.Cause, t.Reason = sink.Behind, cause, reason.Error()
	if cause == sink.CauseAbsent {
		t.State = sink.Missing
	}
	first, last := firstWait, lastWait
	if cause == sink.CauseDenied {
		first, last = firstDenialWait, lastDenialWait
	}
	wait := last
	if t.Attempts < 16 { // a larger shift would overflow
		wait = min(first<<t.Attempts, last)
	}
	t.Attempts++
	t.Next = now.Add(wait)
	return t
}

// turn is a lock. A context can cancel the wait for it.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) acquire(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) release() { <-t }

// ahead reports whether the table already has a change after p.
func ahead(t sink.TableState, p cdc.Position) bool { return t.Applied.Sequence > p.Sequence }

// lacks reports whether the table lacks a change at p.
func lacks(t sink.TableState, p cdc.Position) bool { return p.Sequence > t.Applied.Sequence }

// later returns whichever of the two positions comes later in the stream.
func later(a, b cdc.Position) cdc.Position {
	if a.Sequence >= b.Sequence {
		return a
	}
	return a.Advance(b)
}
