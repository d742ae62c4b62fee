package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/state"
)

// heartbeatInterval is the time between two heartbeats.
const heartbeatInterval = time.Minute

// sendHeartbeats sends a heartbeat immediately, and then one per heartbeatInterval until ctx is
// done.
func (s *hqSession) sendHeartbeats(ctx context.Context) {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	for {
		s.logSendError(s.channel.SendHeartbeat(s.agent.Heartbeat(ctx)))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// sendImportOutcomes sends the outcome of each import that HQ has requested in this session or
// in an earlier one. HQ may receive an outcome twice if the process crashes or the connection
// breaks while the outcome is being sent.
func (s *hqSession) sendImportOutcomes(ctx context.Context) {
	a := s.agent
	for {
		outcome, ok := a.Reconciler.AwaitOutcome(ctx)
		if !ok {
			return
		}
		err := reconciler.Retry(ctx, a.Health, a.Logger, "nats", func() error { return s.sendImportOutcome(ctx, outcome) })
		if err == nil {
			err = a.Reconciler.OutcomeReceived(outcome.ID)
		}
		if err != nil {
			s.logSendError(fmt.Errorf("send the outcome of the import %s: %w", outcome.ID, err))
			return
		}
	}
}

func (s *hqSession) sendImportOutcome(ctx context.Context, imported state.ImportOutcome) error {
	s.importing.Lock()
	defer s.importing.Unlock()
	var failed error
	if imported.Error != "" {
		failed = errors.New(imported.Error)
	}
	if !s.conn.IsConnected() {
		return nats.ErrConnectionReconnecting // NATS would buffer the message, and another session would send it again
	}
	outcome := s.outcome("", failed)
	if failed == nil {
		outcome.Message = imported.Note
	}
	if err := s.channel.Respond("import", outcome); err != nil {
		return err
	}
	// The outcome is sent even if the session is ending.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return s.channel.Flush(ctx)
}
