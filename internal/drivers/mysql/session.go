package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// session is one connection. It implements sqlsink.Conn.
type session struct {
	server
	dialect *dialect
	conn    connection
	id      string // the server's number of the connection

	statements map[string]driver.Stmt // prepared, by text
	temps      map[string]bool        // temporary tables; true of those that may have rows
	maxPacket  int                    // bytes of a statement, or of a value
	call       *sqlsink.Deadline      // of the statement that is executed
	calls      sqlsink.Patience
	unanswered bool // a call was given up: the server may still be at work on it
	// source is what the next LOAD DATA LOCAL INFILE reads.
	source  io.Reader
	handler string // the name under which the server asks for it

	buffer  []byte // room for rows on their way
	sent    []byte // room for those that may be sent again
	scratch []byte // room for a metadata value
}

// connection is what a connection of go-sql-driver can do.
type connection interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
}

// maxStatements bounds how many prepared statements a session keeps.
const maxStatements = 512

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
	logged := &lastError{}
	now.config.Logger = logged
	connector, err := mysql.NewConnector(now.config)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, errors.New("the options of the mysql url do not go together"))
	}
	within, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	opened, err := connector.Connect(within)
	if err != nil {
		if within.Err() != nil && ctx.Err() == nil {
			err = within.Err()
		}
		return nil, now.explainConnect(logged.behind(err))
	}
	conn, ok := opened.(connection)
	if !ok {
		return nil, errors.Join(errors.New("the mysql driver has changed"), opened.Close())
	}
	s := &session{dialect: d, conn: conn, statements: make(map[string]driver.Stmt), temps: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	s.handler = fmt.Sprintf("eds_%p", s)
	mysql.RegisterReaderHandler(s.handler, func() io.Reader { return asked{s} })
	if err := s.prepareSession(within); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	d.server.Store(&s.server)
	return s, nil
}

// settings of a session: errors instead of changed values, zero as any other
// number where a column counts up by itself, and whatever somebody has set for
// all sessions that would end a long statement or refuse one.
const settings = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', autocommit = 1, " +
	"lock_wait_timeout = %[1]d, innodb_lock_wait_timeout = %[1]d, net_read_timeout = 600, net_write_timeout = 600, max_error_count = 16, " +
	"sql_safe_updates = 0, sql_select_limit = DEFAULT, sql_big_selects = 1"

// prepareSession finds out whom we talk to, and how.
func (s *session) prepareSession(ctx context.Context) error {
	d := s.dialect
	if err := s.exec(ctx, "set up the session", fmt.Sprintf(settings, s.lockWait())); err != nil {
		return err
	}
	rows, err := s.query(ctx, "look around", "SELECT VERSION(), CONNECTION_ID(), @@local_infile, @@max_allowed_packet, @@lower_case_table_names, @@innodb_flush_log_at_trx_commit")
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("look around: the server answered no row")
	}
	row := rows[0]
	s.maria = strings.Contains(row[0], "MariaDB")
	s.id = row[1]
	s.exact = exactCollation(row[0], s.maria)
	s.foldsTables = row[4] != "0"
	if s.maxPacket, err = strconv.Atoi(row[3]); err != nil {
		return fmt.Errorf("look around: max_allowed_packet is no number: %w", err)
	}
	if s.maria {
		if err := s.exec(ctx, "set up the session", "SET SESSION max_statement_time = 0"); err != nil {
			return err
		}
	}
	infile := row[2] == "1" || row[2] == "ON"
	if !d.told.Swap(true) {
		if !infile && !d.noInfile.Load() {
			d.env.Logger.Warn("the server does not allow LOAD DATA LOCAL INFILE, so rows are written by INSERT statements, which is slower; to allow it, run: SET GLOBAL local_infile = ON")
		}
		if row[5] != "1" {
			d.env.Logger.Warn("the server may lose what it has acknowledged when it crashes; for durability, run: SET GLOBAL innodb_flush_log_at_trx_commit = 1", "innodb_flush_log_at_trx_commit", row[5])
		}
	}
	if !infile {
		d.noInfile.Store(true)
	}
	return nil
}

