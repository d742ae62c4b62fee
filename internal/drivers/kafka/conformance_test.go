package kafka

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		query   string
		history func(testing.TB, string) []sinktest.Stored
	}{
		"default":              {"?timeout=10s", history},
		"rows in transactions": {"?key=row&transactional=true&compress=lz4&timeout=10s", committedHistory},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, proxy := faultyCluster(t)
			var made atomic.Int64
			sinktest.Run(t, sinktest.Config{
				Driver: Driver(),
				URL: func(t testing.TB) string {
					return newTopic(t, cluster, fmt.Sprintf("topic-%d", made.Add(1)), 3) + c.query
				},
				Untouched: func(t testing.TB) (string, func() string) {
					url := fmt.Sprintf("kafka://%s/topic-%d%s&create-topics=true", strings.Join(cluster.ListenAddrs(), ","), made.Add(1),
						c.query)
					topic := parsed(t, url).Path[1:]
					return url, func() string { return fmt.Sprint(cluster.TopicInfo(topic)) }
				},
				Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
					t.Helper()
					s, err := Driver().Open(t.Context(), parsed(t, strings.Replace(raw, "timeout=10s", "timeout=600ms", 1)), env)
					if err != nil {
						t.Fatal(err)
					}
					return s, coarseProxy{proxy}
				},
				History:    c.history,
				Duplicates: true,
			})
		})
	}
}

// coarseProxy is a proxy that can break a connection only at every 48th byte of a response. Each
// response is longer than that.
type coarseProxy struct{ *sinktest.Proxy }

const grain = 48

func (c coarseProxy) Steps() int { return c.Proxy.Steps() / grain }

func (c coarseProxy) Break(n int, mode sinktest.Mode) { c.Proxy.Break(n*grain, mode) }

// history returns all events in a topic, including events of aborted transactions.
func history(t testing.TB, raw string) []sinktest.Stored {
	t.Helper()
	u := parsed(t, raw)
	var all []sinktest.Stored
	for _, m := range consume(t, u.Host, strings.Trim(u.Path, "/")) {
		if m.Value != nil { // not a tombstone
			all = append(all, sinktest.Stored{Place: fmt.Sprintf("%d/%d", m.Partition, m.Offset), Event: m.Value})
		}
	}
	return all
}

// committedHistory returns the events in a topic that a read-committed consumer sees.
func committedHistory(t testing.TB, raw string) []sinktest.Stored {
	t.Helper()
	u := parsed(t, raw)
	var all []sinktest.Stored
	for _, r := range consumeCommitted(t, u.Host, strings.Trim(u.Path, "/")) {
		if r.Value != nil { // not a tombstone
			all = append(all, sinktest.Stored{Place: fmt.Sprintf("%d/%d", r.Partition, r.Offset), Event: r.Value})
		}
	}
	return all
}
