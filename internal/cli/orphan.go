package cli

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// orphanLimit is how long a process may run after its parent has ended. The next server
// needs its data directory and its session.
const orphanLimit = time.Minute

// errOrphaned is the cause that cancels work after half of the limit.
var errOrphaned = errors.New(
	"the parent process has ended, and an orderly shutdown took too long; unfinished work is repeated at the next start",
)

// limitOrphan bounds the shutdown of a process whose parent has ended, and returns when ctx
// ends. After half of the limit it calls abandon, which cancels waits for a destination, HQ
// or NATS. After the whole limit it ends the program.
func (p Process) limitOrphan(ctx context.Context, orphaned <-chan struct{}, abandon func(error), logger *slog.Logger) {
	select {
	case <-orphaned:
	case <-ctx.Done():
		return
	}
	half := cmp.Or(p.OrphanLimit, orphanLimit) / 2
	logger.Warn("the parent process has ended; this process ends too", "limit", 2*half)
	if retry.Sleep(ctx, half) != nil {
		return
	}
	logger.Error("an orderly shutdown takes too long; stopping at once")
	abandon(errOrphaned)
	if retry.Sleep(ctx, half) == nil {
		logger.Error("stopping takes too long; ending the process")
		p.signals.expire()
	}
}
