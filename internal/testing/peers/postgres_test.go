package peers_test

import (
	"bufio"
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func query(t *testing.T, server, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestPostgres_GivesEachTestADatabase(t *testing.T) {
	one, two := peers.Postgres(t), peers.Postgres(t)
	a, b := query(t, one, "SELECT current_database()"), query(t, two, "SELECT current_database()")
	if a == b {
		t.Errorf("both databases are %s", a)
	}
	// The server must live until the process ends, even if nothing refers to the server any more.
	runtime.GC()
	runtime.GC()
	if again := query(t, one, "SELECT current_database()"); again != a {
		t.Errorf("after a collection of garbage %s is %s", a, again)
	}
}

func TestPostgresServer_KeepsCommitsAfterKill(t *testing.T) {
	server := peers.StartPostgres(t)
	database := server.Database(t)
	query(t, database, "WITH made AS (SELECT 1) SELECT 'x' FROM made")
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t AS SELECT 'kept' AS v"); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a killed server answers")
	}
	server.Start(t)
	if got := query(t, database, "SELECT v FROM t"); got != "kept" {
		t.Errorf("after the kill the table holds %q", got)
	}
	server.Stop(t)
	server.Start(t)
	if got := query(t, database, "SELECT v FROM t"); got != "kept" {
		t.Errorf("after the stop the table holds %q", got)
	}
}

// childVariable names the environment variable that makes this test binary the child process, which
// the test kills.
const childVariable = "EDS_TESTPEERS_CHILD"

func TestPostgres_EndsWithKilledTestProcess(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		os.Stdout.WriteString(peers.Postgres(t) + "\n")
		<-t.Context().Done()
		return
	}
	temp, err := os.MkdirTemp("", "eds-peers-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o777); err != nil { // the server may run as another user
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestPostgres_EndsWithKilledTestProcess$", "-test.timeout=60s")
	child.Env = append(os.Environ(), childVariable+"=1", "TMPDIR="+temp)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	database, err := url.Parse(line[:len(line)-1])
	if err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(temp, "eds-postgres-*")); err != nil || len(left) != 1 {
		t.Fatalf("homes while it runs: %v, %v", left, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()

	deadline := time.After(20 * time.Second)
	for {
		left, err := filepath.Glob(filepath.Join(temp, "eds-postgres-*"))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", database.Host)
		if err == nil {
			conn.Close()
		} else if len(left) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("still there: homes %v, server %v", left, err == nil)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
