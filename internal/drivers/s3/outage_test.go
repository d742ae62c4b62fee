//go:build outage

package s3

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/laketest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// outage is the time for which the store is down.
const outage = 10 * time.Minute

// TestApply_SurvivesAnOutageOfTenMinutes stops a server in the middle of the stream. Like the
// pipeline, the test retries a batch until the server is available again. Then it reads all
// objects. Run this test alone: go test -tags outage -run TenMinutes -timeout 20m.
func TestApply_SurvivesAnOutageOfTenMinutes(t *testing.T) {
	for _, format := range []string{"json", "ndjson", "parquet"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			server := peers.StartS3(t)
			bucket := server.Bucket(t)
			s := openAs(t, at(server.Addr(), bucket, "format="+format), consumer)
			mustApply(t, s, orders(t, 1, 30)...)
			server.Stop(t)

			applied := make(chan error, 1)
			go func() {
				applied <- retry.Do(t.Context(), retry.Policy{}, func() error {
					return s.Apply(t.Context(), sinktest.Batch(orders(t, 31, 60)...))
				})
			}()
			select {
			case err := <-applied:
				t.Fatalf("a batch ended during the outage: %v", err)
			case <-time.After(outage):
			}
			server.Start(t)
			select {
			case err := <-applied:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(5 * time.Minute):
				t.Fatal("the store is back, and the batch is not uploaded")
			}
			mustApply(t, s, orders(t, 61, 90)...)

			var want, got []string
			for n := range 90 {
				want = append(want, fmt.Sprintf("ev%d", n+1))
			}
			objects := server.Objects(t, bucket, "")
			var clocks []cdc.Timestamp
			for _, name := range slices.Sorted(maps.Keys(objects)) {
				events := [][]byte{objects[name]}
				if !strings.HasSuffix(name, ".json") {
					events = laketest.Events(t, name, objects[name])
				}
				for _, text := range events {
					var e cdc.Event
					if err := cdc.NewDecoder().Decode(&e, text, ""); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					got, clocks = append(got, e.ID), append(clocks, e.Clock)
				}
			}
			if format == "json" { // names identify changes, but do not sort in stream order
				slices.Sort(want)
				slices.Sort(got)
			} else if !slices.IsSortedFunc(clocks, cdc.Timestamp.Compare) {
				t.Errorf("names and contents are not in the order of the stream: %v", got)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// orders returns the events of the stream from first to last.
func orders(t testing.TB, first, last int) []*cdc.Event {
	t.Helper()
	var events []*cdc.Event
	for n := first; n <= last; n++ {
		events = append(events, order(t, n))
	}
	return events
}
