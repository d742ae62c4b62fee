package snapshot_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// TestRun_RecordsThePositionOfALoadThatWasBroughtForward, also if the table must first be loaded
// again with more columns. Loads of some of the rows are not brought forward.
func TestRun_RecordsThePositionOfALoadThatWasBroughtForward(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		s := openSQLite(t, "sqlite://"+t.TempDir()+"/shop.db")
		wider, err := schema.New(
			"customer", "2", []string{"id"},
			append([]schema.Column{{Name: "note", Type: schema.String}}, w.tables["customer"].Columns...),
		)
		if err != nil {
			t.Fatal(err)
		}
		applied := cdc.Position{Sequence: 70, Stored: 7}
		var versions []string
		done := 0
		forward := func(_ context.Context, t *schema.Table, clock cdc.Timestamp, _ sink.Advancer) (cdc.Position, func(), error) {
			versions = append(versions, t.Version+" at "+string(clock.Append(nil)))
			if t.Version == "1" {
				return cdc.Position{}, nil, fault.Mark(fault.Fatal, &sink.NarrowLoadError{Table: wider})
			}
			return applied, func() { done++ }, nil
		}
		into := func(c *snapshot.Config) {
			c.Sink, c.ID, c.Only, c.BringForward = s, "the destination", []string{"customer"}, forward
		}
		if _, err := w.run(t.Context(), d, into); err != nil {
			t.Fatal(err)
		}
		clock := string(at(1).Append(nil))
		if diff := cmp.Diff([]string{"1 at " + clock, "2 at " + clock}, versions); diff != "" || done != 1 {
			t.Errorf("done was called %d times: %s", done, diff)
		}
		records, err := s.(sink.Recorder).Records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []sink.LoadRecord{{Table: "customer", Clock: at(1), Rows: 3, Job: "job1", Applied: applied}}
		if diff := cmp.Diff(want, records.Snapshots, cmpopts.IgnoreFields(sink.LoadRecord{}, "Generation", "Imported")); diff != "" {
			t.Error(diff)
		}
		merge := func(c *snapshot.Config) { into(c); c.NoDelete = true }
		if _, err := w.run(t.Context(), d, merge); err != nil || len(versions) != 2 {
			t.Errorf("a load that merges was brought forward: %q, %v", versions, err)
		}
	})
}
