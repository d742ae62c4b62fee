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

// sqlSession is one connection. It implements sqlsink.Conn.
type sqlSession struct {
	serverView
	dialect *dialect
	pg      *pgconn.PgConn
	// The field front sends pipelines. The connection's own frontend cannot be used: if a read
	// fails, pgconn sends Terminate through that frontend, even while a pipeline sends.
	front *pgproto3.Frontend

	begin, commit *preparedStatement
	setLockWait   *preparedStatement            // sets a transaction's lock_timeout; nil if prepare set it
	statements    map[string]*preparedStatement // by SQL text
	names         int                           // the number of statement names used
	tempTables    map[string]bool               // the temporary tables that exist, by quoted name
	lacksSchema   bool                          // the URL's schema does not exist yet
	calls         sqlsink.CallLimit
	unanswered    bool // a pipeline lost its connection, so the server may still be running a call

	copyBuffer []byte
	params     [][]byte // reused for a statement's parameters
	scratch    []byte   // reused for a metadata value
}

// serverFeatures are the features that differ between servers that speak PostgreSQL's protocol, and
// between poolers.
type serverFeatures struct {
	// Cockroach reports whether the server is CockroachDB, which has its own types and collations.
	Cockroach bool
	// KeepsState reports whether prepared statements and temporary tables last as long as the
	// session. Behind a pooler that assigns a server connection per transaction, they do not.
	KeepsState bool
	// TempTables reports whether the user may create temporary tables.
	TempTables bool
}

// canStage reports whether the session can write rows through a temporary table.
func (f serverFeatures) canStage() bool { return f.KeepsState && f.TempTables && !f.Cockroach }

// Connect opens a session. Each call parses the URL again, with the current values of placeholders
// and the current contents of files, and so uses renewed credentials.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) { return d.connect(ctx) }

func (d *dialect) connect(ctx context.Context) (*sqlSession, error) {
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
	s := &sqlSession{
		dialect: d, pg: pg, front: pgproto3.NewFrontend(pg.Conn(), pg.Conn()),
		statements: make(map[string]*preparedStatement), tempTables: make(map[string]bool),
	}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	if err := s.prepare(ctx); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	d.server.Store(&s.serverView)
	return s, nil
}

// prepare inspects the server, sets the session's settings, and looks for the schema.
func (s *sqlSession) prepare(ctx context.Context) error {
	s.features.Cockroach = s.pg.ParameterStatus("crdb_version") != ""
	rows, err := s.query(ctx, "inspect the session",
		"SELECT coalesce(current_schema(), ''), pg_backend_pid()::text, current_setting('synchronous_commit', true)")
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("inspect the session: the server returned no row")
	}
	s.namespace = rows[0].text(0)
	// When a session starts, a pooler reports its own process id, which differs from that of the
	// server process.
	s.features.KeepsState = !s.features.Cockroach && rows[0].text(1) == fmt.Sprint(s.pg.PID()) && !s.dialect.pooled.Load()
	if err := s.findTempPrivilege(ctx); err != nil {
		return err
	}
	if s.features.KeepsState {
		// eds enforces its own deadlines. The server's deadlines ignore progress, and a server that
		// hangs does not enforce them.
		settings := "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; " +
			"SET lock_timeout = " + milliseconds(s.dialect.timeouts.Lock)
		if rows[0].text(2) == "off" {
			// The commit of a batch must be durable, because eds then acknowledges the batch.
			settings += "; SET synchronous_commit = on"
		}
		if err := s.exec(ctx, "set up the session", settings); err != nil {
			return err
		}
	}
	s.begin, s.commit = s.prepared("BEGIN", nil), s.prepared("COMMIT", nil)
	if !s.features.KeepsState && !s.features.Cockroach {
		s.setLockWait = s.prepared(strings.TrimSuffix(s.lockWait(s.dialect.timeouts.Lock), "; "), nil)
	}
	return s.findSchema(ctx)
}

func (s *sqlSession) findTempPrivilege(ctx context.Context) error {
	if s.features.Cockroach {
		return nil
	}
	rows, err := s.query(ctx, "inspect the session",
		"SELECT has_database_privilege(current_database(), 'TEMP') AND NOT pg_is_in_recovery()")
	s.features.TempTables = err == nil && len(rows) == 1 && rows[0].text(0) == "t"
	return err
}

