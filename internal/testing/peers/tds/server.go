// Package tds is a test double of SQL Server. It speaks TDS 7.4, and executes in SQLite the few
// kinds of statements that a destination sends. It rejects all other statements. Tests against it
// check a client's connections, transactions, values, and the order of its statements. They do not
// check how SQL Server itself interprets T-SQL.
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

	_ "modernc.org/sqlite" // the driver that executes the statements
)

// User and Password are the only login that the server accepts.
const (
	User     = "eds"
	Password = "Passw0rd!"
)

// Server is a running test double. It creates a database when a client first names it.
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

// Options are the settings of a Server.
type Options struct {
	// Certificate is the server's certificate. If it is nil, the server does not support
	// encryption.
	Certificate *tls.Certificate
	// Encrypt makes the server require encryption of all messages, not only of the login.
	Encrypt bool
	// Exists reports whether a database exists. If it is nil, every database exists.
	Exists func(name string) bool
	// Durability is the value of sys.databases.delayed_durability; 2 means FORCED.
	Durability int
}

// Start starts a server, which stops when the test ends.
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

// Addr returns the server's host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL returns the destination URL of a database. The database is empty until a client creates
// tables.
func (s *Server) URL(name string) string {
	u := url.URL{Scheme: "sqlserver", User: url.UserPassword(User, Password), Host: s.Addr(), Path: "/" + name}
	return u.String()
}

// Fail makes the server call f for each statement. If f returns an error, the statement fails with
// that error. A nil f ends the failures. The start and the end of a transaction count as
// statements. A login counts as the statement "login USER".
func (s *Server) Fail(f func(statement string) *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Statements returns all statements that the server has received, in order.
func (s *Server) Statements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.records...)
}

// Kick closes every connection.
func (s *Server) Kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Exec executes statements in a database, in a session of the test itself.
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

// record records a statement, and returns the error with which the statement must fail, or nil.
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

// database returns the database with the given name. It creates the database on first use.
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

// Error is an error that the server sends to the client.
type Error struct {
	Number       int32
	State, Class uint8
	Message      string
	// Cut makes the server close the connection instead of answering. If After is true, the server
	// executes the statement before that.
	Cut, After bool
}

func (e *Error) Error() string { return fmt.Sprintf("error %d: %s", e.Number, e.Message) }

func syntaxError(near string) error {
	return &Error{Number: 102, Class: 15, State: 1, Message: fmt.Sprintf("Incorrect syntax near '%.60s'.", near)}
}
