package sqlserver

import (
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// maxParameters is the maximum number of parameters of a statement, without the two parameters of
// sp_executesql. A row always fits, because a table has at most 1,024 columns.
const maxParameters = 2098

// smallRows is the maximum number of rows that the method apply sends as parameters. The method
// sends more rows with a bulk load, which needs four more round trips than one statement with
// parameters.
const smallRows = 64

// transaction implements sqlsink.Tx.
type transaction struct {
	*sqlSession
	begun   bool
	created []string // the temporary tables that this transaction creates
}

// Begin returns a transaction. The transaction starts at the server with its first statement.
func (s *sqlSession) Begin(context.Context) (sqlsink.Tx, error) {
	return &transaction{sqlSession: s}, nil
}

// open starts the transaction at the server, unless it has already started.
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

// Write deletes the rows of w.Deletes, then upserts the rows of w.Upserts.
func (tx *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	ts := tx.tableStatements(w.Layout)
	if err := tx.apply(ctx, ts.deleteOperation(), w.Deletes, w.Synced); err != nil {
		return sqlsink.About(w.Layout, err)
	}
	return sqlsink.About(w.Layout, tx.apply(ctx, ts.upsertOperation(), w.Upserts, w.Synced))
}

// rowOperation is an upsert or a delete of rows from any source.
type rowOperation struct {
	*tableStatements
	what      string // the operation, for errors
	stage     string // name of the temporary table for the rows
	indexes   []int  // indexes of the columns that the operation reads
	statement func(source string) string
}

func (ts *tableStatements) deleteOperation() *rowOperation {
	return &rowOperation{ts, "delete from " + ts.label, ts.deleteStage, ts.deleteColumns(), ts.deleteText}
}

func (ts *tableStatements) upsertOperation() *rowOperation {
	upsert := func(source string) string { return ts.upsertText(source, true) }
	return &rowOperation{ts, "upsert into " + ts.label, ts.upsertStage, ts.layout.All(), upsert}
}

// apply runs the operation for rows. It sends a few rows as parameters, and many rows with a bulk
// load. The number of rows in each statement with parameters is a power of two, so that the server
// sees only a few distinct statements.
func (tx *transaction) apply(ctx context.Context, op *rowOperation, rows []change.Row, synced time.Time) error {
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
func (tx *transaction) bindRows(ctx context.Context, op *rowOperation, rows []change.Row, synced time.Time) error {
	values := make([]any, 0, len(rows)*len(op.indexes))
	for i := range rows {
		var err error
		if values, err = tx.encode(values, op.tableStatements, op.indexes, &rows[i], synced); err != nil {
			return err
		}
	}
	sql := op.text(fmt.Sprint(op.stage, len(rows)), func() string { return op.statement(op.values(op.indexes, len(rows))) })
	declaration := op.text(fmt.Sprint(op.stage, "declare", len(rows)), func() string { return op.declarations(op.indexes, len(rows)) })
	_, err := tx.execParams(ctx, op.what, sql, declaration, values)
	return err
}

// encode converts a row's values to types that the driver can bind, and appends them to values. The
// parameter indexes selects the columns by index.
func (s *sqlSession) encode(values []any, ts *tableStatements, indexes []int, row *change.Row, synced time.Time) ([]any, error) {
	for _, index := range indexes {
		var raw []byte
		raw, s.scratch = ts.layout.Columns[index].Raw(row, synced, s.scratch[:0])
		v, err := ts.columns[index].value(raw)
		if err != nil {
			return values, err
		}
		values = append(values, v)
	}
	return values, nil
}

// stageRows loads rows into the operation's temporary table, and then runs the operation with the
// temporary table as its source.
func (tx *transaction) stageRows(ctx context.Context, op *rowOperation, rows []change.Row, synced time.Time) error {
	if !tx.tempTables[op.stage] {
		if err := tx.exec(ctx, "create a temporary table for "+op.label, op.createTemporary(op.stage, op.indexes)); err != nil {
			return err
		}
		tx.tempTables[op.stage] = true
		tx.created = append(tx.created, op.stage)
	}
	load := tx.bulk(ctx, op.tableStatements, quote(op.stage), op.indexes)
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

// fromStage returns the statements that run the operation with the rows of its temporary table, and
// then empty the temporary table.
func (op *rowOperation) fromStage() string {
	return op.statement(staged(op.stage)) + "\nTRUNCATE TABLE " + quote(op.stage) + ";"
}

// Statements that move a checkpoint, and the declarations of their parameters. If the stored
// checkpoint is not the expected one, or exists although none was expected, a statement changes no
// row.
const (
	insertCheckpoint = `INSERT INTO %[1]s ([stream], [consumer], [filter], [position], [stored])
SELECT @p1, @p2, @p3, @p4, @p5
WHERE NOT EXISTS (SELECT 1 FROM %[1]s AS T WITH (UPDLOCK, HOLDLOCK) WHERE T.[stream] = @p1 AND T.[consumer] = @p2 AND T.[filter] = @p3);`
	insertDeclaration = "@p1 NVARCHAR(255), @p2 NVARCHAR(255), @p3 NVARCHAR(255), @p4 BIGINT, @p5 BIGINT"
	updateCheckpoint  = `UPDATE %s SET [position] = @p4, [stored] = @p5
WHERE [stream] = @p1 AND [consumer] = @p2 AND [filter] = @p3 AND [position] = @p6 AND [stored] = @p7;`
	updateDeclaration = insertDeclaration + ", @p6 BIGINT, @p7 BIGINT"
	guardedCheckpoint = `UPDATE %s SET [position] = @p4, [stored] = @p5, [seen] = @p10
WHERE [stream] = @p1 AND [consumer] = @p2 AND [filter] = @p3 AND [position] = @p6 AND [stored] = @p7` +
		` AND [epoch] = @p8 AND COALESCE([generation], 0) = @p9;`
	guardedDeclaration = updateDeclaration + ", @p8 BIGINT, @p9 BIGINT, @p10 BIGINT"
)

// Checkpoint moves the stored checkpoint to c. The parameter from is the expected stored position.
// If the stored position is another one, Checkpoint returns sqlsink.ErrMoved.
func (tx *transaction) Checkpoint(ctx context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	table := tx.qualify(l.Real.Name)
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
	moved, err := tx.execParams(ctx, "move the checkpoint", sql, declaration, values)
	if err == nil && moved != 1 {
		err = sqlsink.ErrMoved
	}
	return err
}

// Raise increments the generation of every checkpoint in the table.
func (tx *transaction) Raise(ctx context.Context, l *sqlsink.Layout) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	sql := "UPDATE " + tx.qualify(l.Real.Name) + " SET [generation] = COALESCE([generation], 0) + 1;"
	_, err := tx.execParams(ctx, "raise the generation of the checkpoints", sql, "", nil)
	return err
}

// Commit commits the transaction. If the database delays durability, it also flushes the log, so
// that the transaction is durable.
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

// Rollback undoes the transaction, unless an error has already ended it.
func (tx *transaction) Rollback(ctx context.Context) error {
	for _, stage := range tx.created {
		delete(tx.tempTables, stage)
	}
	if !tx.begun {
		return tx.checkUsable(ctx, "roll back")
	}
	return tx.exec(ctx, "roll back", "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION")
}
