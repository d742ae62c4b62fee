package tables

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func upTo(n uint64) cdc.Position { return cdc.Position{Sequence: n} }

// TestSet_ReplaceLeavesTablesBehind at the position of the main pipeline, or at their own.
func TestSet_ReplaceLeavesTablesBehind(t *testing.T) {
	for name, c := range map[string]struct {
		before *sink.TableState
		want   cdc.Position
		after  sink.TableState // without Reason and Since
	}{
		"OK": {nil, upTo(10), sink.TableState{Table: "a", State: sink.Behind, Applied: upTo(10), Cause: sink.CauseImporting}},
		"ahead": {
			&sink.TableState{Table: "a", State: sink.OK, Applied: upTo(12)}, upTo(12),
			sink.TableState{Table: "a", State: sink.Behind, Applied: upTo(12), Cause: sink.CauseImporting},
		},
		"incomplete": {
			&sink.TableState{Table: "a", State: sink.Incomplete, Cause: sink.CauseGap, Gap: "7 is lost", Accepted: true}, upTo(10),
			sink.TableState{
				Table: "a", State: sink.Behind, Applied: upTo(10), Cause: sink.CauseImporting, Gap: "7 is lost", Accepted: true,
			},
		},
		"behind": {
			&sink.TableState{Table: "a", State: sink.Behind, Applied: upTo(4), Cause: sink.CauseRefused}, upTo(10),
			sink.TableState{Table: "a", State: sink.Behind, Applied: upTo(4), Cause: sink.CauseRefused},
		},
		"missing": {
			&sink.TableState{Table: "a", State: sink.Missing, Cause: sink.CauseAbsent}, upTo(10),
			sink.TableState{Table: "a", State: sink.Missing, Cause: sink.CauseAbsent},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &destination{main: upTo(10), states: make(map[string]sink.TableState), has: make(map[string]uint64)}
			var states []sink.TableState
			if c.before != nil {
				states = append(states, *c.before)
				d.states["a"] = *c.before
			}
			s := New(states, upTo(10), slog.New(slog.DiscardHandler))
			s.Hold("a")
			var asked cdc.Position
			got, err := s.Replace(t.Context(), "a", d, time.Second, func(_ context.Context, p cdc.Position) error {
				asked = p
				return nil
			})
			if err != nil || got != c.want || asked != c.want {
				t.Errorf("left at %v after catching up with %v, want %v: %v", got, asked, c.want, err)
			}
			recorded := d.states["a"]
			recorded.Reason, recorded.Since = "", time.Time{}
			if diff := cmp.Diff(c.after, recorded); diff != "" {
				t.Errorf("the recorded state: %s", diff)
			}
			if s.Main(d).Applies("a", upTo(11)) && c.after.State != sink.Missing {
				t.Error("the main pipeline still applies the table")
			}
			if due, _ := s.Due(); len(due) > 0 {
				t.Errorf("a lane takes %v", due)
			}
			s.Unhold("a")
			if due, _ := s.Due(); (len(due) > 0) != (c.after.State == sink.Behind) {
				t.Errorf("when it is released, a lane takes %v", due)
			}
		})
	}
}

// TestSet_ReplaceHoldsTheMainPipelineForALimitedTime and keeps following the table.
func TestSet_ReplaceHoldsTheMainPipelineForALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &destination{main: upTo(10), states: make(map[string]sink.TableState), has: make(map[string]uint64)}
		s := New(nil, upTo(10), slog.New(slog.DiscardHandler))
		main, began := s.Main(d), time.Now()
		entered := make(chan error)
		_, err := s.Replace(t.Context(), "a", d, 3*time.Second, func(ctx context.Context, _ cdc.Position) error {
			go func() { entered <- main.Enter(t.Context()) }()
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, ErrNotCaughtUp) {
			t.Errorf("got %v", err)
		}
		if err := <-entered; err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("the main pipeline continues after %v: %v", time.Since(began), err)
		}
		main.Leave()
		if !main.Applies("a", upTo(11)) || len(d.states) > 0 {
			t.Errorf("the table is left although its rows have not caught up: %v", d.states)
		}
	})
}
