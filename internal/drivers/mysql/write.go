package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// bulkRows is the minimum number of rows for which eds uses a temporary table.
const bulkRows = 64

// transaction implements sqlsink.Tx.
type transaction struct {
	*sqlSession
	begun bool
	drops []string // tables to drop after the commit, because DDL commits a transaction implicitly
}

// Begin returns a transaction. The transaction starts at the server with its first statement.
func (s *sqlSession) Begin(context.Context) (sqlsink.Tx, error) {
	return &transaction{sqlSession: s}, nil
}

func (tx *transaction) start(ctx context.Context) error {
	if tx.begun {
		return nil
	}
	tx.begun = true
	return tx.exec(ctx, "begin", "START TRANSACTION")
}

// Write deletes the rows of w.Deletes, then upserts the rows of w.Upserts.
func (tx *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	if err := tx.start(ctx); err != nil {
		return err
	}
	ts := tx.tableStatements(w.Layout)
	if err := tx.deleteRows(ctx, ts, w.Deletes, w.Synced); err != nil {
		return sqlsink.About(w.Layout, err)
	}
	return sqlsink.About(w.Layout, tx.upsert(ctx, ts, w.Upserts, w.Synced))
}

func (tx *transaction) upsert(ctx context.Context, ts *tableStatements, rows []change.Row, synced time.Time) error {
	d := tx.dialect
	if len(rows) >= bulkRows && !d.noTemp.Load() && (!ts.keyOnly || !d.noInfile.Load()) {
		if done, err := tx.writeViaStage(ctx, ts, ts.upsertStage, rows, synced); done || err != nil {
			return err
		}
	}
	if ts.keyOnly {
		_, err := tx.insertRows(ctx, ts, ts.upsertRows, rowCursor(rows), synced)
		return err
	}
	for i := range rows {
		for _, c := range []rowStatement{ts.updateRow, ts.insertRow} {
			if c.sql == "" {
				continue
			}
			if err := tx.run(ctx, ts, "upsert into "+ts.label, c, rows[i:i+1], synced); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteRows deletes the table's rows that have the keys of the given rows. If the layout is soft,
// it marks them as deleted instead.
func (tx *transaction) deleteRows(ctx context.Context, ts *tableStatements, rows []change.Row, synced time.Time) error {
	if len(rows) >= bulkRows && !tx.dialect.noTemp.Load() {
		if done, err := tx.writeViaStage(ctx, ts, ts.deleteStage, rows, synced); done || err != nil {
			return err
		}
	}
	for len(rows) > 0 {
		n := 1
		if ts.deleteRows.condition != "" {
			n = chunkSize(len(rows), 64)
		}
		if err := tx.run(ctx, ts, "delete from "+ts.label, ts.deleteRows, rows[:n], synced); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// chunkSize returns the largest power of four that exceeds neither n nor the limit most. With such
// sizes, a few distinct statements suffice for any number of rows.
func chunkSize(n, most int) int {
	p := 1
	for p*4 <= min(n, most) {
		p *= 4
	}
	return p
}

// run executes a statement once, for all rows. A statement without a condition per row needs
// exactly one row.
func (tx *transaction) run(
	ctx context.Context, ts *tableStatements, what string, c rowStatement, rows []change.Row, synced time.Time,
) error {
	var args arguments
	for i := range rows {
		var err error
		if args, err = tx.parametersOf(ts, c.takes, &rows[i], synced, args); err != nil {
			return err
		}
	}
	sql := c.sql
	if c.condition != "" {
		sql += strings.Repeat(" OR "+c.condition, len(rows))[len(" OR "):]
	}
	return tx.exec(ctx, what, sql, args.values...)
}

// writeViaStage writes rows through a temporary table. It returns false and writes nothing if the
// user may not create temporary tables.
func (tx *transaction) writeViaStage(
	ctx context.Context, ts *tableStatements, t *tempStage, rows []change.Row, synced time.Time,
) (bool, error) {
	used, created := tx.temps[t.name]
	if !created {
		err := tx.exec(ctx, "create a temporary table for "+ts.label, t.create)
		if numbered(err, 1044, 1142, 1787) {
			tx.dialect.noTemp.Store(true)
			tx.dialect.env.Logger.Warn("the user may not create temporary tables, " +
				"so eds writes rows with INSERT statements, which is slower; " +
				"to allow it, run: " +
				"GRANT CREATE TEMPORARY TABLES ON " + quote(tx.dialect.config.DBName) + ".* TO " + literal(tx.dialect.config.User))
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	tx.temps[t.name] = true
	if used {
		if err := tx.exec(ctx, "empty a temporary table", "DELETE FROM "+t.name); err != nil {
			return false, tx.lostTemp(t, err)
		}
	}
	if _, err := tx.fill(ctx, ts, t.writer, rowCursor(rows), synced); err != nil {
		return false, err
	}
	for _, sql := range t.apply {
		if err := tx.exec(ctx, t.writer.what, sql); err != nil {
			return false, err
		}
	}
	return true, nil
}

// lostTemp returns err. If err reports that the temporary table does not exist, lostTemp removes
// the table from the session's list, so that the next use creates the table again.
func (tx *transaction) lostTemp(t *tempStage, err error) error {
	if numbered(err, 1146) {
		delete(tx.temps, t.name)
	}
	return err
}

// arguments are the values of a statement's parameters. The values are slices of the field text.
type arguments struct {
	values []driver.Value
	text   []byte
}

// maxParameters is the maximum number of parameters of a statement in MySQL.
const maxParameters = 65535

// insertRows writes rows with INSERT statements of many rows each, which fit into
// max_allowed_packet. It returns the number of rows that the server reports as written.
func (s *sqlSession) insertRows(ctx context.Context, ts *tableStatements, to *rowWriter, next cursor, synced time.Time) (int64, error) {
	most := chunkSize(max(1, maxParameters/len(to.columns)), 1024)
	var count int64
	var args arguments
	pending := 0
	flush := func() error {
		values := args.values
		for pending > 0 {
			n := chunkSize(pending, most)
			written, err := s.insert(ctx, to, n, values[:n*len(to.columns)])
			if err != nil {
				return err
			}
			count += written
			values = values[n*len(to.columns):]
			pending -= n
		}
		clear(args.values)
		args = arguments{values: args.values[:0]}
		return nil
	}
	for {
		row, err := next()
		if err != nil {
			return 0, err
		}
		if row == nil {
			err := flush()
			return count, err
		}
		if args, err = s.parametersOf(ts, to.columns, row, synced, args); err != nil {
			return 0, err
		}
		if pending++; pending == most || len(args.text) >= min(s.maxPacket/4, keepBuffer) {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
}

// insert writes n rows with one statement. If that statement skipped rows, insert writes all rows
// again with a second statement, which replaces existing rows. It returns the number of rows that
// the first statement wrote.
func (s *sqlSession) insert(ctx context.Context, to *rowWriter, n int, values []driver.Value) (int64, error) {
	rows := strings.Repeat(", "+to.row, n)[2:] + to.suffix
	written, err := s.execRows(ctx, to.what, to.insert+rows, values...)
	if err != nil || to.replace == nil {
		return written, err
	}
	if written == int64(n) {
		return written, s.checkWarnings(ctx, to)
	}
	return written, s.exec(ctx, to.what, to.replace.insert+rows, values...)
}

// tooLarge returns the error for a value that exceeds the server's limit. The parameter most is the
// limit, in bytes.
func tooLarge(c *columnEncoder, most int) error {
	return c.Refuse(fmt.Errorf("it is larger than the server's max_allowed_packet of %d bytes; raise that on the server", most))
}

// Checkpoint moves the stored checkpoint to c. The parameter from is the expected stored position.
// If the stored position is another one, Checkpoint returns sqlsink.ErrMoved.
func (tx *transaction) Checkpoint(ctx context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	if err := tx.start(ctx); err != nil {
		return err
	}
	const what = "move the checkpoint"
	table := quote(l.Real.Name)
	number := func(n int64) driver.Value { return strconv.FormatInt(n, 10) }
	position, stored := number(int64(c.Position.Sequence)), number(c.Position.Stored)
	if c.New(from) {
		err := tx.exec(ctx, what, "INSERT INTO "+table+" (`stream`, `consumer`, `filter`, `position`, `stored`) VALUES (?, ?, ?, ?, ?)",
			c.Stream, c.Consumer, c.Filter, position, stored)
		if numbered(err, 1062) {
			return sqlsink.ErrMoved
		}
		return err
	}
	set, where := "", ""
	args := []driver.Value{position, stored, c.Stream, c.Consumer, c.Filter, number(int64(from.Sequence)), number(from.Stored)}
	if c.Epoch > 0 {
		set, where = ", `seen` = ?", " AND `epoch` = ? AND COALESCE(`generation`, 0) = ?"
		args = append(slices.Insert(args, 2, number(c.Seen)), number(c.Epoch), number(c.Generation))
	}
	found, err := tx.execRows(ctx, what, "UPDATE "+table+" SET `position` = ?, `stored` = ?"+set+
		" WHERE `stream` = ? AND `consumer` = ? AND `filter` = ? AND `position` = ? AND `stored` = ?"+where, args...)
	if err == nil && found != 1 {
		return sqlsink.ErrMoved
	}
	return err
}

// Raise increments the generation of every checkpoint in the table.
func (tx *transaction) Raise(ctx context.Context, l *sqlsink.Layout) error {
	if err := tx.start(ctx); err != nil {
		return err
	}
	return tx.exec(ctx, "raise the generation of the checkpoints",
		"UPDATE "+quote(l.Real.Name)+" SET `generation` = COALESCE(`generation`, 0) + 1")
}

// Commit commits the transaction, and then drops the tables that Place and Drop have listed.
func (tx *transaction) Commit(ctx context.Context) error {
	if tx.begun {
		if err := tx.exec(ctx, "commit", "COMMIT"); err != nil {
			return err
		}
		tx.begun = false
	}
	defer tx.calls.AllowLong()()
	for _, table := range tx.drops {
		if err := tx.exec(ctx, "drop a staging table", "DROP TABLE IF EXISTS "+quote(table)); err != nil {
			return err
		}
	}
	return nil
}

// Rollback undoes the transaction. If the transaction has not started, Rollback does nothing.
func (tx *transaction) Rollback(ctx context.Context) error {
	if !tx.begun {
		return nil
	}
	tx.begun = false
	return tx.exec(ctx, "roll back", "ROLLBACK")
}

// warning converts the first row of SHOW WARNINGS to an error, which is poison. The text of the
// error starts with the name of the operation.
func warning(what string, rows [][]string) error {
	if len(rows) == 0 || len(rows[0]) < 3 {
		return fault.Mark(fault.Poison, errors.New(what+": the server changed a value"))
	}
	number, err := strconv.ParseUint(rows[0][1], 10, 16)
	if err != nil {
		return fault.Mark(fault.Poison, errors.New(what+": the server changed a value"))
	}
	return fault.Mark(fault.Poison, &serverError{number: uint16(number), message: rows[0][2], what: what, warned: true})
}
