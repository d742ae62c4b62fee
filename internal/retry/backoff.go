package retry

import (
	"math/rand/v2"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Backoff provides growing, jittered waits. The zero value starts at 100 ms and doubles up to 30
// s. Each wait is random, from half of the current step up to the full step, so that clients that
// failed together do not retry together.
type Backoff struct {
	Min, Max time.Duration
	step     time.Duration
}

// Next returns the wait before the next attempt after err. The wait is not shorter than the time
// that the other side asked for (fault.RetryAfter).
func (b *Backoff) Next(err error) time.Duration {
	low, high := b.Min, b.Max
	if low <= 0 {
		low = 100 * time.Millisecond
	}
	if high <= 0 {
		high = 30 * time.Second
	}
	b.step = min(max(b.step*2, low), high)
	wait := b.step/2 + rand.N(b.step/2+1)
	return max(wait, fault.RetryAfter(err))
}

// Reset restarts the waits at the shortest one.
func (b *Backoff) Reset() { b.step = 0 }
