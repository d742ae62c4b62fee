package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresURLVariable is the name of the environment variable that contains the URL of a server.
// The tests use that server if no PostgreSQL is installed. The URL's user must be allowed to create
// databases.
const PostgresURLVariable = "EDS_TEST_POSTGRES_URL"

// startTimeout is the maximum time from the start of a server until it answers.
const startTimeout = 60 * time.Second

// sharedPostgres is the server that all tests of this process share. The variable keeps the
// server's home reachable until the process ends, because garbage collection of a home makes the
// janitor remove it.
var sharedPostgres = sync.OnceValues(func() (*postgresPeer, error) {
	if _, err := postgresPrograms(); err != nil {
		if u := os.Getenv(PostgresURLVariable); u != "" {
			return &postgresPeer{url: u}, nil
		}
		return nil, err
	}
	s, err := newPostgres(false, nil)
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.home.remove())
	}
	return &postgresPeer{url: s.URL("postgres"), server: s}, nil
})

// postgresPeer is a server on which tests create databases.
type postgresPeer struct {
	url    string
	server *PostgresServer // nil if the environment names the server
}

// databases counts the databases that this process has created, so that each gets a different name.
var databases atomic.Int64

// Postgres returns the URL of a new, empty database, which is dropped when the test ends. All tests
// of the process share one server, which does not sync its data to disk.
func Postgres(t testing.TB) string {
	t.Helper()
	peer, err := sharedPostgres()
	if err != nil {
		t.Fatalf("postgres for tests: %v", err)
	}
	return newDatabase(t, peer.url)
}

func newDatabase(t testing.TB, server string) string {
	t.Helper()
	name := fmt.Sprintf("eds_test_%d_%d", os.Getpid(), databases.Add(1))
	execute(t, server, "CREATE DATABASE "+name)
	t.Cleanup(func() { execute(t, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("parse the url of the test server: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// execute runs one statement on a new connection.
func execute(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connect to the test server: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// PostgresServer is a server that a test can stop, start and kill. Unlike the shared server, it
// syncs its data to disk.
type PostgresServer struct {
	home      *home
	bin       string
	port      int
	settings  []string
	authority *authority // signs certificates; nil without TLS
	process   *exec.Cmd
}

// StartPostgres starts a server for one test, with additional settings such as "max_connections=5".
// The server is removed when the test ends.
func StartPostgres(t testing.TB, settings ...string) *PostgresServer {
	t.Helper()
	s, err := newPostgres(true, settings)
	if err != nil {
		t.Fatalf("postgres for tests: %v", err)
	}
	t.Cleanup(func() {
		if s.process != nil {
			s.Kill(t)
		}
		if err := s.home.remove(); err != nil {
			t.Errorf("remove the test server: %v", err)
		}
	})
	s.Start(t)
	return s
}

// postgresPrograms returns the directory of initdb and postgres. It prefers the newest version that
// Debian has installed, and otherwise uses the programs on PATH.
func postgresPrograms() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	best, version := "", -1
	for _, path := range found {
		var n int
		if _, err := fmt.Sscanf(path, "/usr/lib/postgresql/%d/", &n); err == nil && n > version {
			best, version = filepath.Dir(path), n
		}
	}
	if best != "" {
		return best, nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	return "", fmt.Errorf("no PostgreSQL server is installed: run `apt-get install postgresql`, or put initdb and postgres on "+
		"PATH, or set %s to the URL of a server whose user may create databases", PostgresURLVariable)
}

// newPostgres prepares a server but does not start it. If durable is false, the server does not
// sync its data to disk.
func newPostgres(durable bool, settings []string) (*PostgresServer, error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	as, err := unprivileged("postgres")
	if err != nil {
		return nil, err
	}
	h, err := newHome("postgres", as)
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{home: h, bin: bin}
	s.settings = append(s.settings, "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_wal_size=4GB", "shared_buffers=256MB")
	if !durable {
		s.settings = append(s.settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	s.settings = append(s.settings, settings...)
	err = h.run(filepath.Join(bin, "initdb"), "-D", s.data(), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
		"--no-sync")
	if err != nil {
		return nil, errors.Join(err, h.remove())
	}
	return s, nil
}

func (s *PostgresServer) data() string { return filepath.Join(s.home.dir, "data") }

// URL returns the URL of a database on the server. The URL stays valid when the server restarts.
func (s *PostgresServer) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Database returns the URL of a new, empty database.
func (s *PostgresServer) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("eds_test_%d", databases.Add(1))
	execute(t, s.URL("postgres"), "CREATE DATABASE "+name)
	return s.URL(name)
}

// Start starts the server and waits until it answers. The port is the same each time.
func (s *PostgresServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatalf("start the test server: %v", err)
	}
}

func (s *PostgresServer) start() error {
	if s.port == 0 {
		port, err := freePort()
		if err != nil {
			return err
		}
		s.port = port
	}
	args := []string{"-D", s.data(), "-p", fmt.Sprint(s.port)}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		before := len(s.home.log())
		process, err := s.home.start(filepath.Join(s.bin, "postgres"), args...)
		if err != nil {
			return err
		}
		s.process = process
		if err = s.awaitAnswer(ctx, before); !errors.Is(err, errInUse) {
			return err
		}
		_ = process.Wait() // the new server has given up
	}
}

// errInUse means that processes of the previous, killed server have not ended yet.
var errInUse = errors.New("processes of the previous server are still running")

// awaitAnswer waits until the server answers a query. The second argument is the length in bytes
// that the server's log had before this start.
func (s *PostgresServer) awaitAnswer(ctx context.Context, said int) error {
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.home.log()[said:])
		case <-pause.C:
		}
		switch log := s.home.log()[said:]; {
		case strings.Contains(log, "could not bind"):
			return fmt.Errorf("port %d was taken\n%s", s.port, log)
		case strings.Contains(log, "pre-existing shared memory block"):
			return errInUse
		}
	}
}

// Stop shuts the server down cleanly: it rolls open transactions back and disconnects the clients.
func (s *PostgresServer) Stop(t testing.TB) {
	t.Helper()
	s.end(t, syscall.SIGINT)
}

// Kill kills the server. Unlike a power cut, this does not lose the kernel's buffers. Kill first
// stops the postmaster, so that the postmaster creates no new process. Then it kills the children,
// and finally the postmaster.
func (s *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	if s.process != nil {
		if err := killChildren(s.process.Process); err != nil {
			t.Fatalf("kill the test server: %v", err)
		}
	}
	s.end(t, syscall.SIGKILL)
	s.awaitSilence(t)
}

// awaitSilence waits until no process listens on the server's port.
func (s *PostgresServer) awaitSilence(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(startTimeout)
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("a killed server still listens")
		}
	}
}

func (s *PostgresServer) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if s.process == nil {
		t.Fatal("end the test server: it is not running")
	}
	if err := s.process.Process.Signal(signal); err != nil {
		t.Fatalf("end the test server: %v", err)
	}
	// Wait reports only that the server was killed.
	_ = s.process.Wait()
	s.process = nil
}
