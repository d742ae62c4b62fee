package s3

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestConformance(t *testing.T) {
	for name, query := range map[string]string{"an event an object": "", "parquet": "format=parquet&layout=%7Btable%7D/of-%7Bcompany%7D"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := peers.S3(t)
			proxy := sinktest.NewProxy(t, server.Addr())
			bucket := server.Bucket(t)
			sinktest.Run(t, sinktest.Config{
				Driver: Driver(),
				URL:    func(t testing.TB) string { return at(server.Addr(), newPrefix(bucket), query) },
				Untouched: func(t testing.TB) (string, func() string) {
					empty := server.Bucket(t)
					return at(server.Addr(), newPrefix(empty), query), func() string {
						return fmt.Sprint(server.Objects(t, empty, ""), server.Unfinished(t, empty))
					}
				},
				Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
					t.Helper()
					// The faults do not count requests of Open.
					through := strings.Replace(raw, server.Addr(), proxy.Addr(), 1) + "&max-retries=0"
					s, err := Driver().Open(t.Context(), parsed(t, through), env)
					if err != nil {
						t.Fatal(err)
					}
					return s, coarseProxy{proxy}
				},
				History:    history,
				Duplicates: query != "",
			})
		})
	}
}

// coarseProxy is a proxy that can break a connection only at every 64th byte of a response. Each
// response is longer than that.
type coarseProxy struct{ *sinktest.Proxy }

const grain = 64

func (c coarseProxy) Steps() int { return c.Proxy.Steps() / grain }

func (c coarseProxy) Break(n int, mode sinktest.Mode) { c.Proxy.Break(n*grain, mode) }
