package telemetry_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/telemetry"
)

var (
	gapSince = time.Date(2026, 11, 30, 6, 0, 0, 0, time.UTC)
	complete = telemetry.TableHealth{State: "ok"}
	behind   = telemetry.TableHealth{
		State: "behind", Cause: "schema denied", Reason: "HQ denies version 7", Since: gapSince,
		Command: "eds import --only part",
	}
	absent = telemetry.TableHealth{
		State: "missing", Cause: "absent", Reason: "it was dropped", Since: gapSince.Add(time.Hour),
		Command: "eds import --only user", Lost: true,
	}
	gap = telemetry.TableHealth{
		State: "incomplete", Cause: "gap", Reason: "messages 5 to 9 are gone", Since: gapSince,
		Command: "eds import --only order", Gap: "8f5b3f", Lost: true,
	}
	accepted = telemetry.TableHealth{
		State: "incomplete", Cause: "gap", Reason: "messages 5 to 9 are gone", Since: gapSince,
		Command: "eds import --only order", Gap: "8f5b3f", Accepted: true,
	}
)

// healthOf returns a Health that is ready and reads the given tables.
func healthOf(tables map[string]telemetry.TableHealth) *telemetry.Health {
	h := telemetry.NewHealth()
	h.ReadTables(func() map[string]telemetry.TableHealth { return tables })
	h.Ready()
	return h
}

func TestHealth_IsBadOnlyIfEveryTableIsLost(t *testing.T) {
	all := []telemetry.Reason{{
		Condition: "tables", Message: "no table is complete: messages 5 to 9 are gone; run eds import", Since: gapSince.Add(time.Hour),
	}}
	for name, test := range map[string]struct {
		tables map[string]telemetry.TableHealth
		want   telemetry.Report
	}{
		"no tables":    {nil, telemetry.Report{Status: telemetry.OK}},
		"all complete": {map[string]telemetry.TableHealth{"order": complete}, telemetry.Report{Status: telemetry.OK}},
		"one is complete": {
			map[string]telemetry.TableHealth{"order": gap, "part": complete},
			telemetry.Report{Status: telemetry.OK, Tables: map[string]telemetry.TableHealth{"order": gap}},
		},
		"one is behind": {
			map[string]telemetry.TableHealth{"order": gap, "part": behind},
			telemetry.Report{Status: telemetry.OK, Tables: map[string]telemetry.TableHealth{"order": gap, "part": behind}},
		},
		"one is accepted": {
			map[string]telemetry.TableHealth{"order": accepted, "user": absent},
			telemetry.Report{Status: telemetry.OK, Tables: map[string]telemetry.TableHealth{"order": accepted, "user": absent}},
		},
		"all are lost": {
			map[string]telemetry.TableHealth{"order": gap, "user": absent},
			telemetry.Report{
				Status: telemetry.Unhealthy, Reasons: all,
				Tables: map[string]telemetry.TableHealth{"order": gap, "user": absent},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.want.Reasons == nil {
				test.want.Reasons = []telemetry.Reason{}
			}
			test.want.Warnings = []telemetry.Reason{}
			if diff := cmp.Diff(test.want, healthOf(test.tables).Report()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHealth_MasksReasonsOfTables(t *testing.T) {
	table := gap
	table.Reason = "dial postgres://u:SECRET@h/db: refused"
	text, err := json.Marshal(healthOf(map[string]telemetry.TableHealth{"order": table}).Report())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "SECRET") {
		t.Errorf("%s", text)
	}
}

func TestHTTP_ListsTablesThatAreNotOK(t *testing.T) {
	url, _ := serve(t, healthOf(map[string]telemetry.TableHealth{"order": gap, "part": complete}), nil)
	got, _ := request(t, http.MethodGet, url+"/")
	var body struct{ Tables map[string]map[string]any }
	if err := json.Unmarshal([]byte(got.Body), &body); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]any{"order": {
		"state": "incomplete", "cause": "gap", "reason": "messages 5 to 9 are gone", "since": "2026-11-30T06:00:00Z",
		"command": "eds import --only order", "gap": "8f5b3f",
	}}
	if diff := cmp.Diff(want, body.Tables); diff != "" || got.Code != http.StatusOK {
		t.Errorf("%d: %s", got.Code, diff)
	}
}

func TestMetrics_HaveTheStatesOfTables(t *testing.T) {
	h := healthOf(map[string]telemetry.TableHealth{"order": gap, "invoice": accepted, "part": behind, "user": complete, "labor": complete})
	url, _ := serve(t, h, telemetry.NewRegistry(thisBuild, h))
	got, _ := request(t, http.MethodGet, url+"/metrics")
	var lines []string
	for line := range strings.Lines(got.Body) {
		if strings.HasPrefix(line, "eds_table") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	want := []string{
		`eds_table_state{cause="gap",state="accepted",table="invoice"} 1`,
		`eds_table_state{cause="gap",state="incomplete",table="order"} 1`,
		`eds_table_state{cause="schema denied",state="behind",table="part"} 1`,
		`eds_tables{state="accepted"} 1`,
		`eds_tables{state="behind"} 1`,
		`eds_tables{state="incomplete"} 1`,
		`eds_tables{state="missing"} 0`,
		`eds_tables{state="ok"} 2`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}
