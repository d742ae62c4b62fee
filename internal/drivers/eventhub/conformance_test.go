package eventhub

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

func TestConformance(t *testing.T) {
	made := make(map[string]*peer.Hub)
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(),
		URL: func(t testing.TB) string {
			hub := newHub(t, peer.Settings{Max: 20 << 20})
			raw := urlTo(hub, "")
			made[raw] = hub
			return raw
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			t.Helper()
			proxy := sinktest.NewProxy(t, namespace.Addr)
			u := parsed(t, strings.Replace(raw, namespace.Addr, proxy.Addr(), 1))
			s, err := Driver().Open(t.Context(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
		History: func(t testing.TB, raw string) []sinktest.Stored {
			t.Helper()
			var all []sinktest.Stored
			for _, e := range made[raw].Stored(t) {
				all = append(all, sinktest.Stored{Place: fmt.Sprintf("%d/%d", e.Partition, e.Offset), Event: e.Body})
			}
			return all
		},
		Duplicates: true,
	})
}
