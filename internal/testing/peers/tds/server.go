// Package tds is a test double of SQL Server: it speaks TDS 7.4 as the server
// does, and carries out the few shapes of statements that a destination sends on
// an engine of another kind (SQLite). It is strict about what it knows and
// refuses what it does not. It shows that a client's connections, transactions,
// values and the order of its statements are as they should be; it says nothing
// about what T-SQL means to SQL Server.
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

	_ "modernc.org/sqlite" // the engine below
)

// User and Password are what the double lets in.
const (
	User     = "eds"
	Password = "Passw0rd!"
)

// Server is a running double. Its databases are made as they are named.
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

// Options are how a double differs from the ordinary.
type Options struct {
	// Certificate, where set, is shown to clients. Without it there is no encryption.
	Certificate *tls.Certificate
	// Encrypt requires that everything is encrypted, and not the login only.
	Encrypt bool
	// Exists says which databases there are; nil is any.
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

// URL returns the URL of a database, which is empty when it is first met.
func (s *Server) URL(name string) string {
	u := url.URL{Scheme: "sqlserver", User: url.UserPassword(User, Password), Host: s.Addr(), Path: "/" + name}
	return u.String()
}

// Fail makes statements fail for which f returns an error; nil mends them. The
// beginning and the end of transactions, and logins as "login USER", count as statements.
func (s *Server) Fail(f func(statement string) *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Statements returns the statements that the double has taken so far, as they came.
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

// Exec runs statements in a database, of which everything that the double knows
// can be part.
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

// record keeps a statement and returns the error that it is to fail with.
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

// Error is an error that the double answers.
type Error struct {
	Number       int32
	State, Class uint8
	Message      string
	// Cut ends the connection instead of answering; After lets the statement
	// take effect before.
	Cut, After bool
}

func (e *Error) Error() string { return fmt.Sprintf("error %d: %s", e.Number, e.Message) }

func syntaxError(near string) error {
	return &Error{Number: 102, Class: 15, State: 1, Message: fmt.Sprintf("Incorrect syntax near '%.60s'.", near)}
}
