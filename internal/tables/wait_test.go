package tables

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// TestLane_WaitsLongerAfterEachFailure up to a bound. The bound is short for denied versions,
// because HQ may publish a version at any time.
func TestLane_WaitsLongerAfterEachFailure(t *testing.T) {
	for cause, want := range map[sink.Cause][]time.Duration{
		sink.CauseDenied:  {5 * time.Second, 10 * time.Second, 20 * time.Second, 10 * time.Minute},
		sink.CauseRefused: {time.Minute, 2 * time.Minute, 4 * time.Minute, 24 * time.Hour},
	} {
		t.Run(string(cause), func(t *testing.T) {
			now := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
			s := New(nil, cdc.Position{Sequence: 9}, slog.New(slog.DiscardHandler))
			s.now = func() time.Time { return now }
			s.Main(nil).Fail("t", cdc.Position{Sequence: 5}, cause, errors.New("no"))
			var waits []time.Duration
			for n := range 20 {
				state := s.States()[0]
				if n < 3 || n == 19 {
					waits = append(waits, state.Next.Sub(now))
				}
				now = state.Next
				due, _ := s.Due()
				lane, _ := s.Begin(nil, due)
				lane.Fail("t", cdc.Position{}, cause, errors.New("no"))
			}
			if diff := cmp.Diff(want, waits); diff != "" {
				t.Error(diff)
			}
		})
	}
}
