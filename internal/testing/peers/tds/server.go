// Package tds is a test double of SQL Server. It speaks TDS 7.4 and executes the few kinds of
// statements that a destination sends, with SQLite. It is strict, and refuses unknown statements.
// It shows that a client's connections, transactions, values and order of statements are right. It
// does not show how SQL Server itself interprets T-SQL.
package tds

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // executes the statements
)

// User and Password are the accepted login.
const (
	User     = "eds"
	Password = "Passw0rd!"
)

// Server is a running double. It makes databases when they are first named.
type Server struct {
	listener net.Listener
	options  Options
	dir      string
	group    sync.WaitGroup

	mu        sync.Mutex
	databases map[string]*database
	conns     map[net.Conn]struct{}
	fail      func(statement string) *Error
	records   []string
	sessions  int64
	closed    bool
}

// Options are settings of a double.
type Options struct {
	// Certificate is the server's certificate. Without it there is no encryption.
	Certificate *tls.Certificate
	// Encrypt requires encryption of everything, not only of the login.
	Encrypt bool
	// Exists reports whether a database exists. Nil means that all do.
	Exists func(name string) bool
	// Durability is sys.databases.delayed_durability: 2 is forced.
	Durability int
}

// Start starts a double, which ends with the test.
func Start(t testing.TB, options Options) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := functions(); err != nil {
		t.Fatal(err)
	}
	s := &Server{
		listener: listener, options: options, dir: t.TempDir(), databases: make(map[string]*database),
		conns: make(map[net.Conn]struct{}),
	}
	s.group.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

// Addr returns the double's host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL returns the URL of a database, which is empty at first.
func (s *Server) URL(name string) string {
	u := url.URL{Scheme: "sqlserver", User: url.UserPassword(User, Password), Host: s.Addr(), Path: "/" + name}
	return u.String()
}

// Fail makes statements fail if f returns an error for them. Nil ends that. The beginning and the
// end of transactions count as statements, and so do logins, as "login USER".
func (s *Server) Fail(f func(statement string) *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Statements returns the received statements, in order.
func (s *Server) Statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.records...)
}

// Kick ends every connection.
func (s *Server) Kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Exec runs statements in a database, for tests.
func (s *Server) Exec(t testing.TB, name, statements string) {
	t.Helper()
	d, err := s.database(name)
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.session(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if _, err := e.batch(t.Context(), statements, nil); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// record keeps a statement, and returns the error that it must fail with.
func (s *Server) record(statement string) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, statement)
	if s.fail == nil {
		return nil
	}
	return s.fail(statement)
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.conns[conn] = struct{}{}
		s.sessions++
		number := s.sessions
		s.mu.Unlock()
		s.group.Go(func() {
			s.serve(conn, number)
			_ = conn.Close()
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, conn)
		})
	}
}

func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.listener.Close()
	s.Kick()
	s.group.Wait()
	for _, d := range s.databases {
		_ = d.db.Close()
	}
}

// database returns the database of the name.
func (s *Server) database(name string) (*database, error) {
	if s.options.Exists != nil && !s.options.Exists(name) {
		return nil, &Error{
			Number: 4060, Class: 11, State: 1,
			Message: fmt.Sprintf("Cannot open database %q requested by the login. The login failed.", name),
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.databases[name]; d != nil {
		return d, nil
	}
	path := filepath.Join(s.dir, fmt.Sprintf("%d.db", len(s.databases)))
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=synchronous(off)&_pragma=busy_timeout(60000)")
	if err != nil {
		return nil, err
	}
	d := &database{db: db, name: name}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.prepare(ctx, s.options.Durability); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.databases[name] = d
	return d, nil
}

// Error is an error of the server.
type Error struct {
	Number       int32
	State, Class uint8
	Message      string
	// Cut ends the connection instead of answering. After executes the statement first.
	Cut, After bool
}

func (e *Error) Error() string { return fmt.Sprintf("error %d: %s", e.Number, e.Message) }

func syntaxError(near string) error {
	return &Error{Number: 102, Class: 15, State: 1, Message: fmt.Sprintf("Incorrect syntax near '%.60s'.", near)}
}
