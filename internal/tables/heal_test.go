package tables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var start = time.Unix(1_800_000_000, 0).UTC()

func at(n uint64) cdc.Position { return cdc.Position{Sequence: n} }

// newSet returns a Set with states, at message 10, and its destination.
func newSet(states ...sink.TableState) (*Set, *destination) {
	d := &destination{main: at(10), states: make(map[string]sink.TableState), has: make(map[string]uint64)}
	s := New(states, at(10), slog.New(slog.DiscardHandler))
	s.now = func() time.Time { return start }
	d.record(states)
	return s, d
}

// TestSet_MarkRecordsFoundStates at the main pipeline's position, and keeps states that are worse
// or that the lane handles.
func TestSet_MarkRecordsFoundStates(t *testing.T) {
	earlier := start.Add(-time.Hour)
	absent := sink.TableState{
		Table: "a", State: sink.Missing, Cause: sink.CauseAbsent, Reason: "it is absent", Next: start.Add(time.Minute),
	}
	emptied := sink.TableState{Table: "a", State: sink.Incomplete, Cause: sink.CauseEmptied, Reason: "it is empty", Gap: "it is empty"}
	with := func(t sink.TableState, edit func(*sink.TableState)) *sink.TableState { edit(&t); return &t }
	now := func(t *sink.TableState) { t.Applied, t.Since = at(10), start }
	behind := &sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseRefused, Applied: at(3), Since: earlier}
	fresh := &sink.TableState{Table: "a", State: sink.Missing, Cause: sink.CauseNew, Applied: at(3), Since: earlier}
	before := with(emptied, func(t *sink.TableState) { t.Applied, t.Since, t.Accepted = at(4), earlier, true })
	for name, c := range map[string]struct {
		was   *sink.TableState
		found sink.TableState
		want  *sink.TableState
	}{
		"ok, absent":  {nil, absent, with(absent, now)},
		"ok, emptied": {nil, emptied, with(emptied, now)},
		"ahead, absent": {
			&sink.TableState{Table: "a", State: sink.OK, Applied: at(12)}, absent,
			with(absent, func(t *sink.TableState) { t.Applied, t.Since = at(12), start }),
		},
		"behind":              {behind, absent, behind},
		"missing":             {fresh, absent, fresh},
		"emptied, accepted":   {before, emptied, before},
		"emptied, now absent": {before, absent, with(absent, func(t *sink.TableState) { now(t); t.Gap = emptied.Gap })},
		"a gap, now emptied": {
			&sink.TableState{Table: "a", State: sink.Incomplete, Cause: sink.CauseGap, Gap: "gap", Accepted: true},
			emptied, with(emptied, now),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var states []sink.TableState
			if c.was != nil {
				states = append(states, *c.was)
			}
			s, d := newSet(states...)
			if err := s.Mark(t.Context(), d, []sink.TableState{c.found}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]sink.TableState{*c.want}, s.States()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(map[string]sink.TableState{"a": *c.want}, d.states); diff != "" {
				t.Error("recorded:", diff)
			}
			if main := s.Main(d); main.Applies("a", at(13)) != c.want.State.Applies() {
				t.Errorf("a table that is %s is applied: %t", c.want.State, main.Applies("a", at(13)))
			}
		})
	}
}

func TestSet_MarkWaitsForTheBatch(t *testing.T) {
	s, d := newSet()
	main := s.Main(d)
	if err := main.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	over, end := context.WithCancelCause(t.Context())
	end(errDown)
	found := []sink.TableState{{Table: "a", State: sink.Missing, Cause: sink.CauseAbsent}}
	if err := s.Mark(over, d, found); !errors.Is(err, errDown) || len(s.States()) > 0 {
		t.Errorf("in the middle of a batch, Mark returns %v, and the states are %v", err, s.States())
	}
	main.Leave()
	if err := s.Mark(t.Context(), d, found); err != nil || len(s.States()) != 1 {
		t.Errorf("after the batch, Mark returns %v, and the states are %v", err, s.States())
	}
}

