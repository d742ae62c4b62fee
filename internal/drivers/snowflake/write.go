package snowflake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// parameterBytes is the maximum total size of rows that are sent as a statement's parameter, in
// bytes. Rows that exceed this size are sent as a file, which needs three more round trips and an
// upload.
const parameterBytes = 256 << 10

// errRowCount reports that the server wrote fewer or more rows than eds sent, for example because a
// file was removed or truncated.
var errRowCount = errors.New("the server did not write as many rows as it was sent")

// transaction implements sqlsink.Tx. Its methods upload files immediately, because an upload needs
// no transaction, and queue statements for Commit. This way, tables are locked only during Commit.
// The queue costs little time, because Snowflake executes the statements of a session one at a
// time.
type transaction struct {
	*sqlSession
	begun      bool
	statements []queuedStatement
	files      []string // names of the uploaded files on the stage
	after      []string // DDL to run after the commit, because DDL commits a transaction implicitly
}

// queuedStatement is a statement that Commit executes.
type queuedStatement struct {
	what, sql string
	args      []string
	check     func(*queryResult) error // checks the result; may be nil
	layout    *sqlsink.Layout          // of the statement's table, or nil if the statement is about no table
}

// Begin returns a transaction. Commit starts the transaction at the server.
func (s *sqlSession) Begin(context.Context) (sqlsink.Tx, error) {
	return &transaction{sqlSession: s}, nil
}

func (tx *transaction) add(what, sql string, check func(*queryResult) error, args ...string) {
	tx.statements = append(tx.statements, queuedStatement{what: what, sql: sql, args: args, check: check})
}

// addTo is like add, but the statement belongs to the table of layout l, and so do errors of the
// statement.
func (tx *transaction) addTo(l *sqlsink.Layout, what, sql string, check func(*queryResult) error, args ...string) {
	tx.add(what, sql, check, args...)
	tx.statements[len(tx.statements)-1].layout = l
}

// Write encodes the rows and queues the statements that delete and upsert them. If the rows are too
// large for a parameter, Write also uploads them.
func (tx *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	ts := tx.tableStatements(w.Layout)
	rows := newNDJSONBuffer(tx.sqlSession)
	defer rows.release()
	again, err := rows.appendWrite(ts, w)
	if err != nil || rows.count == 0 {
		return err
	}
	from, arg, err := tx.send(ctx, ts, rows)
	if err != nil {
		return err
	}
	if arg == nil && (ts.layout.Guard || ts.layout.Soft) {
		tx.add("count the rows for "+ts.label, "SELECT COUNT(*) FROM "+from, checkCount(int64(rows.count), "COUNT(*)"))
	}
	var check func(*queryResult) error
	if !ts.layout.Guard && !ts.layout.Soft {
		check = checkCount(int64(len(w.Upserts)), "number of rows inserted", "number of rows updated")
	}
	if again { // a key is both deleted and upserted, so delete the old row first
		tx.addTo(w.Layout, "delete from "+ts.label, ts.merge(from, opDelete), nil, arg...)
		tx.addTo(w.Layout, "merge into "+ts.label, ts.merge(from, opUpsert), check, arg...)
		return nil
	}
	tx.addTo(w.Layout, "merge into "+ts.label, ts.merge(from, allRows), check, arg...)
	return nil
}

// checkCount returns a function that checks whether the values in the named columns add up to the
// number want.
func checkCount(want int64, names ...string) func(*queryResult) error {
	return func(r *queryResult) error {
		got, err := r.sumColumns(names...)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w: %d of %d", errRowCount, got, want)
		}
		return nil
	}
}

// send returns the relation from which a statement reads the rows, and the statement's parameters.
// If the rows are too large for a parameter, send uploads them as a file, and the second result is
// nil.
func (tx *transaction) send(ctx context.Context, ts *tableStatements, rows *ndjsonBuffer) (from string, arg []string, err error) {
	if rows.size() <= parameterBytes {
		return fromParameter, []string{rows.array()}, nil
	}
	file, err := tx.upload(ctx, ts, rows)
	return fmt.Sprintf(fromStage, file), nil, err
}

