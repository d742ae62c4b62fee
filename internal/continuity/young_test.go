package continuity

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// TestDecide_AfterAYoungSnapshot: all messages in the stream are newer than an hour before the
// snapshot.
func TestDecide_AfterAYoungSnapshot(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	taken := now.Add(-2 * time.Hour)
	before, after := taken.Add(-time.Minute).UnixNano(), taken.Add(time.Minute).UnixNano()
	other := Record{Settled: cdc.Position{Sequence: 900, Stored: taken.Add(-time.Hour).UnixNano()}}
	for name, c := range map[string]struct {
		stream          StreamEvidence
		record          Record
		gap, unverified bool
	}{
		"never dropped a message":          {stream: StreamEvidence{First: 1, FirstStored: after, Pending: 9}},
		"dropped some before the snapshot": {stream: StreamEvidence{First: 50, FirstStored: before, Pending: 9}, unverified: true},
		"dropped some after the snapshot":  {stream: StreamEvidence{First: 50, FirstStored: after, Pending: 9}, gap: true},
		"empty":                            {stream: StreamEvidence{First: 50}, unverified: true},
		"created again, before":            {stream: StreamEvidence{First: 1, FirstStored: before}, record: other, unverified: true},
		"created again, and quiet since":   {stream: StreamEvidence{First: 1, FirstStored: after}, record: other, unverified: true},
	} {
		t.Run(name, func(t *testing.T) {
			plan := Decide(Evidence{
				Snapshots: map[string]ImportEvidence{"order": {Clock: cdc.At(taken), Whole: true}},
				Stream:    c.stream, Record: c.record, Now: now,
			})
			if plan.Gap != nil != c.gap || plan.Unverified != "" != c.unverified {
				t.Errorf("gap %v, unverified %q", plan.Gap, plan.Unverified)
			}
			want := Start{From: FromTime, Time: taken.Add(-ClockMargin)}
			if diff := cmp.Diff(want, plan.Start); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGapError_RemedyNamesTables only if an import of these tables closes the gap: after an import
// of every table by name, the position would still be lost.
func TestGapError_RemedyNamesTables(t *testing.T) {
	for want, gap := range map[string]*GapError{
		"eds import":            {Tables: []string{"a", "b"}, All: true},
		"eds import --only a,b": {Tables: []string{"a", "b"}},
	} {
		if got := gap.Remedy(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
