package sqlserver

import (
	"flag"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers/tds"
)

// TestMain reduces the number of property checks, because the double is slow under the race
// detector and the checks mainly test the SQL engine.
func TestMain(m *testing.M) {
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// TestConformance runs the conformance suite against a double that executes SQL Server's
// statements. The suite also runs against a real SQL Server, in conformance_real_test.go.
func TestConformance(t *testing.T) {
	server := tds.Start(t, tds.Options{})
	databases := 0
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(), PadsKeys: true,
		URL: func(testing.TB) string {
			databases++
			return server.URL(fmt.Sprintf("shop%d", databases))
		},
		Untouched: func(t testing.TB) (string, func() string) {
			databases++
			raw := server.URL(fmt.Sprintf("shop%d", databases))
			return raw + "?schema=mine", func() string { return objectsOf(t, raw) }
		},
		Foreign: func(t testing.TB, raw, table string) { server.Exec(t, database(t, raw), foreign(table)) },
		SQL: func(t testing.TB, raw, statement string) {
			if table, ok := strings.CutPrefix(statement, "DELETE FROM "); ok { // the double does not support it
				statement = "TRUNCATE TABLE " + table
			}
			server.Exec(t, database(t, raw), statement)
		},
		LoseStage: func(t testing.TB, raw, job, table, id string) {
			server.Exec(t, database(t, raw), loseStage(job, table, id))
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

// objectsOf returns the names of the schemas and tables of a database.
func objectsOf(t testing.TB, raw string) string {
	t.Helper()
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := parse(target, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	var all []string
	for _, sql := range []string{"SELECT name FROM sys.schemas ORDER BY name", "SELECT name FROM sys.objects ORDER BY name"} {
		rows, err := s.query(t.Context(), "list objects", sql)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			all = append(all, row.text(0))
		}
	}
	return strings.Join(all, " ")
}

// database returns the name of the database in a URL.
func database(t testing.TB, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path[1:]
}

// foreign returns statements that create a table as another tool would.
func foreign(table string) string {
	return fmt.Sprintf(`CREATE TABLE %[1]s (id NVARCHAR(40) NOT NULL PRIMARY KEY, n INT NULL, s VARCHAR(10) NULL,
		  must NVARCHAR(MAX) NOT NULL, extra NVARCHAR(MAX) NULL);
INSERT INTO %[1]s (id, n, s, must, extra) VALUES (N'old', 7, N'short', N'there', N'kept');`, quote(table))
}

// loseStage damages the staged rows of a table.
func loseStage(job, table, id string) string {
	stage := quote(sqlsink.StageName(job, table))
	if id == "" {
		return "DROP TABLE " + stage
	}
	return fmt.Sprintf("DELETE T FROM %s AS T WHERE T.id = N'%s'", stage, id)
}