// appendWrite appends all rows of w. It returns true if w both deletes and upserts a row with the
// same key.
func (b *ndjsonBuffer) appendWrite(ts *tableStatements, w *sqlsink.Write) (again bool, err error) {
	deleted := make(map[string]bool, len(w.Deletes))
	for i := range w.Deletes {
		key, err := b.append(ts, opDelete, &w.Deletes[i], w.Synced, 0)
		if err != nil {
			return false, err
		}
		if len(w.Upserts) > 0 {
			deleted[string(key)] = true
		}
	}
	for i := range w.Upserts {
		key, err := b.append(ts, opUpsert, &w.Upserts[i], w.Synced, 0)
		if err != nil {
			return false, err
		}
		again = again || deleted[string(key)]
	}
	return again, nil
}

// appendRow appends a row to dst as one line. The result line is the extended dst. The result key
// is the pair of indexes in line at which the values of the key start and end. If op is opDelete,
// the appended line has only the row's key and metadata.
func (ts *tableStatements) appendRow(
	dst []byte, op string, row *change.Row, synced time.Time, number int64, scratch []byte,
) (line []byte, key [2]int, err error) {
	dst = append(append(append(dst, opMember...), '"'), op...)
	dst = append(dst, '"')
	key[0] = len(dst)
	for i := range ts.columns {
		if i == ts.layout.Keys {
			key[1] = len(dst)
		}
		t := &ts.layout.Columns[i]
		if op == opDelete && !t.Key && t.Meta == 0 {
			continue
		}
		var raw []byte
		raw, scratch = t.Raw(row, synced, scratch[:0])
		if raw == nil {
			continue
		}
		if dst, err = ts.columns[i].append(append(dst, ts.members[i]...), raw); err != nil {
			return dst, key, err
		}
	}
	if key[1] == 0 {
		key[1] = len(dst)
	}
	if number > 0 {
		dst = strconv.AppendInt(append(dst, rowMember...), number, 10)
	}
	return append(dst, '}', '\n'), key, nil
}

// Statements that store a checkpoint. moveSQL moves a checkpoint. guardedSQL moves a checkpoint
// that has this writer's epoch and generation. startSQL creates a checkpoint; it is a MERGE,
// because a MERGE waits for another session's MERGE into the same table.
const (
	atPosition = `WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND ` +
		`"position" = ?::NUMBER(38,0) AND "stored" = ?::NUMBER(38,0)`
	moveSQL    = `UPDATE %s SET "position" = ?::NUMBER(38,0), "stored" = ?::NUMBER(38,0) ` + atPosition
	guardedSQL = `UPDATE %s SET "position" = ?::NUMBER(38,0), "stored" = ?::NUMBER(38,0), "seen" = ?::NUMBER(38,0) ` + atPosition +
		` AND "epoch" = ?::NUMBER(38,0) AND COALESCE("generation", 0) = ?::NUMBER(38,0)`
	startSQL = `MERGE INTO %s AS t USING (SELECT ?::NUMBER(38,0) AS "position", ?::NUMBER(38,0) AS "stored", ` +
		`? AS "stream", ? AS "consumer", ? AS "filter") AS s
ON t."stream" = s."stream" AND t."consumer" = s."consumer" AND t."filter" = s."filter"
WHEN NOT MATCHED THEN INSERT ("stream", "consumer", "filter", "position", "stored") ` +
		`VALUES (s."stream", s."consumer", s."filter", s."position", s."stored")`
)

