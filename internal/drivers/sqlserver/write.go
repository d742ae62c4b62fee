package sqlserver

import (
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// maxParameters is how many parameters a statement may have, less those of
// sp_executesql. A table has at most 1,024 columns, so that every row fits.
const maxParameters = 2098

// smallRows is up to how many rows go as parameters, in statements of a power of
// two of rows each, so that the server meets few different ones. A bulk load takes
// four more exchanges than one such statement.
const smallRows = 64

// transaction implements sqlsink.Tx.
type transaction struct {
	*session
	begun  bool
	stages []string // temporary tables that it makes
}

// Begin begins a transaction, which the server hears of with the first statement.
func (s *session) Begin(context.Context) (sqlsink.Tx, error) { return &transaction{session: s}, nil }

// open begins the transaction at the server.
func (tx *transaction) open(ctx context.Context) error {
	if tx.begun {
		return nil
	}
	if err := tx.exec(ctx, "begin", "BEGIN TRANSACTION"); err != nil {
		return err
	}
	tx.begun = true
	return nil
}

// Write applies deletes, then upserts.
func (tx *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	sh := tx.shape(w.Layout)
	if err := tx.apply(ctx, sh.removing(), w.Deletes, w.Synced); err != nil {
		return sqlsink.About(w.Layout, err)
	}
	return sqlsink.About(w.Layout, tx.apply(ctx, sh.upserting(), w.Upserts, w.Synced))
}

// operation is one way to write rows, from whichever source they come.
type operation struct {
	*shape
	what      string
	stage     string // temporary table for the rows
	indexes   []int  // of the columns that it reads
	statement func(source string) string
}

func (sh *shape) removing() *operation {
	return &operation{sh, "delete from " + sh.label, sh.keys, sh.deleted(), sh.remove}
}

func (sh *shape) upserting() *operation {
	return &operation{sh, "upsert into " + sh.label, sh.stage, sh.all(), func(source string) string { return sh.upsert(source, true) }}
}

// apply writes rows: few as parameters, many by a bulk load.
func (tx *transaction) apply(ctx context.Context, op *operation, rows []change.Row, synced time.Time) error {
	if len(rows) > smallRows || len(rows)*len(op.indexes) > 4*maxParameters {
		return tx.stageRows(ctx, op, rows, synced)
	}
	for len(rows) > 0 {
		n := 1
		for 2*n <= len(rows) && 2*n*len(op.indexes) <= maxParameters {
			n *= 2
		}
		if err := tx.bindRows(ctx, op, rows[:n], synced); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// bindRows runs the operation with the rows as parameters.
func (tx *transaction) bindRows(ctx context.Context, op *operation, rows []change.Row, synced time.Time) error {
	values := make([]any, 0, len(rows)*len(op.indexes))
	for i := range rows {
		var err error
		if values, err = tx.encode(values, op.shape, op.indexes, &rows[i], synced); err != nil {
			return err
		}
	}
	sql := op.text(fmt.Sprint(op.stage, len(rows)), func() string { return op.statement(op.values(op.indexes, len(rows))) })
	declaration := op.text(fmt.Sprint(op.stage, "declare", len(rows)), func() string { return op.declarations(op.indexes, len(rows)) })
	_, err := tx.execute(ctx, op.what, sql, declaration, values)
	return err
}

// encode appends the values of a row.
func (s *session) encode(values []any, sh *shape, indexes []int, row *change.Row, synced time.Time) ([]any, error) {
	for _, index := range indexes {
		var raw []byte
		raw, s.scratch = sh.layout.Columns[index].Raw(row, synced, s.scratch[:0])
		v, err := sh.columns[index].value(raw)
		if err != nil {
			return values, err
		}
		values = append(values, v)
	}
	return values, nil
}

// stageRows loads the rows into a temporary table, and writes from there.
func (tx *transaction) stageRows(ctx context.Context, op *operation, rows []change.Row, synced time.Time) error {
	if !tx.session.stages[op.stage] {
		if err := tx.exec(ctx, "make a temporary table for "+op.label, op.makeTemporary(op.stage, op.indexes)); err != nil {
			return err
		}
		tx.session.stages[op.stage] = true
		tx.stages = append(tx.stages, op.stage)
	}
	load := tx.bulk(ctx, op.shape, quote(op.stage), op.indexes)
	for i := range rows {
		if err := load.add(ctx, &rows[i], synced); err != nil {
			return load.abandon(err)
		}
	}
	if _, err := load.done(); err != nil {
		return err
	}
	return tx.exec(ctx, op.what, op.text(op.stage+"staged", op.fromStage))
}

// fromStage runs the operation with the rows of its temporary table, and empties that.
func (op *operation) fromStage() string {
	return op.statement(staged(op.stage)) + "\nTRUNCATE TABLE " + quote(op.stage) + ";"
}

// The checkpoint's statements change no row where the stored position is not the
// expected one, or where there is a row and none was expected.
const (
	insertCheckpoint = `INSERT INTO %[1]s ([stream], [consumer], [filter], [position], [stored])
SELECT @p1, @p2, @p3, @p4, @p5
WHERE NOT EXISTS (SELECT 1 FROM %[1]s AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[stream] = @p1 AND T.[consumer] = @p2 AND T.[filter] = @p3);`
	insertDeclaration = "@p1 NVARCHAR(255), @p2 NVARCHAR(255), @p3 NVARCHAR(255), @p4 BIGINT, @p5 BIGINT"
	updateCheckpoint  = `UPDATE %s SET [position] = @p4, [stored] = @p5
WHERE [stream] = @p1 AND [consumer] = @p2 AND [filter] = @p3 AND [position] = @p6 AND [stored] = @p7;`
	updateDeclaration = insertDeclaration + ", @p6 BIGINT, @p7 BIGINT"
	guardedCheckpoint = `UPDATE %s SET [position] = @p4, [stored] = @p5, [seen] = @p10
WHERE [stream] = @p1 AND [consumer] = @p2 AND [filter] = @p3 AND [position] = @p6 AND [stored] = @p7 AND [epoch] = @p8 AND COALESCE([generation], 0) = @p9;`
	guardedDeclaration = updateDeclaration + ", @p8 BIGINT, @p9 BIGINT, @p10 BIGINT"
)

// Checkpoint moves the stored checkpoint.
func (tx *transaction) Checkpoint(ctx context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	table := quote(tx.namespace) + "." + quote(l.Real.Name)
	values := []any{c.Stream, c.Consumer, c.Filter, int64(c.Position.Sequence), c.Position.Stored}
	sql, declaration := fmt.Sprintf(insertCheckpoint, table), insertDeclaration
	if !c.New(from) {
		sql, declaration = fmt.Sprintf(updateCheckpoint, table), updateDeclaration
		values = append(values, int64(from.Sequence), from.Stored)
	}
	if c.Epoch > 0 {
		sql, declaration = fmt.Sprintf(guardedCheckpoint, table), guardedDeclaration
		values = append(values, c.Epoch, c.Generation, c.Seen)
	}
	moved, err := tx.execute(ctx, "move the checkpoint", sql, declaration, values)
	if err == nil && moved != 1 {
		err = sqlsink.ErrMoved
	}
	return err
}

// Raise raises the generation of all checkpoints.
func (tx *transaction) Raise(ctx context.Context, l *sqlsink.Layout) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	sql := "UPDATE " + quote(tx.namespace) + "." + quote(l.Real.Name) + " SET [generation] = COALESCE([generation], 0) + 1;"
	_, err := tx.execute(ctx, "raise the generation of the checkpoints", sql, "", nil)
	return err
}

// Commit makes the transaction durable.
func (tx *transaction) Commit(ctx context.Context) error {
	if !tx.begun {
		return nil
	}
	if err := tx.exec(ctx, "commit", "COMMIT TRANSACTION"); err != nil {
		return err
	}
	if tx.flushes {
		return tx.exec(ctx, "flush the log", "EXECUTE sys.sp_flush_log")
	}
	return nil
}

// Rollback undoes the transaction, where an error has not done so already.
func (tx *transaction) Rollback(ctx context.Context) error {
	for _, stage := range tx.stages {
		delete(tx.session.stages, stage)
	}
	if !tx.begun {
		return tx.ready(ctx, "roll back")
	}
	return tx.exec(ctx, "roll back", "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION")
}
