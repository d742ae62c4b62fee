package eventhub

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestOnlyStandstillEndsPatience: what moves slowly is waited for, however long it
// takes; what does not move is not.
func TestOnlyStandstillEndsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSession(&choices{patience: time.Second})
		var stopped time.Time
		err := s.within(t.Context(), func(ctx context.Context) error {
			for range 20 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(700 * time.Millisecond):
				}
				s.moved.Add(1)
			}
			stopped = time.Now()
			<-ctx.Done()
			return ctx.Err()
		})
		if waited := time.Since(stopped); !errors.Is(err, errSilent) || stopped.IsZero() || waited < time.Second || waited > 1250*time.Millisecond {
			t.Errorf("after %v: %v", waited, err)
		}
	})
}