// Checkpoint queues the statement that moves the stored checkpoint to c. It must be the last
// statement of a batch. The parameter from is the expected stored position. If the stored position
// is another one, Commit returns sqlsink.ErrMoved.
func (tx *transaction) Checkpoint(_ context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	args := []string{strconv.FormatUint(c.Position.Sequence, 10), strconv.FormatInt(c.Position.Stored, 10), c.Stream, c.Consumer, c.Filter}
	sql, moved := startSQL, "number of rows inserted"
	if !c.New(from) {
		sql, moved = moveSQL, "number of rows updated"
		args = append(args, strconv.FormatUint(from.Sequence, 10), strconv.FormatInt(from.Stored, 10))
	}
	if c.Epoch > 0 {
		sql = guardedSQL
		args = slices.Insert(args, 2, strconv.FormatInt(c.Seen, 10))
		args = append(args, strconv.FormatInt(c.Epoch, 10), strconv.FormatInt(c.Generation, 10))
	}
	tx.add("move the checkpoint", fmt.Sprintf(sql, tx.dialect.table(l.Real.Name)), func(r *queryResult) error {
		n, err := r.sumColumns(moved)
		if err == nil && n != 1 {
			err = sqlsink.ErrMoved
		}
		return err
	}, args...)
	return nil
}

// Raise queues the statement that increments the generation of every checkpoint in the table.
func (tx *transaction) Raise(_ context.Context, l *sqlsink.Layout) error {
	sql := fmt.Sprintf(`UPDATE %s SET "generation" = COALESCE("generation", 0) + 1`, tx.dialect.table(l.Real.Name))
	tx.add("raise the generation of the checkpoints", sql, nil)
	return nil
}

// Commit executes the queued statements in one transaction, then drops staging tables, and removes
// the uploaded files.
func (tx *transaction) Commit(ctx context.Context) error {
	if len(tx.statements) > 0 {
		if err := tx.execute(ctx); err != nil {
			return err
		}
	}
	for _, sql := range tx.after {
		if _, err := tx.query(ctx, "drop a staging table", sql); err != nil {
			return err
		}
	}
	tx.removeFiles(ctx)
	return nil
}

func (tx *transaction) execute(ctx context.Context) error {
	tx.begun = true
	if _, err := tx.query(ctx, "begin", "BEGIN TRANSACTION"); err != nil {
		return err
	}
	for _, st := range tx.statements {
		result, err := tx.query(ctx, st.what, st.sql, st.args...)
		if err == nil && st.check != nil {
			if err = st.check(result); err != nil && !errors.Is(err, sqlsink.ErrMoved) {
				err = fmt.Errorf("%s: %w", st.what, err)
			}
		}
		if err != nil && st.layout != nil {
			err = sqlsink.About(st.layout, err)
		}
		if err != nil {
			return err
		}
	}
	if _, err := tx.query(ctx, "commit", "COMMIT"); err != nil {
		return err
	}
	tx.begun = false
	return nil
}

// Rollback undoes the transaction and removes the uploaded files. If the session is broken,
// Rollback returns an error, and the end of the session undoes the transaction.
func (tx *transaction) Rollback(ctx context.Context) error {
	if tx.broken {
		return &sqlsink.ConnectionError{Err: errors.New("the session is lost")}
	}
	if tx.begun {
		tx.begun = false
		if _, err := tx.query(ctx, "roll back", "ROLLBACK"); err != nil {
			return err
		}
	}
	tx.removeFiles(ctx)
	return nil
}

// removeFiles removes the transaction's files from the stage. If it fails, the files remain until
// the session ends.
func (tx *transaction) removeFiles(ctx context.Context) {
	for _, file := range tx.files {
		if _, err := tx.query(ctx, "remove a file of the stage", "REMOVE @"+quote(stageName)+"/"+file); err != nil {
			tx.dialect.env.Logger.Debug("cannot remove a file of the stage; it stays until the session ends", "file", file, "error", err)
			break
		}
	}
	tx.files = nil
}

// array returns the rows as a JSON array. It must be called only if no line is compressed.
func (b *ndjsonBuffer) array() string {
	var text strings.Builder
	text.Grow(b.size() + 2)
	text.WriteByte('[')
	text.WriteString(strings.ReplaceAll(strings.TrimSuffix(string(b.plain), "\n"), "\n", ","))
	text.WriteByte(']')
	return text.String()
}
