package snowflake

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// fileBytes is the size, in bytes, that a file on the stage has before compression. Compression
// reduces a file to about a tenth of this size. Snowflake recommends files of the reduced size.
const fileBytes = 256 << 20

// Exec runs DDL statements one after the other. Snowflake commits each statement separately. If the
// schema does not exist, Exec first creates the schema.
func (s *sqlSession) Exec(ctx context.Context, statements []string) error {
	if err := s.makeSchema(ctx); err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := s.query(ctx, "change the table", sql); err != nil {
			return permanentDDLError(err)
		}
	}
	return nil
}

// Stage creates a staging table. The table is transient, because it never has to be restored.
func (s *sqlSession) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	_, err := s.query(ctx, "create a staging table", s.tableStatements(live).createStage(quote(name)))
	return err
}

// Count counts the table's rows that are in the layout's scope.
func (s *sqlSession) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	return s.count(ctx, "count rows", s.tableStatements(l).countRows())
}

// count runs a query that selects a single number, and returns the number.
func (s *sqlSession) count(ctx context.Context, what, sql string) (int64, error) {
	a, err := s.query(ctx, what, sql)
	if err != nil {
		return 0, err
	}
	if len(a.rows) != 1 {
		return 0, fmt.Errorf("%s: the server returned no row", what)
	}
	return strconv.ParseInt(a.text(0, 0), 10, 64)
}

// Seal returns a *sqlsink.DuplicatesError if two staged rows have the same key.
func (s *sqlSession) Seal(ctx context.Context, stage, _ *sqlsink.Layout) error {
	rows, err := s.count(ctx, "count rows that were staged twice", s.tableStatements(stage).duplicates())
	if err == nil && rows > 0 {
		return &sqlsink.DuplicatesError{Rows: rows}
	}
	return err
}

// Deduplicate removes rows from the staging table, so that only the last loaded row of each key
// remains.
func (tx *transaction) Deduplicate(_ context.Context, stage *sqlsink.Layout) error {
	tx.add("remove rows that were staged twice", tx.tableStatements(stage).deduplicate(), nil)
	return nil
}

// Append uploads the rows of a snapshot as files, and returns the number of rows. Commit copies the
// files into the staging table.
func (tx *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	ts := tx.tableStatements(stage)
	number, err := tx.count(ctx, "inspect the staging table", "SELECT TO_VARCHAR(COALESCE(MAX("+quote(rowColumn)+"), 0)) FROM "+ts.table)
	if err != nil {
		return 0, err
	}
	var count int64
	now := time.Now().UTC()
	batch := newNDJSONBuffer(tx.sqlSession)
	defer func() { batch.release() }()
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		number++
		count++
		if _, err := batch.append(ts, opUpsert, row, now, number); err != nil {
			return 0, &sink.RowError{Row: count, Err: err}
		}
		if batch.size() >= fileBytes {
			if err := tx.copyFile(ctx, ts, batch); err != nil {
				return 0, err
			}
			batch.release()
			batch = newNDJSONBuffer(tx.sqlSession)
		}
	}
	if batch.count > 0 {
		err = tx.copyFile(ctx, ts, batch)
	}
	return count, err
}

func (tx *transaction) copyFile(ctx context.Context, ts *tableStatements, rows *ndjsonBuffer) error {
	file, err := tx.upload(ctx, ts, rows)
	if err != nil {
		return err
	}
	tx.add("copy into "+ts.label, ts.copyInto(file), checkCount(int64(rows.count), "rows_loaded"))
	return nil
}

// Place merges the staged rows into the live table, or replaces the live table's rows, within the
// transaction. It keeps the live table and does not use ALTER TABLE ... SWAP WITH, which would move
// grants to the other table, and would commit separately from the record of the load.
func (tx *transaction) Place(_ context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	staging, ts := tx.tableStatements(stage), tx.tableStatements(live)
	statements := []string{ts.mergeStage(staging, true)}
	if mode == sink.Replace {
		statements = ts.replace(staging)
	}
	for _, sql := range statements {
		tx.add("put rows into "+ts.label, sql, nil)
	}
	tx.after = append(tx.after, "DROP TABLE IF EXISTS "+staging.table)
	return nil
}

// Drop makes Commit drop a staging table after the transaction. If eds stops in between, the table
// exists without a record of loaded files, and eds creates it again. In the other order, there
// could be a record of loaded files without their table, and eds would trust the record.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.after = append(tx.after, "DROP TABLE IF EXISTS "+quote(table))
	return nil
}
