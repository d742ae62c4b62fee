package snowflake_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

// engine executes Snowflake's statements on DuckDB, and translates the forms in which the two
// differ. The account has one database, which is in memory.
type engine struct {
	t         testing.TB
	connector driver.Connector

	mu       sync.Mutex
	sessions map[*duckSession]bool
	opened   int
	writer   *duckSession        // may write; nil for none
	keys     map[string][]string // columns of primary keys, by table; DuckDB does without them
}

// setKey remembers the primary key of a table, whose columns are quoted and separated by commas.
func (e *engine) setKey(table, columns string) {
	var key []string
	for column := range strings.SplitSeq(columns, ", ") {
		key = append(key, unquote(column))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[table] = key
}

// primaryKeys returns the result of SHOW PRIMARY KEYS.
func (e *engine) primaryKeys() *peer.Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &peer.Result{Columns: []peer.Column{{Name: "table_name"}, {Name: "column_name"}, {Name: "key_sequence"}}}
	for table, key := range e.keys {
		for i, column := range key {
			sequence := fmt.Sprint(i + 1)
			r.Rows = append(r.Rows, []*string{&table, &column, &sequence})
		}
	}
	return r
}

// prelude gives DuckDB the functions that it lacks. VARIANT is DuckDB's JSON, which keeps the text.
// The comment of a VARCHAR column is its length.
const prelude = `
CREATE MACRO convert_timezone(zone, t) AS timezone(zone, t);
CREATE MACRO to_varchar(x) AS x::VARCHAR, (x, f) AS strftime(x, CASE f WHEN 'YYYY-MM-DD' THEN '%Y-%m-%d' ELSE '%Y-%m-%dT%H:%M:%S.%fZ' END);
CREATE MACRO variant_text(x) AS x::VARCHAR;
CREATE MACRO to_timestamp_tz(x, f) AS x::TIMESTAMPTZ;
CREATE MACRO to_timestamp_ltz(x, f) AS x::TIMESTAMPTZ;
CREATE MACRO to_timestamp_ntz(x, f) AS x::TIMESTAMP;
CREATE MACRO to_date(x, f) AS x::DATE;
`

func newEngine(t testing.TB) *engine {
	t.Helper()
	connector, err := duckdb.NewConnector("", func(conn driver.ExecerContext) error {
		_, err := conn.ExecContext(context.Background(), "SET TimeZone = 'UTC'", nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connector.Close() })
	e := &engine{
		t: t, connector: struct{ driver.Connector }{connector}, sessions: make(map[*duckSession]bool),
		keys: make(map[string][]string),
	}
	db := e.db()
	if _, err := db.Exec(prelude); err != nil {
		t.Fatalf("prepare DuckDB: %v", err)
	}
	return e
}

// db returns DuckDB itself.
func (e *engine) db() *sql.DB {
	db := sql.OpenDB(e.connector)
	e.t.Cleanup(func() { db.Close() })
	return db
}

func (e *engine) exec(statements string) {
	e.t.Helper()
	if _, err := e.db().Exec(statements); err != nil {
		e.t.Fatalf("%s: %v", statements, err)
	}
}

// contents describes the tables of the database.
func (e *engine) contents() string {
	e.t.Helper()
	var all string
	const text = `SELECT coalesce(string_agg(sql, ' ' ORDER BY sql), '') FROM duckdb_tables() WHERE NOT internal AND NOT temporary`
	if err := e.db().QueryRow(text).Scan(&all); err != nil {
		e.t.Fatal(err)
	}
	return all
}

// duckSession is a session on a connection of its own.
type duckSession struct {
	e     *engine
	id    int
	db    *sql.DB
	conn  *sql.Conn
	place peer.Place

	mu     sync.Mutex // held while a statement is executed
	open   bool       // a transaction is
	last   time.Time  // end of the last statement
	staged int
}

func (e *engine) Open(at peer.Place) (peer.Session, error) {
	db := sql.OpenDB(e.connector)
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.opened++
	s := &duckSession{e: e, id: e.opened, db: db, conn: conn, place: at}
	e.sessions[s] = true
	return s, nil
}

func (s *duckSession) Close() error {
	s.e.mu.Lock()
	delete(s.e.sessions, s)
	s.e.mu.Unlock()
	s.rollback()
	s.e.release(s)
	return errors.Join(s.conn.Close(), s.db.Close())
}

func (s *duckSession) rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		_, _ = s.conn.ExecContext(context.Background(), "ROLLBACK")
		s.open = false
	}
}