// schemaQuery finds out whether the user may create schemas, and whether the schema exists.
const schemaQuery = `SELECT has_database_privilege(current_database(), 'CREATE'),
       EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)`

// findSchema looks for the URL's schema. If the schema does not exist, the first DDL creates it.
func (s *sqlSession) findSchema(ctx context.Context) error {
	if s.dialect.schema == "" {
		if s.namespace == "" {
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q has no schema to write to: its search_path names none that exists; "+
				"add schema=public, or another, to the url", s.dialect.config.User))
		}
		return nil
	}
	s.namespace = s.dialect.schema
	rows, err := s.query(ctx, "look for the schema", schemaQuery, s.namespace)
	if err != nil || len(rows) != 1 {
		return err
	}
	s.lacksSchema = rows[0].text(1) != "t"
	if s.lacksSchema && rows[0].text(0) != "t" {
		return fault.Mark(fault.Fatal, fmt.Errorf("schema %q does not exist and user %q may not create it; "+
			"run: CREATE SCHEMA %s AUTHORIZATION %s", s.namespace, s.dialect.config.User, quote(s.namespace), quote(s.dialect.config.User)))
	}
	return nil
}

// makeSchema returns the statement that creates the schema, ending in a semicolon, or "" if the
// schema exists.
func (s *sqlSession) makeSchema() string {
	if !s.lacksSchema {
		return ""
	}
	return "CREATE SCHEMA IF NOT EXISTS " + quote(s.namespace) + "; "
}

// milliseconds formats a duration as the value of a setting in milliseconds.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Close closes the session and waits, until ctx is done, for the connection's cleanup. If the
// server may still be running a call, Close asks the server to cancel the call.
func (s *sqlSession) Close(ctx context.Context) error {
	if s.unanswered && !s.pg.IsClosed() {
		_ = s.pg.CancelRequest(ctx) // best effort: the server may not answer
	}
	err := s.pg.Close(ctx)
	select {
	case <-s.pg.CleanupDone():
	case <-ctx.Done():
	}
	return err
}

// prepared returns the session's prepared statement with the given SQL text. It creates
// the statement on first use, but does not send it to the server.
func (s *sqlSession) prepared(sql string, oids []uint32) *preparedStatement {
	st := s.statements[sql]
	if st == nil {
		st = &preparedStatement{sql: sql, oids: oids}
		if s.features.KeepsState {
			st.name = s.nextName("new")
		}
		s.statements[sql] = st
	}
	return st
}

// nextName returns an unused statement name. If the parameter old is "", the statement has no name,
// and nextName returns "".
func (s *sqlSession) nextName(old string) string {
	if old == "" {
		return ""
	}
	s.names++
	return fmt.Sprintf("eds_%d", s.names)
}

// resultRow is a row of a result, with its values in text format. A NULL is nil.
type resultRow [][]byte

func (r resultRow) text(i int) string { return string(r[i]) }
func (r resultRow) isNull(i int) bool { return r[i] == nil }

// query runs one statement with text parameters and returns its rows.
func (s *sqlSession) query(ctx context.Context, what, sql string, params ...string) ([]resultRow, error) {
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	within, call := s.calls.Await(ctx)
	defer call.End()
	result := s.pg.ExecParams(within, sql, values, nil, nil, nil).Read()
	return resultRows(result), s.sessionError(what, sqlsink.CallError(within, result.Err))
}

func resultRows(result *pgconn.Result) []resultRow {
	rows := make([]resultRow, len(result.Rows))
	for i, row := range result.Rows {
		rows[i] = row
	}
	return rows
}

// exec runs one or more statements as one simple query, which is one transaction.
func (s *sqlSession) exec(ctx context.Context, what, sql string) error {
	_, err := s.execAll(ctx, what, sql)
	return err
}

// execAll is like exec, but also returns the result of each statement.
func (s *sqlSession) execAll(ctx context.Context, what, sql string) ([]*pgconn.Result, error) {
	within, call := s.calls.Await(ctx)
	defer call.End()
	results, err := s.pg.Exec(within, sql).ReadAll()
	return results, s.sessionError(what, sqlsink.CallError(within, err))
}
