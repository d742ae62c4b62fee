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
	// watchInterval is how often the pipeline is looked at, for health.
	watchInterval = 5 * time.Second
	// patience is how long the pipeline may wait for something until the server
	// calls itself unhealthy.
	patience = 30 * time.Second
	// closeTimeout bounds each step of an orderly end that needs somebody else.
	closeTimeout = 10 * time.Second
)

// watch looks at the pipeline now and then.
func (s *Server) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.judge(s.Status(), s.reconciler.LaneStatus())
			s.watchDeadLetters(time.Now())
			if s.Beat != nil {
				s.Beat()
			}
		case <-ctx.Done():
			return
		}
	}
}

// judge turns the states of the pipeline and of the lane into health.
func (s *Server) judge(main, lane pipeline.Status) {
	var err error
	if reason := overdue(main); reason != "" {
		err = errors.New(reason)
	}
	s.Health.Set("pipeline", err)
	warning := overdue(lane)
	if warning != "" {
		warning = "tables that are behind are not brought forward: " + warning
	}
	s.Health.Warn("behind", warning)
}

// overdue returns what a pipeline has waited for too long; "" if there is nothing.
func overdue(status pipeline.Status) string {
	if status.State != pipeline.Waiting || time.Since(status.Since) <= patience {
		return ""
	}
	return status.Reason
}

// watchDeadLetters tells of what the destination lacks, and of what was dropped meanwhile.
func (s *Server) watchDeadLetters(now time.Time) {
	broken := ""
	if err := cmp.Or(s.dead.Refresh(), s.dead.DropSuperseded(now)); err != nil {
		broken = fmt.Sprintf("the dead-letter queue cannot be kept: %v; the server's user needs to read and write its directory", err)
	}
	s.Health.Warn("dead-letter queue", broken)
	c, warning := s.deadLetters(), ""
	s.metrics.CountLetters(c)
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

// deadLetters counts the dead letters of the destination.
func (s *Server) deadLetters() dlq.Counts {
	if d := s.reconciler.Destination(); d != nil {
		return s.dead.Count(d.Identity)
	}
	return s.dead.Count("")
}

// Status returns what the pipeline is doing. Its counts are of all sessions.
func (s *Server) Status() pipeline.Status { return s.reconciler.Status() }
