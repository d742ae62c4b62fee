package reconciler

import (
	"context"
	"log/slog"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Retry calls fn until it succeeds, returns an error that is not transient, or ctx
// is done, whose cause is then the error. While retrying, or if fn does not return, it
// logs, and sets the condition of health.
func Retry(ctx context.Context, health *telemetry.Health, logger *slog.Logger, condition string, fn func() error) error {
	var backoff retry.Backoff
	failure := "" // of the latest attempt
	for {
		err := retry.Watch(func() {
			silence := retry.After(retry.ErrNoAnswer, failure)
			health.Set(condition, silence)
			logger.Warn("waiting for "+label(condition), "error", silence)
		}, fn)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil || ctx.Err() != nil || fault.Of(err) != fault.Transient {
			health.Set(condition, nil)
			return err
		}
		wait := backoff.Next(err)
		failure = err.Error()
		health.Set(condition, err)
		logger.Warn("waiting for "+label(condition)+", and trying again", "error", err, "wait", wait.Round(time.Millisecond))
		sleep(ctx, wait)
	}
}

func (r *Reconciler) retry(ctx context.Context, condition string, fn func() error) error {
	return Retry(ctx, r.Health, r.Logger, condition, fn)
}

// label is how a condition of health is called in a sentence.
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

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
