package reconciler

import (
	"context"
	"log/slog"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Retry calls fn until it succeeds, fails with an error that is not transient, or ctx ends. It
// returns nil, the error of fn, or the cause of ctx. While fn fails or hangs, Retry logs the reason
// and sets the health condition. Retry clears the condition before it returns.
func Retry(ctx context.Context, health *telemetry.Health, logger *slog.Logger, condition string, fn func() error) error {
	waiting := "waiting for " + label(condition)
	policy := retry.Policy{
		Failed: func(err error, wait time.Duration) {
			health.Set(condition, err)
			logger.Warn(waiting+", and trying again", "error", err, "wait", wait.Round(time.Millisecond))
		},
		Hangs: func(failure string) {
			err := retry.After(retry.ErrNoAnswer, failure)
			health.Set(condition, err)
			logger.Warn(waiting, "error", err)
		},
	}
	err := retry.Do(ctx, policy, fn)
	health.Set(condition, nil)
	return err
}

func (r *Reconciler) retry(ctx context.Context, condition string, fn func() error) error {
	return Retry(ctx, r.Health, r.Logger, condition, fn)
}

// label returns the name of a health condition for use in a sentence.
func label(condition string) string {
	switch condition {
	case "nats":
		return "NATS"
	case conditionImport:
		return "the destination of the import"
	default:
		return "the " + condition
	}
}
