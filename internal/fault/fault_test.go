package fault_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

func TestClassIsTheOutermostOneGiven(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		want fault.Class
	}{
		{cause, fault.Transient},
		{fmt.Errorf("merge: %w", fault.Mark(fault.Poison, cause)), fault.Poison},
		{fault.Mark(fault.Fatal, fmt.Errorf("open: %w", fault.Mark(fault.Poison, cause))), fault.Fatal},
	} {
		if got := fault.Of(c.err); got != c.want {
			t.Errorf("Of(%v) = %v, want %v", c.err, got, c.want)
		}
		if !errors.Is(c.err, cause) {
			t.Errorf("%v lost its cause", c.err)
		}
	}
	if fault.Mark(fault.Fatal, nil) != nil {
		t.Error("nil must stay nil")
	}
}

func TestBackoffGrowsWithinItsBoundsAndHonoursRetryAfter(t *testing.T) {
	b := fault.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for i, high := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		high *= time.Millisecond
		if got := b.Next(nil); got < high/2 || got > high {
			t.Errorf("wait %d is %v, want between %v and %v", i, got, high/2, high)
		}
	}
	b.Reset()
	if got := b.Next(nil); got > 100*time.Millisecond {
		t.Errorf("after Reset: %v", got)
	}
	asked := &fault.Error{RetryAfter: time.Minute, Err: errors.New("429")}
	if got := b.Next(fmt.Errorf("wrapped: %w", asked)); got != time.Minute {
		t.Errorf("asked for a minute, got %v", got)
	}
}