// TestSet_PostponeAndLeaveToStream change only tables that are missing.
func TestSet_PostponeAndLeaveToStream(t *testing.T) {
	missing := sink.TableState{Table: "a", State: sink.Missing, Cause: sink.CauseNew, Reason: "it is new", Applied: at(4), Since: start}
	behind := sink.TableState{Table: "b", State: sink.Behind, Cause: sink.CauseRefused, Reason: "no", Applied: at(4), Since: start}
	s, d := newSet(missing, behind)
	check := func(want ...sink.TableState) {
		t.Helper()
		if diff := cmp.Diff(want, s.States()); diff != "" {
			t.Error(diff)
		}
		for _, w := range want {
			if diff := cmp.Diff(w, d.states[w.Table]); diff != "" {
				t.Error("recorded:", diff)
			}
		}
	}
	next := start.Add(24 * time.Hour)
	if err := s.Postpone(t.Context(), d, []string{"a", "b", "c"}, next, ""); err != nil {
		t.Fatal(err)
	}
	missing.Attempts, missing.Next = 1, next
	check(missing, behind)
	if err := s.Postpone(t.Context(), d, []string{"a"}, next.Add(time.Hour), "too slow"); err != nil {
		t.Fatal(err)
	}
	missing.Attempts, missing.Next, missing.Reason = 2, next.Add(time.Hour), "too slow"
	check(missing, behind)
	if err := s.LeaveToStream(t.Context(), d, []string{"a", "b"}, "no rows"); err != nil {
		t.Fatal(err)
	}
	check(
		sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseImporting, Reason: "no rows", Applied: at(4), Since: start},
		behind,
	)
	if due, _ := s.Due(); len(due) != 2 {
		t.Errorf("the lane brings %v forward, want both", due)
	}
}

// TestLane_DeniedAfterAnHour if HQ knows newer versions of the table or no longer has it.
func TestLane_DeniedAfterAnHour(t *testing.T) {
	for name, c := range map[string]struct {
		since time.Duration
		known bool
		has   bool
		want  bool
	}{
		"newer versions, an hour":  {since: time.Hour, known: true, has: true, want: true},
		"newer versions, too soon": {since: time.Hour - 1, known: true, has: true},
		"table gone, an hour":      {since: time.Hour, want: true},
		"table gone, too soon":     {since: time.Hour - 1},
		"table there, no newer":    {since: 24 * time.Hour, has: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, d := newSet(sink.TableState{Table: "a", State: sink.Behind, Cause: sink.CauseDenied, Since: start.Add(-c.since)})
			if c.known {
				s.Main(d).Known("a")
			}
			s.SetGone(func(string) bool { return c.has })
			lane, _ := s.Begin(d, s.States())
			if got := lane.Denied("a"); got != c.want {
				t.Errorf("denied: %t", got)
			}
			s.SetGone(func(string) bool { return true })
			if got := lane.Denied("a"); got != (c.want && c.known) {
				t.Errorf("denied after the table has come back: %t", got)
			}
		})
	}
}

// TestSet_CountsDeletes that may be durable already, and those that have ended.
func TestSet_CountsDeletes(t *testing.T) {
	type counts struct{ begun, ended uint64 }
	s, d := newSet()
	get := func() counts { b, e := s.Deletes("a"); return counts{b, e} }
	b := &change.Batch{Last: at(11), Sets: []*change.RowSet{
		{Table: &schema.Table{Name: "a"}, Deletes: make([]change.Row, 3)},
		{Table: &schema.Table{Name: "b"}, Upserts: make([]change.Row, 1)},
	}}
	during := counts{}
	probe := &probed{destination: d, apply: func() { during = get() }}
	if err := s.Main(probe).Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if want := (counts{3, 0}); during != want {
		t.Errorf("during the batch: %v, want %v", during, want)
	}
	d.fails = true
	if err := s.Main(probe).Apply(t.Context(), b); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	if got, want := get(), (counts{6, 6}); got != want {
		t.Errorf("after another batch, which failed: %v, want %v", got, want)
	}
	d.fails = false
	lane, _ := s.Begin(d, []sink.TableState{{Table: "a", State: sink.Behind}})
	if err := lane.Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got, want := get(), (counts{9, 9}); got != want {
		t.Errorf("after a batch of a lane: %v, want %v", got, want)
	}
}

type probed struct {
	*destination
	apply func()
}

func (p *probed) Apply(ctx context.Context, b *change.Batch) error {
	p.apply()
	return p.destination.Apply(ctx, b)
}