// idleTimeout is how long a transaction may be idle while another session waits for it. Snowflake
// rolls it back after five minutes.
const idleTimeout = 500 * time.Millisecond

// lock waits until no other session has a transaction: Snowflake makes writers wait for each other,
// while DuckDB lets the later one fail.
func (s *duckSession) lock(ctx context.Context) error {
	for {
		writer := s.e.claim(s)
		if writer == s {
			return nil
		}
		writer.abortIdle()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// claim makes s the writer if there is none, and returns the writer.
func (e *engine) claim(s *duckSession) *duckSession {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writer == nil {
		e.writer = s
	}
	return e.writer
}

func (e *engine) release(s *duckSession) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writer == s {
		e.writer = nil
	}
}

// abortIdle rolls back a transaction that is idle for too long.
func (s *duckSession) abortIdle() {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if s.open && time.Since(s.last) > idleTimeout {
		_, _ = s.conn.ExecContext(context.Background(), "ROLLBACK")
		s.open = false
		s.e.release(s)
	}
}

// Query executes a statement.
func (s *duckSession) Query(ctx context.Context, q peer.Query) (*peer.Result, error) {
	if q.SQL == "BEGIN TRANSACTION" || writes(q.SQL) {
		if err := s.lock(ctx); err != nil {
			return nil, err
		}
	}
	defer s.unlock()
	return s.query(ctx, q)
}

// unlock lets other sessions write, unless a transaction is open.
func (s *duckSession) unlock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	if !s.open {
		s.e.release(s)
	}
}

func (s *duckSession) query(ctx context.Context, q peer.Query) (*peer.Result, error) {
	result, err := s.execute(ctx, q)
	for attempt := 0; err != nil && conflicting(err) && !s.open && attempt < 20; attempt++ {
		s.abortOthers()
		result, err = s.execute(ctx, q)
	}
	if err != nil && conflicting(err) {
		s.abortOthers()
	}
	return result, translateError(err)
}

func conflicting(err error) bool {
	text := err.Error()
	return strings.Contains(text, "onflict") || strings.Contains(text, "write-write") || strings.Contains(text, "has been altered") ||
		strings.Contains(text, "has been modified")
}

// abortOthers rolls back the transactions of sessions that execute nothing.
func (s *duckSession) abortOthers() {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	for other := range s.e.sessions {
		if other != s && other.mu.TryLock() {
			if other.open {
				_, _ = other.conn.ExecContext(context.Background(), "ROLLBACK")
				other.open = false
			}
			other.mu.Unlock()
		}
	}
}

func (s *duckSession) execute(ctx context.Context, q peer.Query) (*peer.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasPrefix(q.SQL, "SELECT CURRENT_DATABASE()"):
		return row([]string{"D", "S", "W", "R", "I"}, unquote(s.place.Database), unquote(s.place.Schema), unquote(s.place.Warehouse),
			"R", fmt.Sprint(s.id)), nil
	case strings.HasPrefix(q.SQL, "CREATE TEMPORARY STAGE"):
		return row([]string{"status"}, "Stage area EDS_STAGE successfully created."), nil
	case strings.HasPrefix(q.SQL, "SHOW PRIMARY KEYS"):
		return s.e.primaryKeys(), nil
	case strings.Contains(q.SQL, "FROM INFORMATION_SCHEMA.COLUMNS"):
		return s.rows(ctx, catalogue, q.Args)
	case q.SQL == "BEGIN TRANSACTION":
		s.open = true
	case q.SQL == "COMMIT", q.SQL == "ROLLBACK":
		if !s.open {
			return row([]string{"status"}, "Statement executed successfully."), nil
		}
		s.open = false
	}
	if isDDL(q.SQL) && s.open {
		return nil, errors.New("DDL in a transaction would commit it")
	}
	t, err := s.translate(ctx, q)
	if err != nil {
		return nil, err
	}
	if t.selects {
		return s.rows(ctx, t.sql, t.args)
	}
	return s.run(ctx, t)
}

