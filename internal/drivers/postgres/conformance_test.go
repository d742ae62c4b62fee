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
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{
		Driver: postgres.Driver(),
		URL:    peers.Postgres,
		Untouched: func(t testing.TB) (string, func() string) {
			server := peers.Postgres(t)
			return server + "&schema=100%25%20mine", func() string {
				conn, err := pgx.Connect(t.Context(), server)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				var all string
				if err := conn.QueryRow(t.Context(), `SELECT (SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace
					  WHERE nspname NOT LIKE 'pg_t%')
|| ': ' || (SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class WHERE relnamespace NOT IN (SELECT oid
  FROM pg_namespace WHERE nspname LIKE 'pg_%' OR nspname = 'information_schema'))`).Scan(&all); err != nil {
					t.Fatal(err)
				}
				return all
			}
		},
		Foreign: func(t testing.TB, server, table string) {
			name := `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
			beside(t, server, fmt.Sprintf(`CREATE TABLE %[1]s (id text PRIMARY KEY, n int, s varchar(10), must text NOT NULL, extra text);
INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')`, name))
		},
		Views: true,
		SQL:   beside,
		LoseStage: func(t testing.TB, server, job, table, id string) {
			beside(t, server, sinktest.LoseStageSQL(`"`, job, table, id))
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

// beside runs statements in a session other than the sink's.
func beside(t testing.TB, server, statements string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), statements, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}
