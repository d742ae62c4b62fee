package reconciler

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestMergeSnapshots_CoversTheGrantedCompanies(t *testing.T) {
	clock := func(n int64) cdc.Timestamp { return cdc.Timestamp{Wall: n} }
	of := func(generation int64, companies ...string) sink.Snapshot {
		return sink.Snapshot{
			Table: "t", Clock: clock(generation), Generation: generation, Whole: true, Scope: sink.Scope{Companies: companies},
		}
	}
	located := of(3, "a")
	located.Scope.Locations = []string{"l"}
	kept := of(3, "a")
	kept.Merged = true
	forward := of(3)
	forward.Applied = cdc.Position{Sequence: 70, Stored: 7}
	for name, c := range map[string]struct {
		records []sink.Snapshot
		granted []string
		want    continuity.Snapshot
		lacks   []string
	}{
		"all rows": {[]sink.Snapshot{of(3)}, []string{"*"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil},
		"all rows of the company": {
			[]sink.Snapshot{of(3, "a")}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil,
		},
		"one company of all": {
			[]sink.Snapshot{of(3, "a")},
			[]string{"*"},
			continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"one company of two": {
			[]sink.Snapshot{of(3, "a")},
			[]string{"a", "b"},
			continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"another company": {
			[]sink.Snapshot{of(3, "b")},
			[]string{"a"},
			continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"two companies, one by one": {
			[]sink.Snapshot{of(4, "b"), of(3, "a")}, []string{"a", "b"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil,
		},
		"two companies, one is followed": {
			[]sink.Snapshot{of(2, "b"), of(3, "a")},
			[]string{"a", "b"},
			continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true},
			nil,
		},
		"all rows, then the company": {
			[]sink.Snapshot{of(2), of(3, "a")}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil,
		},
		"all rows, then one company": {
			[]sink.Snapshot{of(2), of(3, "a")},
			[]string{"a", "b"},
			continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true},
			nil,
		},
		"all rows, then another company": {
			[]sink.Snapshot{of(2), of(3, "b")}, []string{"a"}, continuity.Snapshot{Clock: clock(2), Followed: true, Whole: true}, nil,
		},
		"all rows, then a location": {
			[]sink.Snapshot{of(2), located}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"a location": {
			[]sink.Snapshot{located}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true}, []string{"t"},
		},
		"rows that were kept": {
			[]sink.Snapshot{kept}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"kept rows, and then the company": {
			[]sink.Snapshot{kept, of(4, "a")}, []string{"a"}, continuity.Snapshot{Clock: clock(4), Whole: true}, nil,
		},
		"the company, and then kept rows": {
			[]sink.Snapshot{kept, of(2, "a")}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"all rows, brought forward": {
			[]sink.Snapshot{forward}, []string{"a"}, continuity.Snapshot{Clock: clock(3), Whole: true, Applied: forward.Applied}, nil,
		},
		"brought forward, then a part": {
			[]sink.Snapshot{forward, of(4, "a")}, []string{"a", "b"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil,
		},
		"all rows, and all of the company": {
			[]sink.Snapshot{of(3), of(4, "a")}, []string{"a", "b"}, continuity.Snapshot{Clock: clock(3), Whole: true}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := mergeSnapshots(c.records, c.granted, &sink.Recorded{Followed: 2})
			if diff := cmp.Diff(map[string]continuity.Snapshot{"t": c.want}, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.lacks, partialTables(c.records, c.granted)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
