package sqlserver

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// sqlSession is one connection. It implements sqlsink.Conn.
type sqlSession struct {
	dialect *dialect
	conn    *mssql.Conn
	wire    net.Conn
	broken  bool // the connection cannot be used any more
	calls   sqlsink.CallLimit

	namespace   string
	lacksSchema bool            // the URL's schema does not exist yet
	number      int64           // the server's session id
	flushes     bool            // a commit is durable only after a flush of the log
	tempTables  map[string]bool // the temporary tables that exist, by name
	row         []any           // reused for the values of a row
	scratch     []byte          // reused for a metadata value
}

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
	conn, wire, err := now.dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &sqlSession{dialect: d, conn: conn, wire: wire, tempTables: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	d.namespace.Store(&s.namespace)
	return s, nil
}

// settings are the statements that set the session's settings. With them, an error ends the
// transaction, and eds can write tables that have indexed views or indexed computed columns.
const settings = `SET XACT_ABORT ON; SET ANSI_NULLS ON; SET ANSI_PADDING ON; SET ANSI_WARNINGS ON;
SET ARITHABORT ON; SET CONCAT_NULL_YIELDS_NULL ON; SET QUOTED_IDENTIFIER ON;
SET NUMERIC_ROUNDABORT OFF; SET IMPLICIT_TRANSACTIONS OFF; SET NOCOUNT OFF;
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
`

// sessionQuery selects the user's default schema, the session id, and the database's setting for
// delayed durability. With the setting 2 (forced), commits are durable only after a flush of the
// log.
const sessionQuery = "SELECT SCHEMA_NAME(), @@SPID, (SELECT delayed_durability FROM sys.databases WHERE name = DB_NAME())"

// prepare sets the session's settings, inspects the server, and looks for the schema.
func (s *sqlSession) prepare(ctx context.Context) error {
	if err := s.exec(ctx, "set up the session", settings+lockWait(s.dialect.timeouts.Lock)); err != nil {
		return err
	}
	rows, err := s.query(ctx, "inspect the session", sessionQuery)
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("inspect the session: the server returned no row")
	}
	s.number, s.flushes = rows[0].integer(1), rows[0].integer(2) == 2
	if s.namespace = rows[0].text(0); s.namespace == "" {
		s.namespace = "dbo"
	}
	return s.findSchema(ctx)
}

// findSchema looks for the URL's schema. If the schema does not exist, the first DDL creates it.
func (s *sqlSession) findSchema(ctx context.Context) error {
	if s.dialect.schema == "" {
		return nil
	}
	s.namespace = s.dialect.schema
	rows, err := s.query(ctx, "look for the schema", "SELECT name FROM sys.schemas WHERE name = @p1", s.namespace)
	s.lacksSchema = err == nil && len(rows) == 0
	return err
}

// qualify returns the quoted name of a table, with the session's schema.
func (s *sqlSession) qualify(table string) string { return quote(s.namespace) + "." + quote(table) }

// makeSchema creates the URL's schema if findSchema has not found it.
func (s *sqlSession) makeSchema(ctx context.Context) error {
	if !s.lacksSchema {
		return nil
	}
	err := s.exec(ctx, "create the schema", "CREATE SCHEMA "+quote(s.namespace))
	if e := new(serverError); errors.As(err, &e) {
		switch e.number {
		case 2714, 2759: // another session has just created it
			return nil
		case 262, 2760, 15151:
			return fault.Mark(fault.Fatal, fmt.Errorf("schema %q does not exist and user %q may not create it; "+
				"run: CREATE SCHEMA %s AUTHORIZATION %s",
				s.namespace, s.dialect.config.User, quote(s.namespace), quote(s.dialect.config.User)))
		}
	}
	return err
}

// Close closes the connection.
func (s *sqlSession) Close(context.Context) error {
	err := s.conn.Close()
	if s.broken {
		return nil // the connection is closed already
	}
	return err
}

// grace is the maximum time that a server may take to confirm that it has stopped a request.
const grace = time.Second

