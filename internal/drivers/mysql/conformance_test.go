package mysql_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sinktest.Config{Driver: mysql.Driver(), URL: testpeers.MariaDB, Foreign: foreign, Faulty: faulty})
}

// foreign makes a table as another tool might have left it.
func foreign(t testing.TB, server, table string) {
	db := beside(t, server)
	name := "`" + strings.ReplaceAll(table, "`", "``") + "`"
	db.Run(t, fmt.Sprintf("CREATE TABLE %[1]s (id varchar(100) PRIMARY KEY, n int, s varchar(10), must text NOT NULL, extra text); INSERT INTO %[1]s VALUES ('old', 7, 'short', 'there', 'kept')", name))
}

// beside opens a session beside the sink's, which ends with the test.
func beside(t testing.TB, server string) *testpeers.MySQL {
	t.Helper()
	db, err := testpeers.OpenMySQL(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// faulty opens the destination through a proxy.
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

// TestConformanceWithoutLocalInfile: where rows go by INSERT statements, all is
// the same.
func TestConformanceWithoutLocalInfile(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sinktest.Config{Driver: mysql.Driver(), URL: func(t testing.TB) string { return testpeers.MariaDB(t) + "?local_infile=false" }, Foreign: func(t testing.TB, server, table string) {
		foreign(t, strings.TrimSuffix(server, "?local_infile=false"), table)
	}})
}
