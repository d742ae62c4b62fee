// Package snowflake_test runs the Snowflake destination against a double of the
// service that executes its statements on DuckDB. It is a module of its own,
// because DuckDB is a large library of C++.
package snowflake_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/drivers/snowflake"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

func TestMain(m *testing.M) {
	// Keep Snowflake's client from asking clouds whether it runs on them.
	os.Setenv("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
	goleak.VerifyTestMain(m)
}

// destinations are the engines behind URLs.
type destinations struct {
	mu      sync.Mutex
	engines map[string]*engine
}

// open starts a double with an empty database and returns its URL.
func (d *destinations) open(t testing.TB) string {
	e := newEngine(t)
	server := peer.New(t, e, peer.Users{Passwords: map[string]string{"eds": "p@ss/w%rd"}})
	raw := (&url.URL{
		Scheme: "snowflake", User: url.UserPassword("eds", "p@ss/w%rd"), Host: server.Host(), Path: "/SHOP/PUBLIC",
		RawQuery: "account=test&protocol=http&warehouse=W",
	}).String()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.engines[raw] = e
	return raw
}

func (d *destinations) engine(raw string) *engine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.engines[raw]
}

func TestConformance(t *testing.T) {
	all := &destinations{engines: make(map[string]*engine)}
	sinktest.Run(t, sinktest.Config{
		Driver: snowflake.Driver(),
		URL:    all.open,
		Untouched: func(t testing.TB) (string, func() string) {
			raw := all.open(t)
			return raw, all.engine(raw).contents
		},
		Foreign: func(t testing.TB, raw, table string) {
			name := `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
			all.engine(raw).exec(fmt.Sprintf(`CREATE TABLE %[1]s (
  id VARCHAR, n DECIMAL(9,0), s VARCHAR, must VARCHAR NOT NULL, extra VARCHAR);
COMMENT ON COLUMN %[1]s.s IS '10';
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, name))
			all.engine(raw).setKey(table, `"id"`)
		},
		LoseStage: func(_ testing.TB, raw, job, table, id string) {
			all.engine(raw).exec(sinktest.LoseStageSQL(`"`, job, table, id))
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			proxy := sinktest.NewProxy(t, u.Host)
			u.Host = proxy.Addr()
			s, err := snowflake.Driver().Open(context.Background(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
	})
}