// TestMain_SignalsMigrations that have changed a table.
func TestMain_SignalsMigrations(t *testing.T) {
	s, d := newSet()
	m := &migrating{destination: d}
	signaled := func() bool {
		select {
		case <-s.Migrated():
			return true
		default:
			return false
		}
	}
	migrate := func(changes ...string) {
		m.changes = changes
		got, err := s.Main(m).Migrate(t.Context(), nil)
		if diff := cmp.Diff(changes, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
	}
	migrate()
	if signaled() {
		t.Error("a migration that changed nothing is signaled")
	}
	migrate("made table a")
	migrate("made table b")
	if !signaled() || signaled() {
		t.Error("two migrations are not signaled once")
	}
}

type migrating struct {
	*destination
	changes []string
}

func (m *migrating) Migrate(context.Context, []*schema.Table) ([]string, error) {
	return m.changes, nil
}

// TestLack_MarksTablesIncomplete at once if they are followed, and otherwise once they have caught
// up.
func TestLack_MarksTablesIncomplete(t *testing.T) {
	lost := errors.New("the disk is full")
	behind := sink.TableState{Table: "b", State: sink.Behind, Cause: sink.CauseDenied, Applied: at(5)}
	accepted := sink.TableState{
		Table: "c", State: sink.Incomplete, Cause: sink.CauseGap, Gap: "trimmed", Reason: "trimmed", Applied: at(4), Accepted: true,
	}
	s, d := newSet(behind, accepted)
	main := s.Main(d)
	lane, _ := s.Begin(d, []sink.TableState{behind})
	main.Lack("a", lost)
	main.Lack("c", lost)
	lane.Lack("b", lost)
	got := make(map[string]sink.TableState)
	for _, state := range s.States() {
		got[state.Table] = state
	}
	for name, want := range map[string]sink.TableState{
		"a": {State: sink.Incomplete, Cause: sink.CauseLetters, Applied: at(10)},
		"b": {State: sink.Behind, Cause: sink.CauseDenied, Applied: at(5)},
		"c": {State: sink.Incomplete, Cause: sink.CauseLetters, Applied: at(10)},
	} {
		want.Gap = lost.Error()
		g := got[name]
		g.Table, g.Reason, g.Since, g.Applied.Stored = "", "", time.Time{}, 0
		if diff := cmp.Diff(want, g); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if !main.Applies("a", at(11)) || main.Applies("b", at(11)) {
		t.Error("want: changes of an incomplete table are applied, and those of one that is behind are not")
	}
	main.Lack("a", lost)
	if again := s.States()[0]; again != got["a"] {
		t.Errorf("the same reason changes the state again: %+v", again)
	}
	if err := s.Flush(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

func TestMain_DeniedBoundsTheTablesThatWaitForHQ(t *testing.T) {
	s := New(nil, cdc.Position{Sequence: 1}, slog.New(slog.DiscardHandler))
	m := s.Main(nil)
	for i := range maxStates {
		table := fmt.Sprint("invented", i)
		if m.Denied(table) {
			t.Fatalf("a change of table %d becomes a dead letter", i)
		}
		m.Fail(table, cdc.Position{Sequence: 1}, sink.CauseDenied, errors.New("no such table"))
	}
	if m.Denied("invented1") {
		t.Error("a change of a table that waits already becomes a dead letter")
	}
	if !m.Denied("another") {
		t.Error("the stream can make any number of tables wait")
	}
}

// TestCoverOthers_EndsGapsFromBeforeATime and keeps later ones.
func TestCoverOthers_EndsGapsFromBeforeATime(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	others := sink.TableState{
		Table: sink.OtherTables, State: sink.Incomplete, Cause: sink.CauseGap, Gap: "trimmed", Reason: "trimmed", Since: since,
		Applied: at(3),
	}
	part := others
	part.Table = "part"
	for name, c := range map[string]struct {
		before time.Time
		left   int
	}{"earlier": {since, 2}, "later": {since.Add(time.Second), 1}} {
		s, d := newSet(others, part)
		s.CoverOthers(c.before)
		if err := s.Flush(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if got := s.States(); len(got) != c.left || got[len(got)-1].Table != "part" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
