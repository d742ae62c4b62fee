package state_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/state"
)

func TestDesired_SurvivesTheProcess(t *testing.T) {
	path := t.TempDir()
	want := []state.DesiredRecord{{}, {
		Paused: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), NeedsImport: []string{"a", "b"},
		Import:   &state.RequestedImport{ID: "i", Destination: "a", HQ: true, Options: json.RawMessage(`{"Only":["order"]}`)},
		Outcomes: []state.ImportOutcome{{ID: "h"}, {ID: "g", Error: "refused"}},
	}, {}}
	for i, desired := range want {
		d, err := state.Open(path)
		must(t, err)
		got, err := d.Desired()
		must(t, err)
		if diff := cmp.Diff(want[max(i-1, 0)], got); diff != "" {
			t.Error(diff)
		}
		must(t, d.SetDesired(desired))
		must(t, d.Close())
	}
}

func TestFilled_IsFalseUntilTheImportHasEnded(t *testing.T) {
	d, err := state.Open(t.TempDir())
	must(t, err)
	defer d.Close()
	here := state.DestinationKey{Identity: "here", Spelled: "here"}
	expect := func(at state.DestinationKey, want bool) {
		t.Helper()
		got, err := d.Filled(at)
		if must(t, err); got != want {
			t.Errorf("filled is %v, want %v", got, want)
		}
	}
	expect(here, false)
	must(t, d.BeginImport(state.Import{Identity: here.Identity}))
	must(t, d.FinishTable(here, state.ImportRecord{Table: "order", ImportedAt: time.Now()}))
	expect(here, false)
	must(t, d.FinishImport())
	expect(here, true)
	must(t, d.BeginImport(state.Import{Identity: "there"}))
	expect(here, true)
	expect(state.DestinationKey{Identity: "there"}, false)
}
