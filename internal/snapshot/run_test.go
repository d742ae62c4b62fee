package snapshot_test

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

func killed() bool { return false }

func TestASnapshotBecomesTheTables(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, d := newWorld(t, root, "order", "customer", "vendor"), newDestination(t, root)
		w.put("order", rowsOf(0, 1000), rowsOf(1000, 1000), rowsOf(2000, 5))
		w.put("customer", rowsOf(0, 3))
		if err := d.setLive("vendor", []string{"old"}); err != nil {
			t.Fatal(err)
		}
		report, err := w.run(t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		for table, want := range map[string][]string{"order": rows(0, 2005), "customer": rows(0, 3), "vendor": {}} {
			if diff := cmp.Diff(want, d.live(table)); diff != "" {
				t.Errorf("%s: %s", table, diff)
			}
		}
		clocks, underWay := w.clocks()
		want := map[string]cdc.Timestamp{"order": at(3), "customer": at(1), "vendor": {Wall: at(59).Wall}}
		if diff := cmp.Diff(want, clocks); diff != "" || underWay {
			t.Errorf("under way: %v, clocks: %s", underWay, diff)
		}
		if report.Rows != 2008 || len(report.Tables) != 3 {
			t.Errorf("report %+v", report)
		}
	})
}
