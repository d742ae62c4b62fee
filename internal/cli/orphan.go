package cli

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"
)

// orphanLimit is how long a process goes on whose parent is gone. The next server
// needs its data directory and its session.
const orphanLimit = time.Minute

// errOrphaned ends what would take longer.
var errOrphaned = errors.New("the parent process is gone, and an orderly end took too long; what was not finished is done again at the next start")

// limitOrphan bounds the life of a process that ends because its parent is gone, and
// returns when ctx ends. After half of the time it calls abandon, which ends what waits
// for a destination, HQ or NATS; after all of it, the program.
func (p Process) limitOrphan(ctx context.Context, orphaned <-chan struct{}, abandon func(error), logger *slog.Logger) {
	select {
	case <-orphaned:
	case <-ctx.Done():
		return
	}
	half := cmp.Or(p.OrphanLimit, orphanLimit) / 2
	logger.Warn("the parent process is gone; this one ends too", "limit", 2*half)
	if !lasts(ctx, half) {
		return
	}
	logger.Error("an orderly end takes too long; stopping at once")
	abandon(errOrphaned)
	if lasts(ctx, half) {
		logger.Error("stopping takes too long; ending the process")
		p.signals.expire()
	}
}

// lasts waits for d and reports whether ctx still lasts then.
func lasts(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
