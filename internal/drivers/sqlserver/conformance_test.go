package sqlserver

import (
	"flag"
	"fmt"
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers/tds"
)

// TestMain has properties checked fewer times than elsewhere: what they are about
// is the engine's, and the double's own engine is slow under the race detector.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// TestConformance runs against the double, which carries the statements out but
// is no SQL Server. conformance_real_test.go runs the same against one.
func TestConformance(t *testing.T) {
	server := tds.Start(t, tds.Options{})
	databases := 0
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(), PadsKeys: true,
		URL: func(testing.TB) string {
			databases++
			return server.URL(fmt.Sprintf("shop%d", databases))
		},
		Foreign: func(t testing.TB, raw, table string) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			server.Exec(t, u.Path[1:], foreign(table))
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			proxy := sinktest.NewProxy(t, server.Addr())
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			u.Host = proxy.Addr()
			s, err := Driver().Open(t.Context(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
	})
}

// foreign makes a table as another tool might have left it.
func foreign(table string) string {
	return fmt.Sprintf(`CREATE TABLE %[1]s (id NVARCHAR(40) NOT NULL PRIMARY KEY, n INT NULL, s VARCHAR(10) NULL, must NVARCHAR(MAX) NOT NULL, extra NVARCHAR(MAX) NULL);
INSERT INTO %[1]s (id, n, s, must, extra) VALUES (N'old', 7, N'short', N'there', N'kept');`, quote(table))
}
