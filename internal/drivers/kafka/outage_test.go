//go:build outage

package kafka

import (
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// outage is the time for which the broker is down.
const outage = 10 * time.Minute

// TestApply_SurvivesAnOutageOfTenMinutes stops a broker, which keeps its messages on disk. Like the
// pipeline, the test retries a batch until the broker is available again. Then it reads all
// messages. Run this test alone: go test -tags outage -run TenMinutes -timeout 20m.
func TestApply_SurvivesAnOutageOfTenMinutes(t *testing.T) {
	for name, query := range map[string]string{"default": "", "transactions": "?transactional=true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(freePort(t)), kfake.DataDir(t.TempDir()), kfake.SyncWrites()}
			cluster, err := kfake.NewCluster(opts...)
			if err != nil {
				t.Fatal(err)
			}
			raw := newTopic(t, cluster, "topic", 4) + query
			s := mustOpen(t, raw)
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
			cluster.Close()

			applied := make(chan error, 1)
			go func() {
				applied <- retry.Do(t.Context(), retry.Policy{}, func() error {
					return s.Apply(t.Context(), sinktest.NumberedBatch(t, 31, 60))
				})
			}()
			select {
			case err := <-applied:
				t.Fatalf("a batch ended during the outage: %v", err)
			case <-time.After(outage):
			}
			again, err := kfake.NewCluster(opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			select {
			case err := <-applied:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(5 * time.Minute):
				t.Fatal("the broker is back, and the batch is not applied")
			}
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 61, 90))
			if query == "" {
				wantOnce(t, again.ListenAddrs()[0], "topic", 1, 90)
			} else if got := committed(t, again, "topic"); len(got) != 90 {
				t.Errorf("consumers see %d messages, want 90", len(got))
			}
		})
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