// abortOnDone makes the connection fail soon after ctx ends, even if the driver would keep waiting.
// The caller must call the function release after the request.
func (s *sqlSession) abortOnDone(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = s.wire.SetDeadline(time.Now().Add(grace)) })
	return func() {
		if !stop() {
			s.broken = true // the connection has a deadline
		}
	}
}

var errBroken = errors.New("the connection is broken")

// checkUsable returns an error if the session is broken or ctx has ended.
func (s *sqlSession) checkUsable(ctx context.Context, what string) error {
	switch {
	case s.broken:
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, errBroken)}
	case ctx.Err() != nil:
		s.broken = true
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, ctx.Err())}
	}
	return nil
}

// exec runs one or more statements without parameters as one batch.
func (s *sqlSession) exec(ctx context.Context, what, sql string) error {
	_, err := s.run(ctx, what, sql, nil)
	return err
}

// execParams runs statements with parameters and returns the number of changed rows. The parameter
// declaration names the parameters of the statements and their types, such as "@p1 BIGINT, @p2
// NVARCHAR(MAX)". The types do not depend on the values, so the server can reuse the plan.
func (s *sqlSession) execParams(ctx context.Context, what, sql, declaration string, values []any) (int64, error) {
	args := make([]driver.NamedValue, 0, len(values)+2)
	for _, v := range append([]any{sql, declaration}, values...) {
		args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: v})
	}
	return s.run(ctx, what, "sp_executesql", args)
}

func (s *sqlSession) run(ctx context.Context, what, sql string, args []driver.NamedValue) (int64, error) {
	if err := s.checkUsable(ctx, what); err != nil {
		return 0, err
	}
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	defer s.abortOnDone(ctx)()
	statement, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return 0, s.sessionError(what, sqlsink.CallError(ctx, err))
	}
	result, err := statement.(driver.StmtExecContext).ExecContext(ctx, args)
	if err != nil {
		return 0, s.sessionError(what, sqlsink.CallError(ctx, err))
	}
	count, err := result.RowsAffected()
	return count, s.sessionError(what, err)
}

// resultRow is a row of a result.
type resultRow []driver.Value

func (r resultRow) text(i int) string {
	text, _ := r[i].(string)
	return text
}

func (r resultRow) integer(i int) int64 {
	n, _ := r[i].(int64)
	if yes, ok := r[i].(bool); ok && yes {
		return 1
	}
	return n
}

func (r resultRow) boolean(i int) bool { return r.integer(i) != 0 }

// query runs one statement with text parameters and returns all rows of its result.
func (s *sqlSession) query(ctx context.Context, what, sql string, params ...string) ([]resultRow, error) {
	var all []resultRow
	err := s.streamRows(ctx, what, sql, params, func(row []driver.Value) (bool, error) {
		all = append(all, append(resultRow{}, row...))
		return true, nil
	})
	return all, err
}

// streamRows runs one statement and passes each row of the result to the function yield. A row is
// valid only during the call. If the function returns false or an error, streamRows stops, and the
// session is broken.
func (s *sqlSession) streamRows(
	ctx context.Context, what, sql string, params []string, yield func(row []driver.Value) (bool, error),
) error {
	if err := s.checkUsable(ctx, what); err != nil {
		return err
	}
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	defer s.abortOnDone(ctx)()
	statement, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return s.sessionError(what, sqlsink.CallError(ctx, err))
	}
	args := make([]driver.NamedValue, len(params))
	for i, p := range params {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: mssql.NVarCharMax(p)}
	}
	rows, err := statement.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return s.sessionError(what, sqlsink.CallError(ctx, err))
	}
	dest := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(dest)
		if errors.Is(err, io.EOF) {
			return s.sessionError(what, sqlsink.CallError(ctx, rows.Close()))
		}
		if err != nil {
			_ = rows.Close()
			return s.sessionError(what, sqlsink.CallError(ctx, err))
		}
		call.Pause()
		more, err := yield(dest)
		call.Resume()
		if err != nil || !more {
			// The session cannot be used again, because the rest of the result was not read.
			s.broken = true
			_ = s.wire.SetDeadline(time.Now())
			_ = rows.Close()
			return err
		}
	}
}
