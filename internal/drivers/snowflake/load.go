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

// fileBytes is how much of a snapshot's rows goes into one file of the stage,
// before compression: a tenth of it is the size that Snowflake recommends.
const fileBytes = 256 << 20

// Exec runs DDL. Snowflake commits each statement.
func (s *session) Exec(ctx context.Context, statements []string) error {
	if err := s.makeSchema(ctx); err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := s.query(ctx, "change the table", sql); err != nil {
			return immovable(err)
		}
	}
	return nil
}

// Stage makes a staging table. Transient, as nobody will want it back.
func (s *session) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	_, err := s.query(ctx, "make a staging table", s.shape(live).makeStage(quote(name)))
	return err
}

// Count counts the rows of a table.
func (s *session) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	return s.count(ctx, "count rows", s.shape(l).countRows())
}

// count returns the one number that a query answers.
func (s *session) count(ctx context.Context, what, sql string) (int64, error) {
	a, err := s.query(ctx, what, sql)
	if err != nil {
		return 0, err
	}
	if len(a.rows) != 1 {
		return 0, fmt.Errorf("%s: the server answered no row", what)
	}
	return strconv.ParseInt(a.text(0, 0), 10, 64)
}

// Seal only looks for rows that were staged twice: the staging table needs no index.
func (s *session) Seal(ctx context.Context, stage, _ *sqlsink.Layout) error {
	rows, err := s.count(ctx, "count rows that were staged twice", s.shape(stage).duplicates())
	if err == nil && rows > 0 {
		return &sqlsink.DuplicatesError{Rows: rows}
	}
	return err
}

// Deduplicate keeps the last row of each key.
func (tx *transaction) Deduplicate(_ context.Context, stage *sqlsink.Layout) error {
	tx.add("remove rows that were staged twice", tx.shape(stage).deduplicate(), nil)
	return nil
}

// Append uploads the rows of a snapshot, in files of a good size, and has them
// copied into the staging table with Commit.
func (tx *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	sh := tx.shape(stage)
	number, err := tx.count(ctx, "look at the staging table", "SELECT TO_VARCHAR(COALESCE(MAX("+quote(rowColumn)+"), 0)) FROM "+sh.table)
	if err != nil {
		return 0, err
	}
	var count int64
	now := time.Now().UTC()
	batch := newLines(tx.session)
	defer func() { batch.release() }()
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		number++
		count++
		if _, err := batch.append(sh, opUpsert, row, now, number); err != nil {
			return 0, &sink.RowError{Row: count, Err: err}
		}
		if batch.size() >= fileBytes {
			if err := tx.copyFile(ctx, sh, batch); err != nil {
				return 0, err
			}
			batch.release()
			batch = newLines(tx.session)
		}
	}
	if batch.count > 0 {
		err = tx.copyFile(ctx, sh, batch)
	}
	return count, err
}

func (tx *transaction) copyFile(ctx context.Context, sh *shape, rows *lines) error {
	file, err := tx.upload(ctx, sh, rows)
	if err != nil {
		return err
	}
	tx.add("copy into "+sh.label, sh.copyInto(file), counts(int64(rows.count), "rows_loaded"))
	return nil
}

// Place puts the staged rows in place. The live table stays: its rows go, and
// come, in one transaction. (ALTER TABLE ... SWAP WITH would take grants along to
// the other name, and commit by itself, apart from the record of the load.)
func (tx *transaction) Place(_ context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	st, sh := tx.shape(stage), tx.shape(live)
	statements := []string{sh.mergeStage(st, true)}
	if mode == sink.Replace {
		statements = sh.replace(st)
	}
	for _, sql := range statements {
		tx.add("put rows into "+sh.label, sql, nil)
	}
	tx.after = append(tx.after, "DROP TABLE IF EXISTS "+st.table)
	return nil
}

// Drop drops a staging table, after the transaction: a record of files without
// their table would be trusted, a table without records is made anew.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.after = append(tx.after, "DROP TABLE IF EXISTS "+quote(table))
	return nil
}
