package server

import (
	"context"
	"time"

	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/shopmonkeyus/eds/internal/hq"
)

// beatEvery is how often HQ is told that the server lives.
const beatEvery = time.Minute

// beat tells HQ at once, and then every minute, how the server is.
func (sh *hqSession) beat(ctx context.Context) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		sh.logSendError(sh.channel.SendHeartbeat(sh.s.heartbeat(ctx)))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) heartbeat(ctx context.Context) hq.Heartbeat {
	counts, status := s.metrics.Counts(), s.Status()
	h := hq.Heartbeat{
		Uptime: int64(time.Since(s.began) / time.Second),
		Stats: hq.Stats{
			Metrics: hq.Metrics(counts),
			Memory:  &mem.VirtualMemoryStat{}, Load: &load.AvgStat{},
		},
		Server: hq.ServerStats{
			Version: s.Build.Version, State: string(status.State), Reason: status.Reason, LagSeconds: known(status.LagKnown, status.Lag.Seconds()),
			Rate: status.Rate, Pending: known(status.PendingKnown, status.Pending), DeadLetters: s.deadLetters().Lacks(), Import: s.reconciler.Progress(),
		},
	}
	h.Server.Tables, h.Server.TablesNotOK = tableStats(s.reconciler.TableStates())
	if h.Server.State == "" { // the stream was not followed yet
		h.Server.State = string(s.Health.Report().Status)
	}
	// What the machine does not tell stays zero.
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
