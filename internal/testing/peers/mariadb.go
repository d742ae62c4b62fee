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
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

// MySQLURLVariable is the name of the environment variable that contains the URL of a server. The
// tests use that server if no MariaDB is installed. The URL's user must be allowed to create
// databases, and the server must allow LOAD DATA LOCAL INFILE.
const MySQLURLVariable = "EDS_TEST_MYSQL_URL"

// sharedMariaDB is the server that all tests of this process share. The variable keeps the server's
// home reachable until the process ends, because garbage collection of a home makes the janitor
// remove it.
var sharedMariaDB = sync.OnceValues(func() (*mariaDBPeer, error) {
	if _, err := mariaDBPrograms(); err != nil {
		if u := os.Getenv(MySQLURLVariable); u != "" {
			return &mariaDBPeer{url: u}, nil
		}
		return nil, err
	}
	s, err := newMariaDB(false, nil)
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.home.remove())
	}
	return &mariaDBPeer{url: s.URL(""), server: s}, nil
})

// mariaDBPeer is a server on which tests create databases.
type mariaDBPeer struct {
	url    string
	server *MariaDBServer // nil if the environment names the server
}

// MariaDB returns the URL of a new, empty database, which is dropped when the test ends. All tests
// of the process share one server, which does not sync its data to disk.
func MariaDB(t testing.TB) string {
	t.Helper()
	peer, err := sharedMariaDB()
	if err != nil {
		t.Fatalf("mariadb for tests: %v", err)
	}
	name := fmt.Sprintf("eds_test_%d_%d", os.Getpid(), databases.Add(1))
	executeMySQL(t, peer.url, "CREATE DATABASE "+name)
	t.Cleanup(func() { executeMySQL(t, peer.url, "DROP DATABASE IF EXISTS "+name) })
	u, err := url.Parse(peer.url)
	if err != nil {
		t.Fatalf("parse the url of the test server: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// executeMySQL runs one statement on a new connection.
func executeMySQL(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := runMySQL(ctx, server, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func runMySQL(ctx context.Context, server, statement string) error {
	db, err := OpenMySQL(server)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

// MariaDBServer is a server that a test can stop, start and kill. Unlike the shared server, it
// syncs its data to disk.
type MariaDBServer struct {
	home      *home
	bin       string
	port      int
	settings  []string
	process   *exec.Cmd
	authority *authority // signs certificates; nil without TLS
}

// StartMariaDB starts a server for one test, with additional settings such as "max_connections=5".
// The server is removed when the test ends.
func StartMariaDB(t testing.TB, settings ...string) *MariaDBServer {
	t.Helper()
	s, err := newMariaDB(true, settings)
	if err != nil {
		t.Fatalf("mariadb for tests: %v", err)
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

// mariaDBPrograms returns the path of mariadbd. Debian installs it in /usr/sbin, which may not be
// on PATH.
func mariaDBPrograms() (string, error) {
	for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd", "/usr/local/sbin/mariadbd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no MariaDB server is installed: run `apt-get install mariadb-server`, or put mariadbd and "+
		"mariadb-install-db on PATH, or set %s to the URL of a server whose user may create databases", MySQLURLVariable)
}

// newMariaDB prepares a server but does not start it. If durable is false, the server does not sync
// its data to disk.
func newMariaDB(durable bool, settings []string) (*MariaDBServer, error) {
	bin, err := mariaDBPrograms()
	if err != nil {
		return nil, err
	}
	as, err := unprivileged("mysql")
	if err != nil {
		return nil, err
	}
	h, err := newHome("mariadb", as)
	if err != nil {
		return nil, err
	}
	s := &MariaDBServer{home: h, bin: bin}
	own := "tmpdir=" + h.dir // a starting server deletes all temporary tables in its tmpdir
	s.settings = append(s.settings, "bind_address=127.0.0.1", "socket="+s.Socket(), "pid_file="+filepath.Join(h.dir, "mariadbd.pid"),
		own, "local_infile=1",
		"innodb_buffer_pool_size=256M", "innodb_log_file_size=256M", "character_set_server=utf8mb4", "skip_name_resolve=1")
	if !durable {
		s.settings = append(s.settings, "innodb_flush_log_at_trx_commit=0", "innodb_flush_method=nosync", "innodb_doublewrite=0")
	}
	s.settings = append(s.settings, settings...)
	err = h.run("mariadb-install-db", "--no-defaults", "--datadir="+s.data(), "--auth-root-authentication-method=normal",
		"--skip-test-db", "--"+own, "--innodb-flush-method=nosync")
	if err != nil {
		return nil, errors.Join(err, h.remove())
	}
	return s, nil
}

func (s *MariaDBServer) data() string { return filepath.Join(s.home.dir, "data") }

// Socket returns the path of the server's Unix socket.
func (s *MariaDBServer) Socket() string { return filepath.Join(s.home.dir, "socket") }

// Addr returns the server's host:port.
func (s *MariaDBServer) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL returns the URL of a database on the server. The URL stays valid when the server restarts.
func (s *MariaDBServer) URL(database string) string {
	return fmt.Sprintf("mysql://root@%s/%s", s.Addr(), database)
}

// Database returns the URL of a new, empty database.
func (s *MariaDBServer) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("eds_test_%d", databases.Add(1))
	executeMySQL(t, s.URL(""), "CREATE DATABASE "+name)
	return s.URL(name)
}

// Start starts the server and waits until it answers. The port is the same each time.
func (s *MariaDBServer) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatalf("start the test server: %v", err)
	}
}

func (s *MariaDBServer) start() error {
	if s.port == 0 {
		port, err := freePort()
		if err != nil {
			return err
		}
		s.port = port
	}
	args := []string{"--no-defaults", "--datadir=" + s.data(), fmt.Sprintf("--port=%d", s.port)}
	for _, setting := range s.settings {
		args = append(args, "--"+setting)
	}
	before := len(s.home.log())
	process, err := s.home.start(s.bin, args...)
	if err != nil {
		return err
	}
	s.process = process
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		if err = runMySQL(ctx, s.URL(""), "DO 1"); err == nil {
			return nil
		}
		pause := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w\n%s", err, s.home.log()[before:])
		case <-pause.C:
		}
		if log := s.home.log()[before:]; strings.Contains(log, "[ERROR] Aborting") {
			return fmt.Errorf("the server has given up\n%s", log)
		}
	}
}

// Stop shuts the server down cleanly.
func (s *MariaDBServer) Stop(t testing.TB) {
	t.Helper()
	s.end(t, syscall.SIGTERM)
}

// Kill kills the server. Unlike a power cut, this does not lose the kernel's buffers.
func (s *MariaDBServer) Kill(t testing.TB) {
	t.Helper()
	s.end(t, syscall.SIGKILL)
}

func (s *MariaDBServer) end(t testing.TB, signal syscall.Signal) {
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

// ClientCertificate returns a client certificate for a user, and the private key of the
// certificate. Both are PEM. The server must have TLS enabled.
func (s *MariaDBServer) ClientCertificate(t testing.TB, user string) (certificate, key []byte) {
	t.Helper()
	return s.authority.issue(t, user)
}

// EnableTLS restarts the server with a certificate for host, which a new authority has signed. It
// returns the path of the authority's certificate. Client certificates must come from the same
// authority.
func (s *MariaDBServer) EnableTLS(t testing.TB, host string) (authority string) {
	t.Helper()
	ca := newAuthority(t)
	s.authority = ca
	certificate, key := ca.issue(t, host)
	for name, text := range map[string][]byte{"server.crt": certificate, "server.key": key, "authority.crt": ca.pem} {
		path := filepath.Join(s.home.dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatalf("configure the test server: %v", err)
		}
		if s.home.as != nil {
			if err := os.Chown(path, int(s.home.as.uid), int(s.home.as.gid)); err != nil {
				t.Fatalf("configure the test server: %v", err)
			}
		}
		s.settings = append(s.settings, map[string]string{
			"server.crt": "ssl_cert=", "server.key": "ssl_key=",
			"authority.crt": "ssl_ca=",
		}[name]+path)
	}
	s.Stop(t)
	s.Start(t)
	authority = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, ca.pem, 0o600); err != nil {
		t.Fatalf("write the authority: %v", err)
	}
	return authority
}

// OpenMySQL opens a session on the database that a URL names, separate from the sessions of eds. A
// call may contain several statements.
func OpenMySQL(raw string) (*MySQL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	c := mysql.NewConfig()
	c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		c.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.MultiStatements, c.Logger = true, new(mysql.NopLogger)
	c.TLSConfig = "preferred"
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return newMySQL(connector), nil
}
