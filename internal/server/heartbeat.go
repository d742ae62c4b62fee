package server

import (
	"context"
	"time"

	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/shopmonkeyus/eds/internal/hq"
)

// heartbeat returns the server's current statistics, which the agent sends to HQ.
func (s *Server) heartbeat(ctx context.Context) hq.Heartbeat {
	status := s.Status()
	h := hq.Heartbeat{
		Uptime: int64(time.Since(s.began) / time.Second),
		Stats: hq.Stats{
			Metrics: hq.HeartbeatMetrics(s.metrics.Counts()),
			Memory:  &mem.VirtualMemoryStat{}, Load: &load.AvgStat{},
		},
		Server: hq.ServerStats{
			Version: s.Build.Version, State: string(status.State), Reason: status.Reason, Rate: status.Rate,
			LagSeconds: known(status.LagKnown, status.Lag.Seconds()), Pending: known(status.PendingKnown, status.Pending),
			DeadLetters: s.deadLetters().Lacks(), Import: s.reconciler.Progress(),
		},
	}
	h.Server.Tables, h.Server.TablesNotOK = tableStats(s.reconciler.TableStates())
	if h.Server.State == "" { // before the stream is followed for the first time
		h.Server.State = string(s.Health.Report().Status)
	}
	// Statistics that the machine does not provide stay zero.
	if memory, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		h.Stats.Memory = memory
	}
	if average, err := load.AvgWithContext(ctx); err == nil {
		h.Stats.Load = average
	}
	if paused := s.reconciler.Paused(); !paused.IsZero() {
		h.Paused = &paused
	}
	return h
}
