package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
)

func TestWhereTheStreamIsFollowedFrom(t *testing.T) {
	const second = int64(time.Second)
	at := func(wall int64, begun bool) state.Snapshot {
		return state.Snapshot{Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: wall}}, Begun: begun}
	}
	followed := cdc.Position{Sequence: 9, Stored: 1000 * second}
	from := func(wall int64, anew bool) jetstream.Start {
		return jetstream.Start{From: jetstream.FromTime, Time: time.Unix(0, wall).Add(-clockMargin), Anew: anew}
	}
	for name, c := range map[string]struct {
		restart             bool
		snapshots           map[string]state.Snapshot
		checkpoint, settled cdc.Position
		start               jetstream.Start
		fresh               bool
	}{
		"nothing imported":                {start: jetstream.Start{From: jetstream.FromNow}},
		"nothing imported, --restart":     {restart: true, start: jetstream.Start{From: jetstream.FromBeginning}},
		"the first start after an import": {snapshots: map[string]state.Snapshot{"a": at(500*second, false), "b": at(400*second, false)}, start: from(400*second, false), fresh: true},
		"a later start":                   {snapshots: map[string]state.Snapshot{"a": at(500*second, true)}, checkpoint: followed, start: from(500*second, false)},
		"imported again":                  {snapshots: map[string]state.Snapshot{"a": at(2000*second, false)}, checkpoint: followed, start: from(2000*second, false), fresh: true},
		"one table imported again":        {snapshots: map[string]state.Snapshot{"a": at(2000*second, false), "b": at(500*second, true)}, checkpoint: followed, start: from(500*second, false)},
		"imported from an earlier time":   {snapshots: map[string]state.Snapshot{"a": at(900*second, false)}, checkpoint: followed, start: from(900*second, true)},
		"the same, without a checkpoint":  {snapshots: map[string]state.Snapshot{"a": at(900*second, false)}, settled: followed, start: from(900*second, true)},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{Config: Config{Options: config.Server{Restart: c.restart}}}
			got := s.plan(c.snapshots, c.checkpoint, c.settled)
			if diff := cmp.Diff(c.start, got.start); diff != "" || got.fresh != c.fresh {
				t.Errorf("fresh %v, want %v; %s", got.fresh, c.fresh, diff)
			}
		})
	}
}

func TestCompaniesAreSubjectsInOneOrder(t *testing.T) {
	want := []string{"dbchange.*.*.a.*.PUBLIC.>", "dbchange.*.*.b.*.PUBLIC.>"}
	if diff := cmp.Diff(want, subjects([]string{"b", "a", "b"})); diff != "" {
		t.Error(diff)
	}
}
