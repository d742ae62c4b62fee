package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

const (
	// watchInterval is the interval at which watch updates health.
	watchInterval = 5 * time.Second
	// patience is the time after which a waiting pipeline makes the server unhealthy.
	patience = 30 * time.Second
)

// watch updates health from the pipelines and the dead-letter queue until ctx is done.
func (s *Server) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.watchPipelines(s.Status(), s.reconciler.LaneStatus())
			s.watchDeadLetters(time.Now())
			if s.Beat != nil {
				s.Beat()
			}
		case <-ctx.Done():
			return
		}
	}
}

// watchPipelines updates health from the states of the main pipeline and the lane.
func (s *Server) watchPipelines(main, lane pipeline.Status) {
	var err error
	if reason := overdue(main); reason != "" {
		err = errors.New(reason)
	}
	s.Health.Set("pipeline", err)
	warning := overdue(lane)
	if warning != "" {
		warning = "tables that are behind do not catch up: " + warning
	}
	s.Health.Warn("behind", warning)
}

// overdue returns the reason why a pipeline has waited for longer than patience. If the pipeline
// has not waited for so long, it returns "".
func overdue(status pipeline.Status) string {
	if status.State != pipeline.Waiting || time.Since(status.Since) <= patience {
		return ""
	}
	return status.Reason
}

// watchDeadLetters updates health from the dead-letter queue. Before that, it refreshes the
// queue, because another process may have dropped entries. It also drops old superseded entries.
func (s *Server) watchDeadLetters(now time.Time) {
	broken := ""
	if err := cmp.Or(s.dead.Refresh(), s.dead.DropSuperseded(now)); err != nil {
		broken = fmt.Sprintf("the dead-letter queue cannot be kept: %v; the server's user needs to read and write its directory", err)
	}
	s.Health.Warn("dead-letter queue", broken)
	c, warning := s.deadLetters(), ""
	s.metrics.SetDeadLetters(c)
	switch n := c.Lacks(); {
	case n == 1:
		warning = "the destination lacks a change or row, which is a dead letter"
	case n > 1:
		warning = fmt.Sprintf("the destination lacks %d changes or rows, which are dead letters", n)
	}
	if c.Unknown > 0 {
		warning += fmt.Sprintf(", %d of unknown rows", c.Unknown)
	}
	if warning != "" {
		warning += "; see: eds dlq list"
	}
	s.Health.Warn("dead letters", warning)
}

// deadLetters counts the dead letters of the server's destination. Without a destination it
// counts all dead letters.
func (s *Server) deadLetters() dlq.EntryCounts {
	if d := s.reconciler.Destination(); d != nil {
		return s.dead.Count(d.Identity)
	}
	return s.dead.Count("")
}

// Status returns the state of the main pipeline. Its counts cover all sessions since the server
// was started.
func (s *Server) Status() pipeline.Status { return s.reconciler.Status() }
