package cli

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// orphanLimit is the maximum time that a process continues after its parent has ended. The limit
// exists because the next server needs the data directory and the session.
const orphanLimit = time.Minute

// errOrphaned is the cause with which work is canceled after half of the limit.
var errOrphaned = errors.New(
	"the parent process has ended, and an orderly shutdown took too long; unfinished work is repeated at the next start",
)

// limitOrphan limits the time for the shutdown of a process whose parent has ended. After half of
// the limit it calls the function abandon, which must cancel waits for a destination, HQ or NATS.
// After the whole limit it ends the program. It returns when ctx is done.
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
