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
	of := func(generation int64, companies ...string) sink.LoadRecord {
		return sink.LoadRecord{
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
		records []sink.LoadRecord
		granted []string
		want    continuity.ImportEvidence
		lacks   []string
	}{
		"all rows": {[]sink.LoadRecord{of(3)}, []string{"*"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil},
		"all rows of the company": {
			[]sink.LoadRecord{of(3, "a")}, []string{"a"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil,
		},
		"one company of all": {
			[]sink.LoadRecord{of(3, "a")},
			[]string{"*"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"one company of two": {
			[]sink.LoadRecord{of(3, "a")},
			[]string{"a", "b"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"another company": {
			[]sink.LoadRecord{of(3, "b")},
			[]string{"a"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"two companies, one by one": {
			[]sink.LoadRecord{of(4, "b"), of(3, "a")}, []string{"a", "b"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil,
		},
		"two companies, one is followed": {
			[]sink.LoadRecord{of(2, "b"), of(3, "a")},
			[]string{"a", "b"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			nil,
		},
		"all rows, then the company": {
			[]sink.LoadRecord{of(2), of(3, "a")}, []string{"a"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil,
		},
		"all rows, then one company": {
			[]sink.LoadRecord{of(2), of(3, "a")},
			[]string{"a", "b"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			nil,
		},
		"all rows, then another company": {
			[]sink.LoadRecord{of(2), of(3, "b")},
			[]string{"a"},
			continuity.ImportEvidence{Clock: clock(2), Followed: true, Whole: true},
			nil,
		},
		"all rows, then a location": {
			[]sink.LoadRecord{of(2), located}, []string{"a"}, continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"a location": {
			[]sink.LoadRecord{located},
			[]string{"a"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true},
			[]string{"t"},
		},
		"rows that were kept": {
			[]sink.LoadRecord{kept}, []string{"a"}, continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"kept rows, and then the company": {
			[]sink.LoadRecord{kept, of(4, "a")}, []string{"a"}, continuity.ImportEvidence{Clock: clock(4), Whole: true}, nil,
		},
		"the company, and then kept rows": {
			[]sink.LoadRecord{kept, of(2, "a")}, []string{"a"}, continuity.ImportEvidence{Clock: clock(3), Whole: true, Partial: true}, nil,
		},
		"all rows, brought forward": {
			[]sink.LoadRecord{forward},
			[]string{"a"},
			continuity.ImportEvidence{Clock: clock(3), Whole: true, Applied: forward.Applied},
			nil,
		},
		"brought forward, then a part": {
			[]sink.LoadRecord{forward, of(4, "a")}, []string{"a", "b"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil,
		},
		"all rows, and all of the company": {
			[]sink.LoadRecord{of(3), of(4, "a")}, []string{"a", "b"}, continuity.ImportEvidence{Clock: clock(3), Whole: true}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := mergeSnapshots(c.records, c.granted, &sink.Recorded{Followed: 2})
			if diff := cmp.Diff(map[string]continuity.ImportEvidence{"t": c.want}, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.lacks, partialTables(c.records, c.granted)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
