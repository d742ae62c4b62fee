package retry_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

func TestBackoff_GrowsWithinItsBoundsAndHonoursRetryAfter(t *testing.T) {
	b := retry.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
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

var errDown = errors.New("connection refused")

func TestDo_StopsWhenThePolicySaysSo(t *testing.T) {
	errOther := errors.New("other")
	poison := fault.Mark(fault.Poison, errors.New("bad row"))
	always := func(err error) func(int) error { return func(int) error { return err } }
	for name, c := range map[string]struct {
		policy retry.Policy
		fails  func(call int) error
		calls  int
		err    error
	}{
		"success":       {fails: always(nil), calls: 1},
		"not transient": {fails: always(poison), calls: 1, err: poison},
		"recovers": {fails: func(call int) error {
			if call < 5 {
				return errDown
			}
			return nil
		}, calls: 5},
		"attempts": {policy: retry.Policy{Attempts: 3}, fails: always(errDown), calls: 3, err: errDown},
		"patience": {
			policy: retry.Policy{Patience: time.Second, Backoff: retry.Backoff{Min: 400 * time.Millisecond, Max: 400 * time.Millisecond}},
			fails:  always(errDown), err: errDown, // three to five calls, because waits are 200 to 400 ms
		},
		"patience from earlier": {
			policy: retry.Policy{Patience: time.Second, Since: time.Unix(1, 0)},
			fails:  always(errDown), calls: 1, err: errDown,
		},
		"own rule": {
			policy: retry.Policy{Retryable: func(err error) bool { return errors.Is(err, errOther) }},
			fails: func(call int) error {
				if call < 2 {
					return errOther
				}
				return errDown
			}, calls: 2, err: errDown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, began := 0, time.Now()
				err := retry.Do(t.Context(), c.policy, func() error { calls++; return c.fails(calls) })
				if !errors.Is(err, c.err) {
					t.Errorf("the error is %v, want %v", err, c.err)
				}
				if p := c.policy.Patience; c.calls == 0 {
					if calls < 3 || calls > 5 || time.Since(began) > p {
						t.Errorf("%d calls in %v", calls, time.Since(began))
					}
				} else if calls != c.calls {
					t.Errorf("%d calls, want %d", calls, c.calls)
				}
			})
		})
	}
}

func TestDo_ReportsFailuresAndHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		calls := 0
		err := retry.Do(t.Context(), retry.Policy{
			Failed: func(err error, wait time.Duration) { events = append(events, fmt.Sprint("failed: ", err, wait > 0)) },
			Hangs:  func(failure string) { events = append(events, "hangs: "+failure) },
		}, func() error {
			if calls++; calls == 3 {
				return nil
			}
			time.Sleep(time.Duration(calls-1) * (retry.HangTimeout + time.Second))
			return errDown
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"failed: connection refused true", "hangs: connection refused", "failed: connection refused true"}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDo_EndsWithTheCauseOfItsContext(t *testing.T) {
	errStopped := errors.New("stopped")
	for name, late := range map[string]bool{"during a call": false, "during a wait": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				calls := 0
				err := retry.Do(ctx, retry.Policy{Failed: func(error, time.Duration) { cancel(errStopped) }}, func() error {
					if calls++; !late {
						cancel(errStopped)
					}
					return errDown
				})
				if !errors.Is(err, errStopped) || calls != 1 {
					t.Errorf("%v after %d calls", err, calls)
				}
			})
		})
	}
}
