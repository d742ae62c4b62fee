package server

import (
	"context"
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/pipeline"
)

const (
	// watchInterval is how often the pipeline is looked at, for health.
	watchInterval = 5 * time.Second
	// patience is how long the pipeline may wait for something until the server
	// calls itself unhealthy.
	patience = 30 * time.Second
	// farewell bounds each step of an orderly end that needs somebody else.
	farewell = 10 * time.Second
)

// watch looks at the pipeline now and then.
func (s *Server) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.judge(s.Status())
			if s.Beat != nil {
				s.Beat()
			}
		case <-ctx.Done():
			return
		}
	}
}

// judge turns a pipeline's state into health.
func (s *Server) judge(status pipeline.Status) {
	var err error
	if status.State == pipeline.Waiting && time.Since(status.Since) > patience {
		err = errors.New(status.Reason)
	}
	s.Health.Set("pipeline", err)
}

// Status returns what the pipeline is doing. Its counts are of all sessions.
func (s *Server) Status() pipeline.Status { return s.reconciler.Status() }
