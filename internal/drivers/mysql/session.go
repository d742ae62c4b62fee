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

// sqlSession is one connection. It implements sqlsink.Conn.
type sqlSession struct {
	flavour
	dialect *dialect
	conn    driverConn
	id      string // the server's connection id

	statements map[string]driver.Stmt // prepared statements, by SQL text
	temps      map[string]bool        // the temporary tables that exist, by quoted name
	maxPacket  int                    // maximum size of a statement or a value, in bytes
	call       *sqlsink.Deadline      // the deadline of the running statement
	calls      sqlsink.CallLimit
	unanswered bool // a call timed out, so the server may still be running it
	// source is the content of the file for the running LOAD DATA LOCAL INFILE.
	source  io.Reader
	handler string // the file name in LOAD DATA LOCAL INFILE, by which the driver finds source

	buffer  []byte // reused for encoded rows
	sent    []byte // reused for rows that may have to be sent again
	scratch []byte // reused for a metadata value
}

// driverConn has the methods of a go-sql-driver/mysql connection that eds uses.
type driverConn interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
}

// maxStatements is the maximum number of prepared statements that a session keeps.
const maxStatements = 512

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
		return nil, now.explainConnect(logged.cause(err))
	}
	conn, ok := opened.(driverConn)
	if !ok {
		return nil, errors.Join(errors.New("the mysql driver has changed"), opened.Close())
	}
	s := &sqlSession{dialect: d, conn: conn, statements: make(map[string]driver.Stmt), temps: make(map[string]bool)}
	s.calls.Limit, s.calls.Working = d.timeouts.Statement, s.working
	s.handler = fmt.Sprintf("eds_%p", s)
	mysql.RegisterReaderHandler(s.handler, func() io.Reader { return pausingReader{s} })
	if err := s.prepareSession(within); err != nil {
		_ = s.Close(ctx)
		return nil, err
	}
	d.server.Store(&s.flavour)
	return s, nil
}

// settings is the statement that sets the session's settings. With them, the server rejects invalid
// values instead of changing them, and stores a zero in an AUTO_INCREMENT column as zero. They also
// override global settings that would end or refuse long statements.
const settings = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', " +
	"time_zone = '+00:00', autocommit = 1, " +
	"lock_wait_timeout = %[1]d, innodb_lock_wait_timeout = %[1]d, net_read_timeout = 600, net_write_timeout = 600, max_error_count = 16, " +
	"sql_safe_updates = 0, sql_select_limit = DEFAULT, sql_big_selects = 1"

// prepareSession sets the session's settings and inspects the server. The first session of a
// destination also logs warnings about the server's settings.
func (s *sqlSession) prepareSession(ctx context.Context) error {
	d := s.dialect
	if err := s.exec(ctx, "set up the session", fmt.Sprintf(settings, s.lockWait())); err != nil {
		return err
	}
	rows, err := s.query(ctx, "inspect the session", "SELECT VERSION(), CONNECTION_ID(), @@local_infile, @@max_allowed_packet, "+
		"@@lower_case_table_names, @@innodb_flush_log_at_trx_commit")
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return errors.New("inspect the session: the server returned no row")
	}
	row := rows[0]
	s.maria = strings.Contains(row[0], "MariaDB")
	s.id = row[1]
	s.exact = exactCollation(row[0], s.maria)
	s.foldsTables = row[4] != "0"
	if s.maxPacket, err = strconv.Atoi(row[3]); err != nil {
		return fmt.Errorf("inspect the session: max_allowed_packet is not a number: %w", err)
	}
	if s.maria {
		if err := s.exec(ctx, "set up the session", "SET SESSION max_statement_time = 0"); err != nil {
			return err
		}
	}
	infile := row[2] == "1" || row[2] == "ON"
	if !d.setupLogged.Swap(true) {
		if !infile && !d.noInfile.Load() {
			d.env.Logger.Warn(noInfileWarning)
		}
		if row[5] != "1" {
			d.env.Logger.Warn("the server may lose committed transactions when it crashes; for durability, run: "+
				"SET GLOBAL innodb_flush_log_at_trx_commit = 1", "innodb_flush_log_at_trx_commit", row[5])
		}
	}
	if !infile {
		d.noInfile.Store(true)
	}
	return nil
}

// exactCollation returns the collation that compares texts by all their bytes, including trailing
// blanks. MySQL has such a collation since 8.0.17. For older versions, exactCollation returns a
// collation that treats keys as equal if they differ only in trailing blanks.
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

// Close closes the session. If a call timed out, Close also kills the session at the server.
func (s *sqlSession) Close(ctx context.Context) error {
	mysql.DeregisterReaderHandler(s.handler)
	if s.unanswered {
		s.kill(ctx)
	}
	// The session has no open transaction to lose, so an error does not matter.
	_ = s.conn.Close()
	return nil
}

// exec runs one statement. It binds args to the statement's parameters.
func (s *sqlSession) exec(ctx context.Context, what, sql string, args ...driver.Value) error {
	_, err := s.execRows(ctx, what, sql, args...)
	return err
}

// execRows runs one statement and returns the number of rows that it matched or wrote.
func (s *sqlSession) execRows(ctx context.Context, what, sql string, args ...driver.Value) (int64, error) {
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
		return 0, s.sessionError(ctx, what, err)
	}
	return result.RowsAffected()
}

func (s *sqlSession) execPrepared(ctx context.Context, sql string, args []driver.Value) (driver.Result, error) {
	st := s.statements[sql]
	if st == nil {
		if len(s.statements) >= maxStatements {
			for text, old := range s.statements {
				_ = old.Close() // frees the server's memory
				delete(s.statements, text)
			}
		}
		var err error
		if st, err = s.conn.PrepareContext(ctx, sql); err != nil {
			return nil, err
		}
		s.statements[sql] = st
	}
	executor, ok := st.(driver.StmtExecContext)
	if !ok {
		return nil, errors.New("the mysql driver has changed")
	}
	return executor.ExecContext(ctx, namedValues(args))
}

// namedValues converts args to the type that the driver expects.
func namedValues(args []driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return named
}

// query runs one statement and returns its rows, with each value as text. NULL becomes "".
func (s *sqlSession) query(ctx context.Context, what, sql string, args ...driver.Value) ([][]string, error) {
	ctx, call := s.calls.Await(ctx)
	defer call.End()
	rows, err := s.open(ctx, sql, args)
	if err != nil {
		return nil, s.sessionError(ctx, what, err)
	}
	defer rows.Close()
	var all [][]string
	values := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(values); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, s.sessionError(ctx, what, err)
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

func (s *sqlSession) open(ctx context.Context, sql string, args []driver.Value) (driver.Rows, error) {
	if len(args) == 0 {
		return s.conn.QueryContext(ctx, sql, nil)
	}
	st, err := s.conn.PrepareContext(ctx, sql)
	if err != nil {
		return nil, err
	}
	querier, ok := st.(driver.StmtQueryContext)
	if !ok {
		return nil, errors.Join(errors.New("the mysql driver has changed"), st.Close())
	}
	rows, err := querier.QueryContext(ctx, namedValues(args))
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &preparedRows{rows, st}, nil
}

// preparedRows are the rows of a prepared statement. Closing the rows also closes the statement.
type preparedRows struct {
	driver.Rows
	st driver.Stmt
}

func (r *preparedRows) Close() error { return errors.Join(r.Rows.Close(), r.st.Close()) }
