package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// session is one connection. It implements sqlsink.Conn.
type session struct {
	server
	dialect *dialect
	pg      *pgconn.PgConn
	// front is what flights are sent by. The connection's own frontend is also its
	// reader's, which says good-bye by it when the connection is lost, whatever is
	// being sent meanwhile.
	front *pgproto3.Frontend

	begin, commit *statement
	wait          *statement            // sets a transaction's lock_timeout; nil if the session keeps it
	statements    map[string]*statement // by text
	names         int                   // statements named so far
	stages        map[string]bool       // temporary tables of the session
	lacksSchema   bool                  // the schema that the URL names does not exist yet
	calls         sqlsink.Patience
	unanswered    bool // a call was given up: the server may still be at work on it

	copyBuffer []byte
	params     [][]byte // room for a statement's parameters
	scratch    []byte   // room for a metadata value
}

// abilities are what differs between the servers that speak PostgreSQL's
// protocol, and between what stands before them.
type abilities struct {
	// Cockroach is a server with its own idea of types and collations.
	Cockroach bool
	// Keeps says that the session's prepared statements and temporary tables
	// stay, as they do not behind a pooler that hands out servers by the
	// transaction.
	Keeps bool
	// Temp says that temporary tables may be made.
	Temp bool
}

// stages reports whether rows may go through a temporary table.
func (a abilities) stages() bool { return a.Keeps && a.Temp && !a.Cockroach }

// Connect opens a session.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) { return d.connect(ctx) }

func (d *dialect) connect(ctx context.Context) (*session, error) {
	now, err := sink.Renew(d.env.Access, d.target, func(target *url.URL) (*dialect, error) {
		now, _, err := parse(target, d.env)
		return now, err
	})
	if err != nil {
		return nil, err
	}
	within, call := sqlsink.Await(ctx, d.timeouts.Statement, nil)
	defer call.End()
	pg, err := pgconn.ConnectConfig(within, now.config)
	if err != nil {
		return nil, now.explainConnect(sqlsink.CallError(within, err))
	}
	s := &session{dialect: d, pg: pg, front: pgproto3.NewFrontend(pg.Conn(), pg.Conn()), statements: make(map[string]*statement), stages: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	if err := s.prepare(ctx); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	d.server.Store(&s.server)
	return s, nil
}

// prepare finds out whom we talk to.
func (s *session) prepare(ctx context.Context) error {
	s.can.Cockroach = s.pg.ParameterStatus("crdb_version") != ""
	rows, err := s.query(ctx, "look around", "SELECT coalesce(current_schema(), ''), pg_backend_pid()::text, current_setting('synchronous_commit', true)")
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("look around: the server answered no row")
	}
	s.namespace = rows[0].text(0)
	// A pooler answers the start of a session itself, with a number of its own.
	s.can.Keeps = !s.can.Cockroach && rows[0].text(1) == fmt.Sprint(s.pg.PID()) && !s.dialect.pooled.Load()
	if err := s.findTemp(ctx); err != nil {
		return err
	}
	if s.can.Keeps {
		// A deadline of the server's knows of no progress, and a server that is stopped keeps none:
		// eds has its own.
		settings := "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = " + milliseconds(s.dialect.timeouts.Lock)
		if rows[0].text(2) == "off" {
			// A batch is acknowledged when its commit is: it must be durable then.
			settings += "; SET synchronous_commit = on"
		}
		if err := s.exec(ctx, "set up the session", settings); err != nil {
			return err
		}
	}
	s.begin, s.commit = s.statement("BEGIN", nil), s.statement("COMMIT", nil)
	if !s.can.Keeps && !s.can.Cockroach {
		s.wait = s.statement(strings.TrimSuffix(s.lockWait(s.dialect.timeouts.Lock), "; "), nil)
	}
	return s.findSchema(ctx)
}

