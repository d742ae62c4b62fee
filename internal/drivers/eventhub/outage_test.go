//go:build outage

package eventhub

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// outage is the time for which the namespace is down.
const outage = 10 * time.Minute

// TestApply_SurvivesAnOutageOfTenMinutes kills a namespace, which keeps its events on disk, while a
// batch is being sent. Like the pipeline, the test retries the batch until the namespace is
// available again. Then it reads all events. Run this test alone: go test -tags outage -run
// TenMinutes -timeout 20m.
func TestApply_SurvivesAnOutageOfTenMinutes(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	before, err := peer.StartAt("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	hub := before.Make(t, "hub", peer.Settings{})
	s := mustOpen(t, urlAt(before.Addr, hub.Name, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	hub.Fail(t, peer.Fault{Kind: "die", After: 1, Times: 1}) // it accepts one of three messages

	applied := make(chan error, 1)
	go func() {
		applied <- retry.Do(t.Context(), retry.Policy{}, func() error {
			return s.Apply(t.Context(), sinktest.NumberedBatch(t, 31, 60))
		})
	}()
	if err := before.AwaitDeath(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-applied:
		t.Fatalf("a batch ended during the outage: %v", err)
	case <-time.After(outage):
	}
	after, err := peer.StartAt(before.Addr, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := after.Stop(); err != nil {
			t.Error(err)
		}
	}()
	hub = after.Make(t, hub.Name, peer.Settings{})
	select {
	case err := <-applied:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the namespace is back, and the batch is not applied")
	}
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 61, 90))
	wantInOrder(t, hub, 1, 90)
}
