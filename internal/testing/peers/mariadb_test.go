package peers_test

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// lines returns the rows of a query, which runs in a new session.
func lines(t *testing.T, server, sql string) []string {
	t.Helper()
	db, err := peers.OpenMySQL(server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	return db.Lines(t, sql)
}

func TestMariaDB_GivesEachTestADatabase(t *testing.T) {
	one, two := peers.MariaDB(t), peers.MariaDB(t)
	a, b := lines(t, one, "SELECT DATABASE()"), lines(t, two, "SELECT DATABASE()")
	if a[0] == b[0] {
		t.Errorf("both databases are %s", a[0])
	}
	if left := lines(t, one, "SHOW TABLES"); len(left) != 0 {
		t.Errorf("a new database holds %v", left)
	}
}

func TestMariaDBServer_KeepsCommitsAfterKill(t *testing.T) {
	server := peers.StartMariaDB(t)
	database := server.Database(t)
	db, err := peers.OpenMySQL(database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.Run(t, "CREATE TABLE t (v text) ENGINE=InnoDB; INSERT INTO t VALUES ('kept')")
	for name, end := range map[string]func(testing.TB){"kill": server.Kill, "stop": server.Stop} {
		end(t)
		if _, err := db.Exec("DO 1"); err == nil {
			t.Errorf("after a %s the server answers", name)
		}
		server.Start(t)
		if got := lines(t, database, "SELECT v FROM t"); len(got) != 1 || got[0] != "kept" {
			t.Errorf("after a %s the table holds %q", name, got)
		}
	}
}
