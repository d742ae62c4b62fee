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
	broken  bool // of no use any more
	calls   sqlsink.Patience

	namespace string
	// lacksSchema: the schema that the URL names does not exist yet.
	lacksSchema bool
	number      int64           // of the session, at the server
	flushes     bool            // a commit is durable only once the log was flushed
	stages      map[string]bool // temporary tables of the session
	row         []any           // room for the values of a row
	scratch     []byte          // room for a metadata value
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
	s := &session{dialect: d, conn: conn, wire: wire, stages: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	d.namespace.Store(&s.namespace)
	return s, nil
}

// settings makes errors end their transaction, gives indexed views and computed
// columns what they need.
const settings = `SET XACT_ABORT ON; SET ANSI_NULLS ON; SET ANSI_PADDING ON; SET ANSI_WARNINGS ON;
SET ARITHABORT ON; SET CONCAT_NULL_YIELDS_NULL ON; SET QUOTED_IDENTIFIER ON;
SET NUMERIC_ROUNDABORT OFF; SET IMPLICIT_TRANSACTIONS OFF; SET NOCOUNT OFF;
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
`

// lookAround asks for the user's default schema, the session's number, and whether commits are
// durable only when the log was flushed (delayed durability is forced).
const lookAround = "SELECT SCHEMA_NAME(), @@SPID, (SELECT delayed_durability FROM sys.databases WHERE name = DB_NAME())"

// prepare sets the session up and finds out where it is.
func (s *session) prepare(ctx context.Context) error {
	if err := s.exec(ctx, "set up the session", settings+lockWait(s.dialect.timeouts.Lock)); err != nil {
		return err
	}
	rows, err := s.query(ctx, "look around", lookAround)
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("look around: the server answered no row")
	}
	s.number, s.flushes = rows[0].integer(1), rows[0].integer(2) == 2
	if s.namespace = rows[0].text(0); s.namespace == "" {
		s.namespace = "dbo"
	}
	return s.findSchema(ctx)
}

// findSchema looks for the schema that the URL names. One that does not exist is made
// with the first table.
func (s *session) findSchema(ctx context.Context) error {
	if s.dialect.schema == "" {
		return nil
	}
	s.namespace = s.dialect.schema
	rows, err := s.query(ctx, "look for the schema", "SELECT name FROM sys.schemas WHERE name = @p1", s.namespace)
	s.lacksSchema = err == nil && len(rows) == 0
	return err
}

// makeSchema makes the schema if it does not exist.
func (s *session) makeSchema(ctx context.Context) error {
	if !s.lacksSchema {
		return nil
	}
	err := s.exec(ctx, "create the schema", "CREATE SCHEMA "+quote(s.namespace))
	if e := new(serverError); errors.As(err, &e) {
		switch e.number {
		case 2714, 2759: // another session has just made it
			return nil
		case 262, 2760, 15151:
			return fault.Mark(fault.Fatal, fmt.Errorf("schema %q does not exist and user %q may not create it; run: CREATE SCHEMA %s AUTHORIZATION %s",
				s.namespace, s.dialect.config.User, quote(s.namespace), quote(s.dialect.config.User)))
		}
	}
	return err
}

// Close ends the session.
func (s *session) Close(context.Context) error {
	err := s.conn.Close()
	if s.broken {
		return nil // it was closed for us
	}
	return err
}

// grace is how long a server has to confirm that it has stopped a request.
const grace = time.Second

// guard gives the connection up soon after ctx ends, also where the driver would
// wait for the server. The returned function ends that.
func (s *session) guard(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = s.wire.SetDeadline(time.Now().Add(grace)) })
	return func() {
		if !stop() {
			s.broken = true // its deadline is near
		}
	}
}

var errBroken = errors.New("the connection is broken")

// ready says why a request can not be made.
func (s *session) ready(ctx context.Context, what string) error {
	switch {
	case s.broken:
		return &connectionError{fmt.Errorf("%s: %w", what, errBroken)}
	case ctx.Err() != nil:
		s.broken = true
		return &connectionError{fmt.Errorf("%s: %w", what, ctx.Err())}
	}
	return nil
}

// exec runs a batch of statements without parameters.
func (s *session) exec(ctx context.Context, what, sql string) error {
	_, err := s.run(ctx, what, sql, nil)
	return err
}

// execute runs statements with parameters of the given declaration, as
// "@p1 BIGINT, @p2 NVARCHAR(MAX)", and returns how many rows they changed. The
// declaration, and not the values at hand, decides the types, so that the server
// knows the statement again.
func (s *session) execute(ctx context.Context, what, sql, declaration string, values []any) (int64, error) {
	args := make([]driver.NamedValue, 0, len(values)+2)
	for _, v := range append([]any{sql, declaration}, values...) {
		args = append(args, driver.NamedValue{Ordinal: len(args) + 1, Value: v})
	}
	return s.run(ctx, what, "sp_executesql", args)
}

func (s *session) run(ctx context.Context, what, sql string, args []driver.NamedValue) (int64, error) {
	if err := s.ready(ctx, what); err != nil {
		return 0, err
	}
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	defer s.guard(ctx)()
	statement, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return 0, s.explain(what, sqlsink.CallError(ctx, err))
	}
	result, err := statement.(driver.StmtExecContext).ExecContext(ctx, args)
	if err != nil {
		return 0, s.explain(what, sqlsink.CallError(ctx, err))
	}
	count, err := result.RowsAffected()
	return count, s.explain(what, err)
}

// answer is a row of an answer.
type answer []driver.Value

func (a answer) text(i int) string {
	text, _ := a[i].(string)
	return text
}

func (a answer) integer(i int) int64 {
	n, _ := a[i].(int64)
	if yes, ok := a[i].(bool); ok && yes {
		return 1
	}
	return n
}

func (a answer) truth(i int) bool { return a.integer(i) != 0 }

// query runs one statement with text parameters and returns all of its answer.
func (s *session) query(ctx context.Context, what, sql string, params ...string) ([]answer, error) {
	var all []answer
	err := s.stream(ctx, what, sql, params, func(row []driver.Value) (bool, error) {
		all = append(all, append(answer{}, row...))
		return true, nil
	})
	return all, err
}

// stream runs one statement and hands each row of its answer to each, in memory
// that is used again for the next, until each returns false.
func (s *session) stream(ctx context.Context, what, sql string, params []string, each func(row []driver.Value) (bool, error)) error {
	if err := s.ready(ctx, what); err != nil {
		return err
	}
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	defer s.guard(ctx)()
	statement, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return s.explain(what, sqlsink.CallError(ctx, err))
	}
	args := make([]driver.NamedValue, len(params))
	for i, p := range params {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: mssql.NVarCharMax(p)}
	}
	rows, err := statement.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return s.explain(what, sqlsink.CallError(ctx, err))
	}
	dest := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(dest)
		if errors.Is(err, io.EOF) {
			return s.explain(what, sqlsink.CallError(ctx, rows.Close()))
		}
		if err != nil {
			_ = rows.Close()
			return s.explain(what, sqlsink.CallError(ctx, err))
		}
		call.Pause()
		more, err := each(dest)
		call.Resume()
		if err != nil || !more {
			// What is left of the answer is given up with the session.
			s.broken = true
			_ = s.wire.SetDeadline(time.Now())
			_ = rows.Close()
			return err
		}
	}
}