// exactCollation returns the collation that compares texts by their bytes, all
// of them: trailing blanks as well. MySQL has one since 8.0.17; what is older
// takes keys that differ in trailing blanks for one, so that they are refused.
func exactCollation(version string, maria bool) string {
	if maria {
		return "utf8mb4_nopad_bin"
	}
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	if major > 8 || major == 8 && (minor > 0 || patch >= 17) {
		return "utf8mb4_0900_bin"
	}
	return "utf8mb4_bin"
}

// Close ends the session, and what the server may still be doing for it.
func (s *session) Close(ctx context.Context) error {
	mysql.DeregisterReaderHandler(s.handler)
	if s.unanswered {
		s.kill(ctx)
	}
	// What the server says to a good-bye is of no concern.
	_ = s.conn.Close()
	return nil
}

// exec runs one statement. Its arguments are bound.
func (s *session) exec(ctx context.Context, what, sql string, args ...driver.Value) error {
	_, err := s.execRows(ctx, what, sql, args...)
	return err
}

// execRows runs one statement and returns how many rows it found.
func (s *session) execRows(ctx context.Context, what, sql string, args ...driver.Value) (int64, error) {
	ctx, call := s.calls.Await(ctx)
	s.call = call
	defer call.End()
	var result driver.Result
	var err error
	if len(args) == 0 {
		result, err = s.conn.ExecContext(ctx, sql, nil)
	} else {
		result, err = s.execPrepared(ctx, sql, args)
	}
	if err != nil {
		return 0, s.explain(ctx, what, err)
	}
	return result.RowsAffected()
}

func (s *session) execPrepared(ctx context.Context, sql string, args []driver.Value) (driver.Result, error) {
	st := s.statements[sql]
	if st == nil {
		if len(s.statements) >= maxStatements {
			for text, old := range s.statements {
				_ = old.Close() // it frees memory of the server's
				delete(s.statements, text)
			}
		}
		var err error
		if st, err = s.conn.PrepareContext(ctx, sql); err != nil {
			return nil, err
		}
		s.statements[sql] = st
	}
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	executor, ok := st.(driver.StmtExecContext)
	if !ok {
		return nil, errors.New("the mysql driver has changed")
	}
	return executor.ExecContext(ctx, named)
}

// query runs one statement and returns all of its answer as text; NULL is "".
func (s *session) query(ctx context.Context, what, sql string, args ...driver.Value) ([][]string, error) {
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	rows, err := s.open(ctx, sql, args)
	if err != nil {
		return nil, s.explain(ctx, what, err)
	}
	defer rows.Close()
	var all [][]string
	values := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(values); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, s.explain(ctx, what, err)
		}
		row := make([]string, len(values))
		for i, v := range values {
			switch v := v.(type) {
			case nil:
			case []byte:
				row[i] = string(v)
			default:
				row[i] = fmt.Sprint(v)
			}
		}
		all = append(all, row)
	}
}

func (s *session) open(ctx context.Context, sql string, args []driver.Value) (driver.Rows, error) {
	if len(args) == 0 {
		return s.conn.QueryContext(ctx, sql, nil)
	}
	st, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return nil, err
	}
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	querier, ok := st.(driver.StmtQueryContext)
	if !ok {
		return nil, errors.Join(errors.New("the mysql driver has changed"), st.Close())
	}
	rows, err := querier.QueryContext(ctx, named)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &preparedRows{rows, st}, nil
}

// preparedRows are the rows of a statement that is closed with them.
type preparedRows struct {
	driver.Rows
	st driver.Stmt
}

func (r *preparedRows) Close() error { return errors.Join(r.Rows.Close(), r.st.Close()) }