func isDDL(text string) bool { return beginsWith(text, "CREATE", "ALTER", "DROP") }

func writes(text string) bool {
	return isDDL(text) || beginsWith(text, "MERGE", "UPDATE", "DELETE", "INSERT", "COPY", "TRUNCATE")
}

func beginsWith(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(text, word+" ") })
}

func unquote(name string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(name, `"`), `"`), `""`, `"`)
}

func row(columns []string, values ...string) *peer.Result {
	r := &peer.Result{}
	for _, c := range columns {
		r.Columns = append(r.Columns, peer.Column{Name: c})
	}
	cells := make([]*string, len(values))
	for i := range values {
		cells[i] = &values[i]
	}
	r.Rows = [][]*string{cells}
	return r
}

// run executes a statement without rows, and returns its counts.
func (s *duckSession) run(ctx context.Context, t *translated) (*peer.Result, error) {
	if t.merges {
		actions, err := s.rows(ctx, t.sql, t.args)
		if err != nil {
			return nil, err
		}
		count := make(map[string]int)
		for _, r := range actions.Rows {
			count[*r[0]]++
		}
		return row([]string{"number of rows inserted", "number of rows updated", "number of rows deleted"},
			fmt.Sprint(count["INSERT"]), fmt.Sprint(count["UPDATE"]), fmt.Sprint(count["DELETE"])), nil
	}
	result, err := s.conn.ExecContext(ctx, t.sql, values(t.args)...)
	if err != nil {
		return nil, fmt.Errorf("%w\nin %s", err, t.sql)
	}
	if t.affected != "" {
		n, err := result.RowsAffected()
		if err != nil {
			return nil, err
		}
		return row([]string{t.affected}, fmt.Sprint(n)), nil
	}
	return row([]string{"status"}, "Statement executed successfully."), nil
}

func values(args []string) []any {
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = a
	}
	return out
}

// rows executes a query.
func (s *duckSession) rows(ctx context.Context, text string, args []string) (*peer.Result, error) {
	rows, err := s.conn.QueryContext(ctx, text, values(args)...)
	if err != nil {
		return nil, fmt.Errorf("%w\nin %s", err, text)
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	r := &peer.Result{}
	into := make([]any, len(types))
	cells := make([]any, len(types))
	for i, t := range types {
		r.Columns = append(r.Columns, peer.Column{Name: t.Name(), Real: t.DatabaseTypeName() == "DOUBLE"})
		into[i] = &cells[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		line := make([]*string, len(cells))
		for i, c := range cells {
			if c == nil {
				continue
			}
			text := fmt.Sprint(c)
			if f, ok := c.(float64); ok {
				b, err := json.Marshal(f)
				if err != nil {
					return nil, err
				}
				text = string(b)
			}
			line[i] = &text
		}
		r.Rows = append(r.Rows, line)
	}
	return r, rows.Err()
}

// translateError gives DuckDB's errors the numbers of Snowflake's.
func translateError(err error) error {
	e := new(duckdb.Error)
	if err == nil || !errors.As(err, &e) {
		return err
	}
	out := &peer.Error{Code: 604, State: "57014", Message: err.Error()}
	switch {
	case conflicting(err):
	case e.Type == duckdb.ErrorTypeConversion, e.Type == duckdb.ErrorTypeOutOfRange, e.Type == duckdb.ErrorTypeInvalidInput:
		out.Code, out.State = 100038, "22018"
	case e.Type == duckdb.ErrorTypeConstraint:
		out.Code, out.State = 100072, "22000"
	case e.Type == duckdb.ErrorTypeCatalog:
		out.Code, out.State = 2003, "42S02"
	case e.Type == duckdb.ErrorTypeBinder:
		out.Code, out.State = 904, "42000"
	case e.Type == duckdb.ErrorTypeParser:
		out.Code, out.State = 1003, "42000"
	}
	return out
}