func (s *session) findTemp(ctx context.Context) error {
	if s.can.Cockroach {
		return nil
	}
	rows, err := s.query(ctx, "look around", "SELECT has_database_privilege(current_database(), 'TEMP') AND NOT pg_is_in_recovery()")
	s.can.Temp = err == nil && len(rows) == 1 && rows[0].text(0) == "t"
	return err
}

// findSchema looks for the schema that the URL names. One that does not exist is made
// with the first table.
func (s *session) findSchema(ctx context.Context) error {
	if s.dialect.schema == "" {
		if s.namespace == "" {
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q has no schema to write to: its search_path names none that exists; add schema=public, or another, to the url", s.dialect.config.User))
		}
		return nil
	}
	s.namespace = s.dialect.schema
	rows, err := s.query(ctx, "look for the schema", "SELECT has_database_privilege(current_database(), 'CREATE'), EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)", s.namespace)
	if err != nil || len(rows) != 1 {
		return err
	}
	s.lacksSchema = rows[0].text(1) != "t"
	if s.lacksSchema && rows[0].text(0) != "t" {
		return fault.Mark(fault.Fatal, fmt.Errorf("schema %q does not exist and user %q may not create it; run: CREATE SCHEMA %s AUTHORIZATION %s",
			s.namespace, s.dialect.config.User, quote(s.namespace), quote(s.dialect.config.User)))
	}
	return nil
}

// makeSchema is the statement that makes the schema, followed by a semicolon; empty if
// it exists.
func (s *session) makeSchema() string {
	if !s.lacksSchema {
		return ""
	}
	return "CREATE SCHEMA IF NOT EXISTS " + quote(s.namespace) + "; "
}

// milliseconds returns a duration as a setting has it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Close ends the session, and what the server may still be doing for it.
func (s *session) Close(ctx context.Context) error {
	if s.unanswered && !s.pg.IsClosed() {
		_ = s.pg.CancelRequest(ctx) // a server that does not answer cannot
	}
	err := s.pg.Close(ctx)
	select {
	case <-s.pg.CleanupDone():
	case <-ctx.Done():
	}
	return err
}

// statement returns the session's statement of the given text.
func (s *session) statement(sql string, oids []uint32) *statement {
	st := s.statements[sql]
	if st == nil {
		st = &statement{sql: sql, oids: oids}
		if s.can.Keeps {
			st.name = s.nextName("new")
		}
		s.statements[sql] = st
	}
	return st
}

// nextName returns a name that no statement of the session has; an unnamed
// statement stays so.
func (s *session) nextName(old string) string {
	if old == "" {
		return ""
	}
	s.names++
	return fmt.Sprintf("eds_%d", s.names)
}

// answer is a row of an answer, in text format.
type answer [][]byte

func (a answer) text(i int) string { return string(a[i]) }
func (a answer) isNull(i int) bool { return a[i] == nil }

// query runs one statement with text parameters and returns all of its answer.
func (s *session) query(ctx context.Context, what, sql string, params ...string) ([]answer, error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	within, call := s.calls.Await(ctx)
	defer call.End()
	result := s.pg.ExecParams(within, sql, values, nil, nil, nil).Read()
	return answersOf(result), s.explain(what, sqlsink.CallError(within, result.Err))
}

func answersOf(result *pgconn.Result) []answer {
	rows := make([]answer, len(result.Rows))
	for i, row := range result.Rows {
		rows[i] = row
	}
	return rows
}

// exec runs one or several statements as one simple query: several are one
// transaction.
func (s *session) exec(ctx context.Context, what, sql string) error {
	_, err := s.execAll(ctx, what, sql)
	return err
}

// execAll is exec that returns what the statements answered.
func (s *session) execAll(ctx context.Context, what, sql string) ([]*pgconn.Result, error) {
	within, call := s.calls.Await(ctx)
	defer call.End()
	results, err := s.pg.Exec(within, sql).ReadAll()
	return results, s.explain(what, sqlsink.CallError(within, err))
}
