package snapshot_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

func TestRun_ImportsOnlySelectedTablesAndCompanies(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		offset := time.UnixMilli(1712345678901)
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) {
			c.Only, c.TimeOffset = []string{"vendor", "customer", "vendor"}, offset
			c.CompanyIDs, c.LocationIDs = []string{"c"}, []string{"l"}
		})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": append(rows(0, 3), "old"), "vendor": {}})
		want := []hq.ExportRequest{
			{TimeOffset: 1712345678901, CompanyIDs: []string{"c"}, LocationIDs: []string{"l"}, Tables: []string{"customer", "vendor"}},
		}
		if diff := cmp.Diff(want, w.requests); diff != "" {
			t.Error(diff)
		}
		_, err = w.run(t.Context(), d, func(c *snapshot.Config) { c.Only = []string{"ordr"} })
		if err == nil || err.Error() != `hq knows no table "ordr"; did you mean "order"?` || len(w.requests) != 1 {
			t.Errorf("got %v", err)
		}
	})
}

func TestRun_KeepsRowsThatAPartialSnapshotLacks(t *testing.T) {
	for _, change := range []func(c *snapshot.Config){
		func(c *snapshot.Config) { c.NoDelete = true },
		func(c *snapshot.Config) { c.TimeOffset = time.UnixMilli(1) },
		// The tables have no column with the company of a row.
		func(c *snapshot.Config) { c.CompanyIDs = []string{"c"} },
		func(c *snapshot.Config) { c.CompanyIDs, c.AllowEmpty = []string{"c"}, true },
	} {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			if _, err := w.run(t.Context(), d, change); err != nil {
				t.Fatal(err)
			}
			expect(t, d, map[string][]string{"customer": append(rows(0, 3), "old"), "vendor": {}})
		})
	}
}

// TestRun_ChecksFirst: it requests no export and changes nothing before the destination has passed its
// probe and HQ has accepted the key.
func TestRun_ChecksFirst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		broken := errors.New("password refused")
		d.probe = broken
		_, err := w.run(t.Context(), d, nil)
		var e *snapshot.ProbeError
		if !errors.As(err, &e) || !errors.Is(err, broken) || err.Error() != "test the destination: password refused" {
			t.Errorf("got %v", err)
		}
		d.probe = nil
		_, err = w.run(t.Context(), d, func(c *snapshot.Config) { c.Schemas = refusing{} })
		if !errors.As(err, new(*hq.Unauthorized)) {
			t.Errorf("got %v", err)
		}
		if _, err = w.run(
			t.Context(), d, func(c *snapshot.Config) { c.Confirm = func(snapshot.Plan) error { return broken } },
		); err == nil {
			t.Error("no error")
		}
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.ValidateOnly = true }); err != nil {
			t.Error(err)
		}
		if len(w.requests) != 0 || len(d.migrated) != 0 || len(d.begun) != 0 {
			t.Errorf("%v, %v, %v", w.requests, d.migrated, d.begun)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": {}})
	})
}

type refusing struct{}

func (refusing) Latest(context.Context) (map[string]*schema.Table, error) {
	return nil, fault.Mark(fault.Fatal, &hq.Unauthorized{Problem: hq.KeyRefused})
}

func TestRun_DryRunReturnsThePlan(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dry := func(c *snapshot.Config) { c.DryRun = true }
		report, err := w.run(t.Context(), d, dry)
		if err != nil {
			t.Fatal(err)
		}
		unknown := snapshot.Plan{
			Tables: []snapshot.PlanTable{{Table: "customer", Files: -1}, {Table: "order", Files: -1}, {Table: "vendor", Files: -1}},
		}
		began := cmpopts.IgnoreFields(snapshot.Plan{}, "Began")
		if diff := cmp.Diff(unknown, report.Plan, began); diff != "" {
			t.Error(diff)
		}
		w.jobs["given"] = w.everything()
		report, err = w.run(t.Context(), d, func(c *snapshot.Config) { c.DryRun, c.JobID, c.NoDelete = true, "given", true })
		if err != nil {
			t.Fatal(err)
		}
		known := snapshot.Plan{
			Job: "given", Dir: w.root + "/data/import/job-given", Mode: sink.Merge,
			Tables: []snapshot.PlanTable{{Table: "customer", Files: 1}, {Table: "order", Files: 3}, {Table: "vendor", Files: 0}},
		}
		if diff := cmp.Diff(known, report.Plan, began); diff != "" {
			t.Error(diff)
		}
		clocks, underWay := w.clocks()
		if len(clocks) > 0 || underWay || len(w.requests) > 0 || len(d.migrated) > 0 || len(d.begun) > 0 || len(w.gets) > 0 {
			t.Errorf("a dry run has changed something: %v, %v, %v, %v, %v, %v", clocks, underWay, w.requests, d.migrated, d.begun, w.gets)
		}
	})
}

func TestRun_PlansNothingForTablesThatTheExportLacks(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		given := w.everything()
		delete(given.Tables, "order")
		w.jobs["given"] = given
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.DryRun, c.JobID = true, "given" })
		if err != nil {
			t.Fatal(err)
		}
		want := []snapshot.PlanTable{{Table: "customer", Files: 1}, {Table: "order", Files: -1, Absent: true}, {Table: "vendor", Files: 0}}
		if diff := cmp.Diff(want, report.Plan.Tables); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRun_SchemaOnlyRecordsTheCurrentTime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		now := at(30).Time()
		only := func(c *snapshot.Config) { c.SchemaOnly, c.Present = true, func() time.Time { return now } }
		report, err := w.run(t.Context(), d, only)
		if err != nil || len(report.Tables) != 3 {
			t.Fatal(report, err)
		}
		present := cdc.Timestamp{Wall: at(30).Wall}
		clocks, underWay := w.clocks()
		if diff := cmp.Diff(
			map[string]cdc.Timestamp{"order": present, "customer": present, "vendor": present}, clocks,
		); diff != "" || underWay {
			t.Errorf("%v, %s", underWay, diff)
		}
		if diff := cmp.Diff([]string{"customer", "order", "vendor"}, d.migrated); diff != "" {
			t.Error(diff)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": {}})
		// A later call for existing tables keeps the clock, because the changes since then have yet
		// to be applied.
		now = now.Add(time.Hour)
		if _, err := w.run(t.Context(), d, only); err != nil {
			t.Fatal(err)
		}
		if again, _ := w.clocks(); !cmp.Equal(again, clocks) {
			t.Errorf("the times have changed: %v", again)
		}
		// A URL with another user and another option names the same destination.
		same := "disk://user@" + d.root + "?timeout=5s"
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { only(c); c.Destination = named(same) }); err != nil {
			t.Fatal(err)
		}
		if again, _ := w.clocks(); !cmp.Equal(again, clocks) {
			t.Errorf("the times have changed, as if %s were another destination: %v", same, again)
		}
		// This URL names another destination, which is empty.
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { only(c); c.Destination = named("disk://other") }); err != nil {
			t.Fatal(err)
		}
		if again, _ := w.clocksOf("disk://other"); again["order"] != cdc.At(now) {
			t.Errorf("the times have not changed: %v", again)
		}
	})
}
