package cli

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestOrphanLimit_StopsAtOnceAndThenEndsTheProgram has calls that ignore their context.
func TestOrphanLimit_StopsAtOnceAndThenEndsTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var abandoned time.Duration
		p := Process{signals: newSignals()}
		orphaned := make(chan struct{})
		close(orphaned)
		p.limitOrphan(t.Context(), orphaned, func(error) { abandoned = time.Since(began) }, slog.New(slog.DiscardHandler))
		<-p.signals.expired
		if diff := cmp.Diff([]time.Duration{30 * time.Second, time.Minute}, []time.Duration{abandoned, time.Since(began)}); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOrphanLimit_LeavesAnOrderlyEndAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 29*time.Second)
		defer cancel()
		p := Process{signals: newSignals()}
		orphaned := make(chan struct{})
		close(orphaned)
		p.limitOrphan(ctx, orphaned, func(error) { t.Error("it is stopped at once") }, slog.New(slog.DiscardHandler))
		select {
		case <-p.signals.expired:
			t.Error("the program is ended")
		default:
		}
	})
}
