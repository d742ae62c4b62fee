package tables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// destination records applied changes, and loses nothing in a crash.
type destination struct {
	Sink   // no other method is called
	main   cdc.Position
	states map[string]sink.TableState
	has    map[string]uint64 // the latest change of each table
	fails  bool
	wrong  string
}

var errDown = errors.New("the destination is down")

func (d *destination) Apply(ctx context.Context, b *change.Batch) error {
	return d.ApplyTables(ctx, b, nil)
}

func (d *destination) ApplyTables(_ context.Context, b *change.Batch, states []sink.TableState) error {
	if d.fails {
		return errDown
	}
	d.write(b)
	d.main = b.Last
	d.record(states)
	return nil
}

func (d *destination) Advance(_ context.Context, b *change.Batch, states []sink.TableState) error {
	if d.fails {
		return errDown
	}
	d.write(b)
	d.record(states)
	return nil
}

func (d *destination) record(states []sink.TableState) {
	for _, t := range states {
		d.states[t.Table] = t
		if t.State == sink.OK && t.Applied.Sequence <= d.main.Sequence {
			delete(d.states, t.Table)
		}
	}
}

// write applies changes. Message n is a change of the table names[n % len(names)].
func (d *destination) write(b *change.Batch) {
	for _, e := range b.Events {
		n := e.Position.Sequence
		if before := n - min(n, uint64(len(names))); d.has[e.Table] < before {
			d.wrong = fmt.Sprintf("change %d of table %s is applied, and change %d before it was not", n, e.Table, before)
		}
		d.has[e.Table] = n // applying a change again restores an older row
	}
}

var names = []string{"a", "b", "c"}

func tableOf(n uint64) string { return names[n%uint64(len(names))] }

// batch returns the changes from first to last that the gate applies.
func batch(applies func(string, cdc.Position) bool, first, last uint64) *change.Batch {
	b := &change.Batch{First: cdc.Position{Sequence: first}, Last: cdc.Position{Sequence: last}}
	for n := first; n <= last; n++ {
		if p := (cdc.Position{Sequence: n}); applies(tableOf(n), p) {
			b.Events = append(b.Events, &cdc.Event{Table: tableOf(n), Position: p})
		}
	}
	return b
}

// TestSet_AppliesEveryChangeOnceInOrder applies one stream with a main pipeline and lanes. Their
// batches are applied in random order, with failures of tables and of the destination, and with
// crashes. No table may get a change before all of its earlier changes, and in the end each table
// must have all of its changes.
func TestSet_AppliesEveryChangeOnceInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const stream = 60
		ctx := t.Context()
		d := &destination{states: make(map[string]sink.TableState), has: make(map[string]uint64)}
		now := time.Unix(1_800_000_000, 0)
		var s *Set
		var main *MainView
		var lane *LaneView
		var at uint64 // that the lane has read
		start := func() {
			var states []sink.TableState
			for _, state := range d.states {
				states = append(states, state)
			}
			s = New(states, d.main, slog.New(slog.DiscardHandler))
			s.now = func() time.Time { return now }
			main, lane = s.Main(d), nil
		}
		start()
		mainStep := func(fail string) {
			first := d.main.Sequence + 1
			last := min(first+uint64(rapid.IntRange(0, 5).Draw(t, "batch")), stream)
			if first > stream {
				return
			}
			if fail != "" && main.Applies(fail, cdc.Position{Sequence: first}) {
				main.Fail(fail, d.main, sink.CauseRefused, errors.New("it is too wide"))
			}
			_ = main.Apply(ctx, batch(main.Applies, first, last))
		}
		laneStep := func(fail string) {
			if lane == nil {
				due, _ := s.Due()
				if len(due) == 0 {
					return
				}
				var after cdc.Position
				lane, after = s.Begin(d, due)
				at = after.Sequence
			}
			last := min(at+uint64(rapid.IntRange(1, 8).Draw(t, "lane batch")), stream)
			if s.members[fail] {
				lane.Fail(fail, cdc.Position{}, sink.CauseRefused, errors.New("it is too wide"))
			}
			if last > at && lane.Apply(ctx, batch(lane.Applies, at+1, last)) == nil {
				at = last
			}
		}
		join := func() {
			if lane == nil {
				return
			}
			delivered := func(context.Context) (uint64, uint64, error) { return s.reached.Sequence, stream - at, nil }
			canceled, cancel := context.WithCancel(ctx)
			cancel()
			if s.reached.Sequence >= s.position.Sequence || at == stream {
				canceled = ctx
			}
			if s.Join(canceled, lane, time.Second, delivered) == nil {
				lane = nil
			}
		}
		steps := rapid.IntRange(10, 80).Draw(t, "steps")
		for range steps {
			fail := rapid.SampledFrom([]string{"", "", "", "a", "b", "c"}).Draw(t, "fail")
			d.fails = rapid.IntRange(0, 9).Draw(t, "destination") == 0
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1, 2:
				mainStep(fail)
			case 3, 4:
				laneStep(fail)
			case 5:
				join()
			case 6:
				now = now.Add(24 * time.Hour)
				if rapid.Bool().Draw(t, "crash") {
					start()
				}
			}
			if d.wrong != "" {
				t.Fatal(d.wrong)
			}
		}
		d.fails = false
		for range 10 * stream {
			now = now.Add(24 * time.Hour)
			mainStep("")
			laneStep("")
			join()
		}
		if d.wrong != "" {
			t.Fatal(d.wrong)
		}
		if left := s.States(); len(left) > 0 || d.main.Sequence != stream {
			t.Fatalf("at message %d, %d tables are not OK: %v", d.main.Sequence, len(left), left)
		}
		for i, name := range slices.Sorted(slices.Values(names)) {
			if want := uint64(stream) - (uint64(stream)-uint64(i))%uint64(len(names)); d.has[name] != want {
				t.Fatalf("table %s has changes up to %d, not %d", name, d.has[name], want)
			}
		}
	})
}
