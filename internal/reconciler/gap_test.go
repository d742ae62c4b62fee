package reconciler

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestGapTables_SelectsByIDAndTable(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	states := []sink.TableState{
		{Table: "part", State: sink.Incomplete, Cause: sink.CauseGap, Since: at},
		{Table: "order", State: sink.Incomplete, Cause: sink.CauseGap, Since: at},
		{Table: "user", State: sink.Incomplete, Cause: sink.CauseEmptied, Since: at},
		{Table: "labor", State: sink.Missing, Cause: sink.CauseAbsent, Since: at},
	}
	gap, emptied := states[0].GapID(), states[2].GapID()
	gaps := gap + ` (table part), ` + gap + ` (table order), ` + emptied + ` (table user)`
	type outcome struct {
		Tables []string
		Error  string
	}
	for name, test := range map[string]struct {
		states    []sink.TableState
		id, table string
		want      outcome
	}{
		"all tables":    {states, gap, "", outcome{Tables: []string{"order", "part"}}},
		"one table":     {states, gap, "part", outcome{Tables: []string{"part"}}},
		"another gap":   {states, emptied, "", outcome{Tables: []string{"user"}}},
		"another table": {states, gap, "user", outcome{Error: `table "user" is not in the gap ` + gap + `; its tables are order, part`}},
		"unknown":       {states, "abc", "", outcome{Error: `there is no gap "abc"; the gaps are ` + gaps}},
		"empty":         {states, "", "", outcome{Error: `there is no gap ""; the gaps are ` + gaps}},
		"no gaps":       {states[3:], gap, "", outcome{Error: `there is no gap "` + gap + `": no table is incomplete`}},
	} {
		t.Run(name, func(t *testing.T) {
			tables, err := gapTables(test.states, test.id, test.table)
			got := outcome{Tables: tables}
			if err != nil {
				got.Error = err.Error()
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
