package tds

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// database is a database of the server. SQLite stores it.
type database struct {
	db   *sql.DB
	name string
}

// engine executes the statements of one session on its SQLite connection.
type engine struct {
	database *database
	number   int64
	conn     *sql.Conn
	open     bool // a transaction is open
	count    int64
}

// result is the result of a batch: the encoded tokens of its rows, and the number of returned or
// changed rows.
type result struct {
	tokens []byte
	rows   int64
}

func (d *database) session(ctx context.Context, number int64) (*engine, error) {
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	e := &engine{database: d, number: number, conn: conn}
	if err := e.do(ctx, temporaryTables); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return e, nil
}

// close ends the session. It rolls back the transaction and drops the temporary tables of the
// session.
func (e *engine) close() {
	_ = e.rollback(context.Background())
	_ = e.dropTemporary(context.Background())
	_ = e.conn.Close()
}

func (e *engine) dropTemporary(ctx context.Context) error {
	rows, err := e.ask(ctx, "SELECT name FROM temp.sqlite_schema WHERE type = 'table'")
	for _, row := range rows {
		err = errors.Join(err, e.do(ctx, "DROP TABLE temp."+name(fmt.Sprint(row[0]))))
	}
	return err
}

// descriptor returns a new transaction descriptor, preceded by its length.
func (e *engine) descriptor() []byte {
	e.count++
	return append([]byte{8}, le.AppendUint64(nil, uint64(e.number)<<32|uint64(e.count))...)
}

func (e *engine) begin(ctx context.Context) error {
	// Only one transaction writes at a time, as if all transactions wrote to the same rows.
	if err := e.do(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	e.open = true
	return nil
}

func (e *engine) commit(ctx context.Context) error {
	if !e.open {
		return &Error{Number: 3902, Class: 16, State: 1, Message: "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION."}
	}
	e.open = false
	return e.do(ctx, "COMMIT")
}

func (e *engine) rollback(ctx context.Context) error {
	if !e.open {
		return nil
	}
	e.open = false
	return e.do(ctx, "ROLLBACK")
}

// batch executes the statements of text one at a time, until one fails.
func (e *engine) batch(ctx context.Context, text string, arguments map[string]any) (result, error) {
	tokens, err := lex(text)
	if err != nil {
		return result{}, err
	}
	var all result
	parts := splitTop(tokens, ";")
	for i, statement := range parts {
		if len(statement) == 0 {
			continue
		}
		ended := i < len(parts)-1 || tokens[len(tokens)-1].is(";")
		if begins(statement, "MERGE") && !ended {
			return all, &Error{Number: 10713, Class: 15, State: 1, Message: "A MERGE statement must be terminated by a semi-colon (;)."}
		}
		one, err := e.whole(ctx, statement, arguments)
		if err != nil {
			return all, translate(err)
		}
		all.tokens = append(all.tokens, one.tokens...)
		all.rows += one.rows
	}
	return all, nil
}

// whole executes a statement atomically.
func (e *engine) whole(ctx context.Context, statement []token, arguments map[string]any) (result, error) {
	if controls(statement) {
		return e.control(ctx, statement)
	}
	if begins(statement, "SELECT") {
		return e.statement(ctx, statement, arguments)
	}
	begin, end, undo := "SAVEPOINT one", "RELEASE one", []string{"ROLLBACK TO one", "RELEASE one"}
	if !e.open { // once another transaction has written, SQLite does not let a reader write
		begin, end, undo = "BEGIN IMMEDIATE", "COMMIT", []string{"ROLLBACK"}
	}
	if err := e.do(ctx, begin); err != nil {
		return result{}, err
	}
	r, err := e.statement(ctx, statement, arguments)
	if err == nil {
		return r, e.do(ctx, end)
	}
	for _, step := range undo {
		err = errors.Join(err, e.do(ctx, step))
	}
	return r, err
}

// do executes one or more SQLite statements.
func (e *engine) do(ctx context.Context, text string, arguments ...any) error {
	_, err := e.conn.ExecContext(context.WithoutCancel(ctx), text, arguments...)
	if err != nil {
		return fmt.Errorf("%w in %.600s", err, text)
	}
	return nil
}

// change executes an SQLite statement and returns the number of changed rows.
func (e *engine) change(ctx context.Context, text string, arguments map[string]any) (int64, error) {
	r, err := e.conn.ExecContext(context.WithoutCancel(ctx), text, named(text, arguments)...)
	if err != nil {
		return 0, fmt.Errorf("%w in %.600s", err, text)
	}
	return r.RowsAffected()
}

var parameter = regexp.MustCompile(`@(p\d+)\b`)

// named returns those arguments to which text refers, as named parameters of SQLite.
func named(text string, arguments map[string]any) []any {
	if len(arguments) == 0 {
		return nil
	}
	var all []any
	seen := make(map[string]bool)
	for _, m := range parameter.FindAllStringSubmatch(text, -1) {
		if v, ok := arguments[m[1]]; ok && !seen[m[1]] {
			seen[m[1]] = true
			all = append(all, sql.Named(m[1], v))
		}
	}
	return all
}

// ask returns the rows of an SQLite query.
func (e *engine) ask(ctx context.Context, text string, arguments ...any) ([][]any, error) {
	rows, err := e.conn.QueryContext(context.WithoutCancel(ctx), text, arguments...)
	if err != nil {
		return nil, fmt.Errorf("%w in %.600s", err, text)
	}
	columns, err := rows.Columns()
	if err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	var all [][]any
	for rows.Next() {
		row, pointers := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			pointers[i] = &row[i]
		}
		if err := rows.Scan(pointers...); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		all = append(all, row)
	}
	return all, errors.Join(rows.Err(), rows.Close())
}

// translate returns the SQL Server error that corresponds to an SQLite error.
func translate(err error) error {
	if e := new(Error); errors.As(err, &e) {
		return e
	}
	text := err.Error()
	if _, rest, ok := strings.Cut(text, "tsql:"); ok {
		number, message, _ := strings.Cut(rest, ":")
		n, _ := strconv.Atoi(number)
		return &Error{Number: int32(n), Class: 16, State: 1, Message: message}
	}
	if _, rest, ok := strings.Cut(text, "CHECK constraint failed: tsql_"); ok {
		n, _ := strconv.Atoi(rest[:min(4, len(strings.TrimRight(rest[:min(4, len(rest))], " (")))])
		return &Error{Number: int32(n), Class: 16, State: 1, Message: "The value does not fit the column."}
	}
	e := new(sqlite.Error)
	if !errors.As(err, &e) {
		return err
	}
	number, message := int32(50001), text
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID:
		number, message = 2627, "Violation of PRIMARY KEY constraint. Cannot insert duplicate key. The duplicate key value is ("+text+")."
	case sqlite3.SQLITE_CONSTRAINT_NOTNULL:
		number, message = 515, "Cannot insert the value NULL into a column; column does not allow nulls."
	default:
		if strings.Contains(text, "no such table") {
			number, message = 208, "Invalid object name."
		} else if strings.Contains(text, "no such column") || strings.Contains(text, "has no column named") {
			number, message = 207, "Invalid column name."
		}
	}
	if number == 50001 {
		return fmt.Errorf("tds: execute a statement: %w", err)
	}
	return &Error{Number: number, Class: 16, State: 1, Message: message}
}
