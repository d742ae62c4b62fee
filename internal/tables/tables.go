// Package tables holds the states of a destination's tables while the stream is followed,
// and assigns the changes of each table to a pipeline.
//
// Two pipelines share a Set. The main pipeline moves the checkpoint, and skips the changes of
// tables that are behind. The lane reads these changes from the stream again, and brings the
// tables forward. When it has caught up, Join hands the tables back to the main pipeline. Both
// apply through one sink, one batch at a time. So a pipeline that applies a change of a table
// knows that the table has all earlier ones.
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

// Bounds of the wait before the next attempt to bring a table forward, after the table itself
// has caused a failure. The wait doubles. It is shorter if HQ denies a schema version: HQ often
// publishes a version just after its first change, and sends no notice when it does so later.
const (
	firstWait       = time.Minute
	lastWait        = 24 * time.Hour
	firstDenialWait = 5 * time.Second
	lastDenialWait  = 10 * time.Minute
)

// denialPatience is how long HQ may deny a schema version before changes of that version
// become dead letters. It counts if HQ knows newer versions of the table or no longer has it.
const denialPatience = time.Hour

// maxReason bounds the text of a reason, in bytes.
const maxReason = 1000

// Set holds the states of all tables. It is safe for concurrent use.
type Set struct {
	logger *slog.Logger
	now    func() time.Time
	main   turn // held by the main pipeline while it applies a batch
	lane   turn // held by the lane while it applies a batch
	// recording is held while states are recorded, so that an older state never overwrites a
	// newer one.
	recording sync.Mutex
	// migrated receives after the main pipeline has changed a table.
	migrated chan struct{}

	mu       sync.Mutex
	states   map[string]sink.TableState // of tables that are not OK, or ahead of position
	unstored map[string]bool            // tables whose state is not recorded yet
	known    map[string]bool            // denied tables for which HQ knows a newer version
	gone     map[string]bool            // denied tables that HQ no longer has
	deletes  map[string]deletes         // by table
	position cdc.Position               // the main pipeline has applied everything up to it
	members  map[string]bool            // tables of the lane
	held     map[string]bool            // tables that an import is about to replace
	reached  cdc.Position               // the lane has applied its tables' changes up to it
	changed  chan struct{}              // closed at the next change; nil if no caller waits
}

// New returns a Set with recorded states. The main pipeline has applied everything up to
// position.
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

// States returns the tables that are not OK, sorted by name.
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

// Due returns the tables that are behind and can be brought forward now, and when the next one
// is due; zero if there is none. It omits held tables.
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

// RecordLoss records that the stream no longer has messages before first. The lane's tables
// are brought forward without the lost changes.
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

// Members returns the number of the lane's tables.
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

// notify closes the channel of Changed. The lock is held.
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
	log("the state of a table has changed", "table", t.Table, "state", t.State, "cause", t.Cause, "reason", t.Reason,
		"remedy", t.Remedy())
}

// markStored marks states as recorded. It drops those of tables that are OK at through. The
// lock is held.
func (s *Set) markStored(states []sink.TableState, through cdc.Position) {
	for _, t := range states {
		now, ok := s.states[t.Table]
		if !ok || now != t {
			continue // it has changed since
		}
		delete(s.unstored, t.Table)
		if t.State == sink.OK && !ahead(t, through) {
			delete(s.states, t.Table)
		}
	}
	s.notify()
}

// failed returns the state t after another failure.
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

// turn is a lock whose acquisition ends with a context.
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

// ahead reports whether the table has changes after p.
func ahead(t sink.TableState, p cdc.Position) bool { return t.Applied.Sequence > p.Sequence }

// lacks reports whether the table lacks a change at p.
func lacks(t sink.TableState, p cdc.Position) bool { return p.Sequence > t.Applied.Sequence }

// later returns the later of two positions.
func later(a, b cdc.Position) cdc.Position {
	if a.Sequence >= b.Sequence {
		return a
	}
	return a.Advance(b)
}
