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

// parameterBytes is how much travels as a parameter of the statement at most. A
// file costs three answers of the server more, and an upload.
const parameterBytes = 256 << 10

// errCounts says that the server has written another number of rows than it was
// sent, as where a file was removed or cut under it.
var errCounts = errors.New("the server did not write as many rows as it was sent")

// transaction implements sqlsink.Tx. It uploads files at once, which needs no
// transaction, and executes its statements with Commit: they are serial within a
// transaction in any case, as Snowflake executes one statement of a session at a
// time, and so the tables are locked only as long as it takes.
type transaction struct {
	*session
	begun      bool
	statements []statement
	files      []string // on the stage
	after      []string // DDL that follows the commit, because it would be one
}

// statement waits for Commit.
type statement struct {
	what, sql string
	args      []string
	check     func(*answer) error // may be nil
	layout    *sqlsink.Layout     // of the table that it is about; nil if there is none
}

// Begin begins a transaction, which the server hears of with Commit.
func (s *session) Begin(context.Context) (sqlsink.Tx, error) { return &transaction{session: s}, nil }

func (tx *transaction) add(what, sql string, check func(*answer) error, args ...string) {
	tx.statements = append(tx.statements, statement{what: what, sql: sql, args: args, check: check})
}

// addTo is add of a statement about the layout's table.
func (tx *transaction) addTo(l *sqlsink.Layout, what, sql string, check func(*answer) error, args ...string) {
	tx.add(what, sql, check, args...)
	tx.statements[len(tx.statements)-1].layout = l
}

// Write encodes the rows, and uploads them where they are many.
func (tx *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	sh := tx.shape(w.Layout)
	rows := newLines(tx.session)
	defer rows.release()
	again, err := rows.appendWrite(sh, w)
	if err != nil || rows.count == 0 {
		return err
	}
	from, arg, err := tx.send(ctx, sh, rows)
	if err != nil {
		return err
	}
	if arg == nil && (sh.layout.Guard || sh.layout.Soft) {
		tx.add("count the rows for "+sh.label, "SELECT COUNT(*) FROM "+from, counts(int64(rows.count), "COUNT(*)"))
	}
	var check func(*answer) error
	if !sh.layout.Guard && !sh.layout.Soft {
		check = counts(int64(len(w.Upserts)), "number of rows inserted", "number of rows updated")
	}
	if again { // a key is deleted and inserted: the old row goes first
		tx.addTo(w.Layout, "delete from "+sh.label, sh.merge(from, opDelete), nil, arg...)
		tx.addTo(w.Layout, "merge into "+sh.label, sh.merge(from, opUpsert), check, arg...)
		return nil
	}
	tx.addTo(w.Layout, "merge into "+sh.label, sh.merge(from, everyRow), check, arg...)
	return nil
}

// counts returns a check that the named columns' numbers add up to want.
func counts(want int64, names ...string) func(*answer) error {
	return func(a *answer) error {
		got, err := a.named(names...)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w: %d of %d", errCounts, got, want)
		}
		return nil
	}
}

// send returns where a statement finds the rows: in a file of the stage, or in
// its own parameter.
func (tx *transaction) send(ctx context.Context, sh *shape, rows *lines) (from string, arg []string, err error) {
	if rows.size() <= parameterBytes {
		return fromParameter, []string{rows.array()}, nil
	}
	file, err := tx.upload(ctx, sh, rows)
	return fmt.Sprintf(fromStage, file), nil, err
}

// appendWrite appends all rows of w, and reports whether a key is both deleted
// and upserted.
func (b *lines) appendWrite(sh *shape, w *sqlsink.Write) (again bool, err error) {
	deleted := make(map[string]bool, len(w.Deletes))
	for i := range w.Deletes {
		key, err := b.append(sh, opDelete, &w.Deletes[i], w.Synced, 0)
		if err != nil {
			return false, err
		}
		if len(w.Upserts) > 0 {
			deleted[string(key)] = true
		}
	}
	for i := range w.Upserts {
		key, err := b.append(sh, opUpsert, &w.Upserts[i], w.Synced, 0)
		if err != nil {
			return false, err
		}
		again = again || deleted[string(key)]
	}
	return again, nil
}

