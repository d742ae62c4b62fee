package state_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/state"
)

func TestTables_KeepsOneListPerDestination(t *testing.T) {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	type list struct {
		names    []string
		recorded bool
	}
	check := func(l state.TableList, identity string, want list) {
		t.Helper()
		names, recorded, err := dir.Tables(l, state.DestinationKey{Identity: identity})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, list{names, recorded}, cmp.AllowUnexported(list{})); diff != "" {
			t.Error(diff)
		}
	}
	check(state.SourceTables, "a", list{})
	for _, names := range [][]string{{"vendor", "order"}, {"part", "order"}} {
		if err := dir.SetTables(state.SourceTables, state.DestinationKey{Identity: "a"}, names); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.SetTables(state.EmptiedTables, state.DestinationKey{Identity: "a"}, nil); err != nil {
		t.Fatal(err)
	}
	check(state.SourceTables, "a", list{[]string{"order", "part"}, true})
	check(state.EmptiedTables, "a", list{nil, true})
	check(state.SourceTables, "b", list{})
}
