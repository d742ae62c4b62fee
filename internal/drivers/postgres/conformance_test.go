package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{
		Driver: postgres.Driver(),
		URL:    testpeers.Postgres,
		Foreign: func(t testing.TB, server, table string) {
			conn, err := pgx.Connect(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			name := `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
			if _, err := conn.Exec(t.Context(), fmt.Sprintf(`CREATE TABLE %[1]s (id text PRIMARY KEY, n int, s varchar(10), must text NOT NULL, extra text);
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, name), pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
		},
		Faulty: func(t testing.TB, server string, env sink.Env) (sink.Sink, sinktest.Faults) {
			u, err := url.Parse(server)
			if err != nil {
				t.Fatal(err)
			}
			proxy := sinktest.NewProxy(t, u.Host)
			u.Host = proxy.Addr()
			s, err := postgres.Driver().Open(t.Context(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
	})
}