// appendRow appends a row as one line, and returns where in it the key's values
// stand. A row to be deleted has its key and its metadata only.
func (sh *shape) appendRow(dst []byte, op string, row *change.Row, synced time.Time, number int64, scratch []byte) (line []byte, key [2]int, err error) {
	dst = append(append(append(dst, opMember...), '"'), op...)
	dst = append(dst, '"')
	key[0] = len(dst)
	for i := range sh.columns {
		if i == sh.layout.Keys {
			key[1] = len(dst)
		}
		t := &sh.layout.Columns[i]
		if op == opDelete && !t.Key && t.Meta == 0 {
			continue
		}
		var raw []byte
		raw, scratch = t.Raw(row, synced, scratch[:0])
		if raw == nil {
			continue
		}
		if dst, err = sh.columns[i].append(append(dst, sh.members[i]...), raw); err != nil {
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

// moveSQL moves the checkpoint that is at a position, startSQL makes the first
// one: as a MERGE, because that waits for another that does the same.
const (
	moveSQL    = `UPDATE %s SET "position" = ?::NUMBER(38,0), "stored" = ?::NUMBER(38,0) WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ?::NUMBER(38,0) AND "stored" = ?::NUMBER(38,0)`
	guardedSQL = `UPDATE %s SET "position" = ?::NUMBER(38,0), "stored" = ?::NUMBER(38,0), "seen" = ?::NUMBER(38,0) WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ?::NUMBER(38,0) AND "stored" = ?::NUMBER(38,0) AND "epoch" = ?::NUMBER(38,0) AND COALESCE("generation", 0) = ?::NUMBER(38,0)`
	startSQL   = `MERGE INTO %s AS t USING (SELECT ?::NUMBER(38,0) AS "position", ?::NUMBER(38,0) AS "stored", ? AS "stream", ? AS "consumer", ? AS "filter") AS s
ON t."stream" = s."stream" AND t."consumer" = s."consumer" AND t."filter" = s."filter"
WHEN NOT MATCHED THEN INSERT ("stream", "consumer", "filter", "position", "stored") VALUES (s."stream", s."consumer", s."filter", s."position", s."stored")`
)

// Checkpoint moves the stored checkpoint, as the last statement of a batch.
func (tx *transaction) Checkpoint(_ context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	args := []string{strconv.FormatUint(c.Position.Sequence, 10), strconv.FormatInt(c.Position.Stored, 10), c.Stream, c.Consumer, c.Filter}
	sql, moved := startSQL, "number of rows inserted"
	if !c.New(from) {
		sql, moved = moveSQL, "number of rows updated"
		args = append(args, strconv.FormatUint(from.Sequence, 10), strconv.FormatInt(from.Stored, 10))
	}
	if c.Epoch > 0 {
		sql = guardedSQL
		args = append(slices.Insert(args, 2, strconv.FormatInt(c.Seen, 10)), strconv.FormatInt(c.Epoch, 10), strconv.FormatInt(c.Generation, 10))
	}
	tx.add("move the checkpoint", fmt.Sprintf(sql, tx.dialect.table(l.Real.Name)), func(a *answer) error {
		n, err := a.named(moved)
		if err == nil && n != 1 {
			err = sqlsink.ErrMoved
		}
		return err
	}, args...)
	return nil
}

// Raise raises the generation of all checkpoints.
func (tx *transaction) Raise(_ context.Context, l *sqlsink.Layout) error {
	tx.add("raise the generation of the checkpoints", fmt.Sprintf(`UPDATE %s SET "generation" = COALESCE("generation", 0) + 1`, tx.dialect.table(l.Real.Name)), nil)
	return nil
}

// Commit executes what was collected, in one transaction, and then what can not
// be part of one.
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
	tx.sweep(ctx)
	return nil
}

func (tx *transaction) execute(ctx context.Context) error {
	tx.begun = true
	if _, err := tx.query(ctx, "begin", "BEGIN TRANSACTION"); err != nil {
		return err
	}
	for _, st := range tx.statements {
		a, err := tx.query(ctx, st.what, st.sql, st.args...)
		if err == nil && st.check != nil {
			if err = st.check(a); err != nil && !errors.Is(err, sqlsink.ErrMoved) {
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

// Rollback undoes the transaction, which ends with its session where that is lost.
func (tx *transaction) Rollback(ctx context.Context) error {
	if tx.broken {
		return &connectionError{errors.New("the session is lost")}
	}
	if tx.begun {
		tx.begun = false
		if _, err := tx.query(ctx, "roll back", "ROLLBACK"); err != nil {
			return err
		}
	}
	tx.sweep(ctx)
	return nil
}

// sweep removes the transaction's files. Those that it can not remove go when
// the session ends, with its stage.
func (tx *transaction) sweep(ctx context.Context) {
	for _, file := range tx.files {
		if _, err := tx.query(ctx, "remove a file of the stage", "REMOVE @"+quote(stageName)+"/"+file); err != nil {
			tx.dialect.env.Logger.Debug("a file stays on the stage for as long as the session", "file", file, "error", err)
			break
		}
	}
	tx.files = nil
}

// array returns the lines as the elements of a JSON array.
func (b *lines) array() string {
	var text strings.Builder
	text.Grow(b.size() + 2)
	text.WriteByte('[')
	text.WriteString(strings.ReplaceAll(strings.TrimSuffix(string(b.plain), "\n"), "\n", ","))
	text.WriteByte(']')
	return text.String()
}
