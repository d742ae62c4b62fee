// Package tables holds the states of a destination's tables while its stream is followed,
// and decides who applies the changes of which table.
//
// Two pipelines share a Set. The main one moves the checkpoint, and skips the changes of
// tables that are behind. The lane reads these from the stream again, and brings the tables
// forward. When it has caught up, Join hands them back to the main pipeline. Both apply
// through one sink, one batch at a time, so whoever applies a change of a table knows that
// the table has all earlier ones.
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

// Bounds of the wait between two attempts to bring a table forward that failed by the
// table's own fault. It doubles. HQ often publishes a schema version just after its first
// change, and nothing tells when it publishes one later.
const (
	firstWait       = time.Minute
	lastWait        = 24 * time.Hour
	firstDenialWait = 5 * time.Second
	lastDenialWait  = 10 * time.Minute
)

// denialPatience is for how long HQ may deny a schema version, while it knows newer ones
// of the table or does not have the table any more, before changes of that version become
// dead letters.
const denialPatience = time.Hour

// maxReason bounds the text of a reason, in bytes.
const maxReason = 1000

// Set is the states of all tables. It is safe for concurrent use.
type Set struct {
	logger *slog.Logger
	now    func() time.Time
	main   turn // held by the main pipeline while it applies a batch
	lane   turn // likewise by the lane
	// recording is held while states are recorded, so that older ones never follow newer.
	recording sync.Mutex
	// migrated receives after the main pipeline has changed a table.
	migrated chan struct{}

	mu       sync.Mutex
	states   map[string]sink.TableState // of tables that are not OK, or ahead of position
	unstored map[string]bool            // states that are not recorded yet
	known    map[string]bool            // denied tables of which HQ knows a newer version
	gone     map[string]bool            // denied tables that HQ does not have any more
	deletes  map[string]deletes         // by table
	position cdc.Position               // that the main pipeline has applied
	members  map[string]bool            // tables of the lane
	held     map[string]bool            // tables that an import is about to replace
	reached  cdc.Position               // that the lane has applied
	changed  chan struct{}              // closed and replaced at each change; nil if no caller waits
}

// New returns a Set with recorded states, while the main pipeline has applied everything
// up to position.
func New(states []sink.TableState, position cdc.Position, logger *slog.Logger) *Set {
	s := &Set{
		logger: logger, now: time.Now, main: newTurn(), lane: newTurn(), states: make(map[string]sink.TableState), unstored: make(map[string]bool),
		known: make(map[string]bool), gone: make(map[string]bool), deletes: make(map[string]deletes), position: position, members: make(map[string]bool),
		migrated: make(chan struct{}, 1), held: make(map[string]bool),
	}
	for _, t := range states {
		s.states[t.Table] = t
	}
	return s
}

// States returns the tables that are not OK, by name.
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

// Due returns the tables that are behind and can be brought forward now, and when the next
// one is due, zero if none is. Held tables wait.
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

// Lose records that the stream no longer has the changes of tables before message first.
// They are brought forward from there, without the lost ones.
func (s *Set) Lose(first uint64, reason error) {
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

// Accept records that the operator accepts the gaps of tables.
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

// Members returns how many tables the lane has.
func (s *Set) Members() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members)
}

// Changed returns a channel that is closed at the next change.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// notify wakes those who wait for a change. The lock is held.
func (s *Set) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// put changes a state. The lock is held.
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
	log("the state of a table has changed", "table", t.Table, "state", t.State, "cause", t.Cause, "reason", t.Reason, "remedy", t.Remedy())
}

// stored takes states for recorded. The lock is held.
func (s *Set) stored(states []sink.TableState, through cdc.Position) {
	for _, t := range states {
		now, ok := s.states[t.Table]
		if !ok || now != t {
			continue // it has changed since
		}
		delete(s.unstored, t.Table)
		if t.State == sink.OK && t.Applied.Sequence <= through.Sequence {
			delete(s.states, t.Table)
		}
	}
	s.notify()
}

// failed returns t after another failure.
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
	if t.Attempts < 16 { // more would overflow
		wait = min(first<<t.Attempts, last)
	}
	t.Attempts++
	t.Next = now.Add(wait)
	return t
}

// turn is a lock that can be waited for until a context ends.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) giveBack() { <-t }

// later returns the later one of two positions.
func later(a, b cdc.Position) cdc.Position {
	if a.Sequence >= b.Sequence {
		return a
	}
	return a.Advance(b)
}
