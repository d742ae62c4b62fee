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

// session is one connection. It implements sqlsink.Conn.
type session struct {
	dialect *dialect
	conn    *mssql.Conn
	wire    net.Conn
	broken  bool // unusable
	calls   sqlsink.CallLimit

	namespace   string
	lacksSchema bool            // the URL's schema does not exist yet
	number      int64           // of the session, at the server
	flushes     bool            // a commit is durable only after the log was flushed
	tempTables  map[string]bool // of the session
	row         []any           // reused for the values of a row
	scratch     []byte          // reused for a metadata value
}

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
	conn, wire, err := now.dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{dialect: d, conn: conn, wire: wire, tempTables: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	d.namespace.Store(&s.namespace)
	return s, nil
}

// settings make errors end their transaction, and satisfy indexed views and computed columns.
const settings = `SET XACT_ABORT ON; SET ANSI_NULLS ON; SET ANSI_PADDING ON; SET ANSI_WARNINGS ON;
SET ARITHABORT ON; SET CONCAT_NULL_YIELDS_NULL ON; SET QUOTED_IDENTIFIER ON;
SET NUMERIC_ROUNDABORT OFF; SET IMPLICIT_TRANSACTIONS OFF; SET NOCOUNT OFF;
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
`

// sessionQuery selects the user's default schema, the session's number, and the database's delayed
// durability (2: forced, so commits are durable only after a flush of the log).
const sessionQuery = "SELECT SCHEMA_NAME(), @@SPID, (SELECT delayed_durability FROM sys.databases WHERE name = DB_NAME())"

// prepare sets the session up and inspects it.
func (s *session) prepare(ctx context.Context) error {
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

// findSchema looks for the URL's schema. If it does not exist, the first DDL creates it.
func (s *session) findSchema(ctx context.Context) error {
	if s.dialect.schema == "" {
		return nil
	}
	s.namespace = s.dialect.schema
	rows, err := s.query(ctx, "look for the schema", "SELECT name FROM sys.schemas WHERE name = @p1", s.namespace)
	s.lacksSchema = err == nil && len(rows) == 0
	return err
}

// qualify returns the quoted name of a table, with the session's schema.
func (s *session) qualify(table string) string { return quote(s.namespace) + "." + quote(table) }

// makeSchema creates the schema if it does not exist.
func (s *session) makeSchema(ctx context.Context) error {
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

// Close ends the session.
func (s *session) Close(context.Context) error {
	err := s.conn.Close()
	if s.broken {
		return nil // the connection is closed already
	}
	return err
}

// grace is how long a server may take to confirm that it has stopped a request.
const grace = time.Second

// abortOnDone breaks the connection soon after ctx ends, even if the driver would keep waiting.
// release ends the watch.
func (s *session) abortOnDone(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = s.wire.SetDeadline(time.Now().Add(grace)) })
	return func() {
		if !stop() {
			s.broken = true // the deadline is set
		}
	}
}

var errBroken = errors.New("the connection is broken")

// checkUsable returns an error if the session is broken or ctx has ended.
func (s *session) checkUsable(ctx context.Context, what string) error {
	switch {
	case s.broken:
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, errBroken)}
	case ctx.Err() != nil:
		s.broken = true
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, ctx.Err())}
	}
	return nil
}

// exec runs statements without parameters as one batch.
func (s *session) exec(ctx context.Context, what, sql string) error {
	_, err := s.run(ctx, what, sql, nil)
	return err
}

// execParams runs statements with parameters of the given declaration, such as "@p1 BIGINT, @p2
// NVARCHAR(MAX)", and returns how many rows they changed. The declaration decides the types, not
// the values, so the server can reuse its plan.
func (s *session) execParams(ctx context.Context, what, sql, declaration string, values []any) (int64, error) {
	args := make([]driver.NamedValue, 0, len(values)+2)
	for _, v := range append([]any{sql, declaration}, values...) {
		args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: v})
	}
	return s.run(ctx, what, "sp_executesql", args)
}

func (s *session) run(ctx context.Context, what, sql string, args []driver.NamedValue) (int64, error) {
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

// query runs one statement with text parameters and returns its rows.
func (s *session) query(ctx context.Context, what, sql string, params ...string) ([]resultRow, error) {
	var all []resultRow
	err := s.streamRows(ctx, what, sql, params, func(row []driver.Value) (bool, error) {
		all = append(all, append(resultRow{}, row...))
		return true, nil
	})
	return all, err
}

// streamRows runs one statement and passes each row of its result to yield, until yield returns
// false. The row is valid during the call.
func (s *session) streamRows(ctx context.Context, what, sql string, params []string, yield func(row []driver.Value) (bool, error)) error {
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
			// The rest of the result is lost with the session.
			s.broken = true
			_ = s.wire.SetDeadline(time.Now())
			_ = rows.Close()
			return err
		}
	}
}
