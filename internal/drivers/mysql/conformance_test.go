package mysql_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sinktest.Config{
		Driver: mysql.Driver(), URL: peers.MariaDB, Untouched: untouched(""), Foreign: foreign,
		LoseStage: loseStage, SQL: run, Views: true, Faulty: faulty,
	})
}

// untouched creates an empty database, and lists its tables.
func untouched(query string) func(t testing.TB) (string, func() string) {
	return func(t testing.TB) (string, func() string) {
		server := peers.MariaDB(t)
		db := beside(t, server)
		return server + query, func() string {
			return fmt.Sprint(db.Lines(t, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "+
				"ORDER BY table_name"))
		}
	}
}

// foreign creates a table as another tool would.
func foreign(t testing.TB, server, table string) {
	db := beside(t, server)
	name := "`" + strings.ReplaceAll(table, "`", "``") + "`"
	db.Run(t, fmt.Sprintf("CREATE TABLE %[1]s (id varchar(100) PRIMARY KEY, n int, s varchar(10), must text NOT NULL, extra text); "+
		"INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')", name))
}

func loseStage(t testing.TB, server, job, table, id string) {
	beside(t, server).Run(t, sinktest.LoseStageSQL("`", job, table, id))
}

// run runs a statement in a session other than the sink's.
func run(t testing.TB, server, statement string) {
	t.Helper()
	beside(t, server).Run(t, statement)
}

// beside opens a session other than the sink's. The session is closed when the test ends.
func beside(t testing.TB, server string) *peers.MySQL {
	t.Helper()
	db, err := peers.OpenMySQL(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// faulty opens the destination through a proxy that can break connections.
func faulty(t testing.TB, server string, env sink.Env) (sink.Sink, sinktest.Faults) {
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := sinktest.NewProxy(t, u.Host)
	u.Host = proxy.Addr()
	s, err := mysql.Driver().Open(t.Context(), u, env)
	if err != nil {
		t.Fatal(err)
	}
	return s, proxy
}

// TestConformance_WithoutLocalInfile: INSERT statements have the same effect as LOAD DATA.
func TestConformance_WithoutLocalInfile(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sinktest.Config{
		Driver: mysql.Driver(), URL: func(t testing.TB) string { return peers.MariaDB(t) + "?local_infile=false" },
		Untouched: untouched("?local_infile=false"),
		Foreign: func(t testing.TB, server, table string) {
			foreign(t, strings.TrimSuffix(server, "?local_infile=false"), table)
		},
		LoseStage: func(t testing.TB, server, job, table, id string) {
			loseStage(t, strings.TrimSuffix(server, "?local_infile=false"), job, table, id)
		},
	})
}
