package fault_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

func TestOf_ReturnsTheOutermostClass(t *testing.T) {
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

func TestRetryAfter_IsBounded(t *testing.T) {
	for _, asked := range []time.Duration{time.Hour, 68 * 365 * 24 * time.Hour, math.MaxInt64} {
		err := fmt.Errorf("wrapped: %w", &fault.Error{RetryAfter: asked, Err: errors.New("429")})
		if got := fault.RetryAfter(err); got != 10*time.Minute {
			t.Errorf("RetryAfter of %v is %v", asked, got)
		}
		if got := new(retry.Backoff).Next(err); got != 10*time.Minute {
			t.Errorf("Next after %v is %v", asked, got)
		}
	}
	if got := fault.RetryAfter(&fault.Error{RetryAfter: -time.Hour, Err: errors.New("429")}); got != 0 {
		t.Errorf("a negative wait is %v", got)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, time.November, 22, 7, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "600": 10 * time.Minute,
		"601": 10 * time.Minute, "2147483647": 10 * time.Minute, "4294967296": 10 * time.Minute,
		"9223372036854775808": 10 * time.Minute, "99999999999999999999999": 10 * time.Minute,
		"-1": 0, "-9223372036854775808": 0, "1.5": 0, "1e9": 0, "0x10": 0, "soon": 0,
		"Sun, 22 Nov 2026 07:00:30 GMT":    30 * time.Second,
		"Sunday, 22-Nov-26 07:00:30 GMT":   30 * time.Second,
		"Sun Nov 22 07:00:30 2026":         30 * time.Second,
		"Sun, 22 Nov 2026 06:59:59 GMT":    0,
		"Thu, 01 Jan 1970 00:00:00 GMT":    0,
		"Fri, 31 Dec 9999 23:59:59 GMT":    10 * time.Minute,
		"Fri, 31 Dec 999999 23:59:59 GMT":  0,
		"Sun, 22 Nov 2026 07:00:30 -0700":  0,
		"Sun, 22 Nov 2026 07:00:30 GMT, 7": 0,
	} {
		if got := fault.ParseRetryAfter(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
