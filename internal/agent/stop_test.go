package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
)

func TestFailure_IsWhatNeedsTheOperator(t *testing.T) {
	running, stopping := t.Context(), func() context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errShutdown)
		return ctx
	}()
	refused := errors.New("connection refused")
	for name, c := range map[string]struct {
		err                     error
		whileRunning, atTheStop bool
	}{
		"an orderly end":                 {nil, false, false},
		"a renewal":                      {errRenew, false, false},
		"a restart order":                {errRestart, false, false},
		"a restart whose flush failed":   {errors.Join(errRestart, refused), false, false},
		"the stop":                       {fmt.Errorf("connect: %w", errShutdown), true, false},
		"a destination, NATS or HQ":      {&reconciler.DestinationError{Err: refused}, true, false},
		"a refused credential":           {fmt.Errorf("%w: %w", errRefused, refused), true, false},
		"a closed connection":            {fault.Mark(fault.Fatal, jetstream.ErrClosed), true, false},
		"a configuration":                {fault.Mark(fault.Fatal, errors.New("no company")), true, true},
		"a gap":                          {fault.Mark(fault.Fatal, &continuity.GapError{}), true, true},
		"changes that were not finished": {errors.Join(pipeline.ErrAbandoned, refused), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := failure(running, c.err) != nil; got != c.whileRunning {
				t.Errorf("while the server runs it fails: %v", got)
			}
			if got := failure(stopping, c.err) != nil; got != c.atTheStop {
				t.Errorf("at the stop it fails: %v", got)
			}
		})
	}
}
