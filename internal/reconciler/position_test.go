package reconciler

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestSubjects_AreSortedAndDistinct(t *testing.T) {
	want := []string{"dbchange.*.*.a.*.PUBLIC.>", "dbchange.*.*.b.*.PUBLIC.>"}
	if diff := cmp.Diff(want, Subjects([]string{"b", "a", "b"})); diff != "" {
		t.Error(diff)
	}
}

// TestOpenDestination_StoresACheckpointForEachFilter: HQ grants another company in a later
// session, while the destination stays open.
func TestOpenDestination_StoresACheckpointForEachFilter(t *testing.T) {
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, url := range []string{"sqlite://" + t.TempDir() + "/shop.db", "file://" + t.TempDir() + "?format=ndjson"} {
		d, err := ParseDestination(config.NewSecret(url), config.Standard, func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{
			State: dir, Logger: slog.New(slog.DiscardHandler), Health: telemetry.NewHealth(), Tables: schema.NewCatalogue(nil, nil),
		}, d)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for n, company := range []string{"a", "b", "b", "a"} {
			session := &follower{r, StreamAccess{Consumer: "eds-test", Filters: Subjects([]string{company})}}
			destination, err := session.openDestination(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := destination.Checkpointer.Checkpoint(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			at := cdc.Position{Sequence: uint64(company[0]), Stored: 1}
			if n < 2 {
				if got.Sequence != 0 {
					t.Errorf("%s: company %s begins at %v", url, company, got)
				}
				if err := storeCheckpoint(t.Context(), destination, at); err != nil {
					t.Fatal(err)
				}
			} else if got != at {
				t.Errorf("%s: the checkpoint of company %s is %v, want %v", url, company, got, at)
			}
		}
	}
}
