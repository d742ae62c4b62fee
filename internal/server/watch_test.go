package server

import (
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestWatch_SaysWhatThePipelineAndTheLaneWaitFor(t *testing.T) {
	s := &Server{Config: Config{Health: telemetry.NewHealth()}}
	const reason = "waiting for the destination: pid 7 has a lock"
	waiting := func(since time.Duration) pipeline.Status {
		return pipeline.Status{State: pipeline.Waiting, Reason: reason, Since: time.Now().Add(-since)}
	}
	for _, test := range []struct {
		name            string
		main, lane      pipeline.Status
		reason, warning string
	}{
		{name: "main", main: waiting(time.Minute), reason: reason},
		{name: "lane", lane: waiting(time.Minute), warning: "tables that are behind do not catch up: " + reason},
		{name: "briefly", main: waiting(time.Second), lane: waiting(time.Second)},
		{name: "no lane"},
	} {
		s.watchPipelines(test.main, test.lane)
		first := func(reasons []telemetry.Reason) string {
			if len(reasons) == 0 {
				return ""
			}
			return reasons[0].Message
		}
		if report := s.Health.Report(); first(report.Reasons) != test.reason || first(report.Warnings) != test.warning {
			t.Errorf("%s: %+v", test.name, report)
		}
	}
}
