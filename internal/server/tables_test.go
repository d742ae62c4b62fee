package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

var (
	tableSince = time.Date(2026, 11, 30, 6, 0, 0, 0, time.UTC)
	tableGap   = sink.TableState{
		Table: "order", State: sink.Incomplete, Cause: sink.CauseGap, Reason: "messages 5 to 9 are gone from nats://u:SECRET@h",
		Since:   tableSince,
		Applied: cdc.Position{Sequence: 4, Stored: tableSince.Add(-time.Minute).UnixNano()}, Attempts: 2, Next: tableSince.Add(time.Hour),
	}
	tableAccepted = sink.TableState{
		Table: "part", State: sink.Incomplete, Cause: sink.CauseGap, Reason: "r", Since: tableSince, Accepted: true,
	}
)

func TestTableReports_CoverAllKnownTables(t *testing.T) {
	changed := map[string]pipeline.TableStatus{
		"order":   {Inserts: 1, Updates: 2, Deletes: 3, LastApplied: tableSince, LastChange: tableSince.Add(-time.Second)},
		"invoice": {Inserts: 4, LastApplied: tableSince, LastChange: tableSince},
	}
	got := tableReports([]string{"user", "order"}, changed, []sink.TableState{tableGap, tableAccepted})
	ok := telemetry.TableHealth{State: "ok"}
	want := map[string]TableReport{
		"user":    {TableHealth: ok},
		"invoice": {TableHealth: ok, Inserts: 4, LastApplied: tableSince, LastChange: tableSince},
		"order": {
			TableHealth: telemetry.TableHealth{
				State: "incomplete", Cause: "gap", Reason: "messages 5 to 9 are gone from nats://u:***@h", Since: tableSince,
				Command: "eds import --only order", Gap: tableGap.GapID(), Lost: true,
			},
			AppliedTo: 4, AppliedAt: tableSince.Add(-time.Minute), Attempts: 2, Next: tableSince.Add(time.Hour),
			Inserts: 1, Updates: 2, Deletes: 3, LastApplied: tableSince, LastChange: tableSince.Add(-time.Second),
		},
		"part": {TableHealth: telemetry.TableHealth{
			State: "incomplete", Cause: "gap", Reason: "r", Since: tableSince, Command: "eds import --only part",
			Gap: tableGap.GapID(), Accepted: true,
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTableStats_AreBounded(t *testing.T) {
	many := make([]sink.TableState, mostTables+1)
	for i := range many {
		many[i] = sink.TableState{Table: fmt.Sprintf("t%03d", i), State: sink.Missing}
	}
	listed, all := tableStats(many)
	if len(listed) != mostTables || listed[mostTables-1].Table != "t099" || all != mostTables+1 {
		t.Errorf("%d tables are listed of %d", len(listed), all)
	}
	listed, _ = tableStats([]sink.TableState{tableAccepted})
	want := []hq.TableStats{{
		Table: "part", State: "incomplete", Cause: "gap", Reason: "r", Since: tableSince,
		Command: "eds import --only part", Accepted: true,
	}}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Error(diff)
	}
}

// TestReport_HasStableKeys: programs read the output of eds status --json. Keys may be added;
// docs/operations.md describes them.
func TestReport_HasStableKeys(t *testing.T) {
	reason := []telemetry.Reason{{Condition: "c", Message: "m", Since: tableSince}}
	report := Report{
		ServerID: "s", Destination: "d", Health: telemetry.Report{Status: telemetry.OK, Reasons: reason, Warnings: reason},
		Reason: "r", Since: tableSince, Import: "i",
		LastApplied: tableSince, LastChange: tableSince, LastError: "e", LastErrorAt: tableSince,
		Tables: tableReports(nil, map[string]pipeline.TableStatus{"order": {LastApplied: tableSince, LastChange: tableSince}},
			[]sink.TableState{tableGap, tableAccepted}),
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]bool)
	addKeys(keys, "", value)
	lines := ""
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		lines += key + "\n"
	}
	golden.Compare(t, "report-keys.txt", lines)
}

// addKeys adds the paths of all keys of a JSON value; * replaces the name of a table.
func addKeys(keys map[string]bool, path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			if path == "tables" {
				key = "*"
			}
			below := key
			if path != "" {
				below = path + "." + key
			}
			keys[below] = true
			addKeys(keys, below, v)
		}
	case []any:
		for _, v := range value {
			addKeys(keys, path+"[]", v)
		}
	}
}
