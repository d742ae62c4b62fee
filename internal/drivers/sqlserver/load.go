package sqlserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Exec runs DDL statements in one transaction. It sends each statement as a separate batch, because
// a statement in the same batch as an ALTER TABLE cannot use the new column. If the URL's schema
// does not exist yet, Exec first creates the schema.
func (s *sqlSession) Exec(ctx context.Context, statements []string) error {
	if err := s.makeSchema(ctx); err != nil {
		return err
	}
	s.lacksSchema = false
	defer s.calls.AllowLong()()
	tx := &transaction{sqlSession: s}
	err := s.waitShortly(ctx, func() error {
		err := tx.open(ctx)
		for _, statement := range statements {
			if err == nil {
				err = s.exec(ctx, "change the table", statement)
			}
		}
		return err
	})
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if failed := tx.Rollback(undo); failed != nil {
		s.broken = true
		return &sqlsink.ConnectionError{Err: err}
	}
	return err
}

// undoTimeout is the maximum duration of the rollback of failed DDL.
const undoTimeout = 5 * time.Second

// sequence is the name of a column of staging tables. The column numbers the rows in the order in
// which they were loaded.
const sequence = "_eds_row"

// Stage creates a staging table with the columns that eds writes, and with the column that the
// constant sequence names.
func (s *sqlSession) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return s.exec(ctx, "create a staging table", stageText(s.tableStatements(live), s.qualify(name)))
}

func stageText(ts *tableStatements, stage string) string {
	definitions := []string{"\t" + quote(sequence) + " BIGINT IDENTITY(1, 1) NOT NULL"}
	for i := range ts.columns {
		null := " NULL"
		if i < ts.layout.Keys {
			null = " NOT NULL"
		}
		definitions = append(definitions, "\t"+ts.columns[i].stageDefinition(null))
	}
	return "CREATE TABLE " + stage + " (\n" + strings.Join(definitions, ",\n") + "\n)"
}

// Append loads the rows of a snapshot into a staging table and returns the number of rows. If a
// value is invalid, the error is a *sink.RowError with the number of the row.
func (tx *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	if err := tx.open(ctx); err != nil {
		return 0, err
	}
	ts := tx.tableStatements(stage)
	load := tx.bulk(ctx, ts, ts.table, ts.layout.All())
	now := time.Now().UTC()
	var count int64
	for row, err := range rows {
		if err != nil {
			return 0, load.abandon(err)
		}
		count++
		if err := load.add(ctx, row, now); err != nil {
			if fault.Of(err) == fault.Poison {
				err = &sink.RowError{Row: count, Err: err}
			}
			return 0, load.abandon(err)
		}
	}
	return load.done()
}

// Count counts the table's rows that are in the layout's scope.
func (s *sqlSession) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	defer s.calls.AllowLong()()
	return s.count(ctx, "count rows", countText(s.tableStatements(l)))
}

func countText(ts *tableStatements) string {
	text := "SELECT COUNT_BIG(*) FROM " + ts.table
	if terms := ts.inScope(); len(terms) > 0 {
		text += " AS T\nWHERE " + strings.Join(terms, " AND ")
	}
	return text + ";"
}

// inScope returns the conditions under which a row of T is in the layout's scope. All conditions
// must hold.
func (ts *tableStatements) inScope() []string {
	return ts.layout.ScopeTerms(func(name string) string {
		return "CAST(T." + quote(name) + " AS NVARCHAR(MAX)) COLLATE " + binary
	}, literal)
}

// count runs a query that selects a single number, and returns the number.
func (s *sqlSession) count(ctx context.Context, what, sql string) (int64, error) {
	rows, err := s.query(ctx, what, sql)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("%s: the server returned no row", what)
	}
	return rows[0].integer(0), nil
}

// Seal adds a primary key to the staging table. If two staged rows have the same key, it returns a
// *sqlsink.DuplicatesError.
func (s *sqlSession) Seal(ctx context.Context, stage, _ *sqlsink.Layout) error {
	if len(stage.Real.Key) > 0 {
		return nil
	}
	defer s.calls.AllowLong()()
	ts := s.tableStatements(stage)
	err := s.exec(ctx, "index the staged rows", sealText(ts))
	if e := new(serverError); errors.As(err, &e) && e.number == 1505 {
		rows, err := s.count(ctx, "count rows that were staged twice", duplicatesText(ts))
		if err != nil {
			return err
		}
		return &sqlsink.DuplicatesError{Rows: rows}
	}
	return err
}

// duplicatesText returns the query that counts the rows that the statement of deduplicateText
// removes.
func duplicatesText(stage *tableStatements) string {
	keys := stage.names(stage.layout.All()[:stage.layout.Keys], "")
	return fmt.Sprintf("SELECT COALESCE(SUM(n - 1), 0)\nFROM (SELECT COUNT_BIG(*) AS n FROM %s GROUP BY %s HAVING COUNT_BIG(*) > 1) AS S;",
		stage.table, keys)
}

// Deduplicate removes rows from the staging table, so that only the last loaded row of each key
// remains.
func (tx *transaction) Deduplicate(ctx context.Context, stage *sqlsink.Layout) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	defer tx.calls.AllowLong()()
	return tx.exec(ctx, "remove rows that were staged twice", deduplicateText(tx.tableStatements(stage)))
}

func sealText(stage *tableStatements) string {
	size := 0
	keys := make([]int, stage.layout.Keys)
	for i := range keys {
		keys[i] = i
		size += stage.columns[i].keySize()
	}
	return fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY %s (%s)", stage.table, clustered(size), stage.names(keys, ""))
}

// keySize returns the maximum size of the column's value in a key, in bytes.
func (c *columnEncoder) keySize() int {
	switch {
	case c.kind == kindNVarChar && c.length > 0:
		return 2 * c.length
	case (c.kind == kindVarChar || c.kind == kindBinary) && c.length > 0:
		return c.length
	case c.kind == kindDecimal:
		return 17
	default:
		return 16
	}
}

// deduplicateText returns the statement that removes all rows of a staging table except the last
// loaded row of each key.
func deduplicateText(stage *tableStatements) string {
	return fmt.Sprintf("DELETE T\nFROM %[1]s AS T INNER JOIN %[1]s AS S\nON %[2]s\nWHERE S.%[3]s > T.%[3]s;",
		stage.table, stage.matches(), quote(sequence))
}

// Place merges the staged rows into the live table, or replaces the live table's rows. It keeps the
// live table and the objects that depend on it. To replace all rows of a plain table whose columns
// are all in the layout, Place truncates and refills the table. To replace the rows of another
// table, it deletes the rows whose keys were not staged and upserts the staged rows, so that
// columns outside the layout keep their values.
func (tx *transaction) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	defer tx.calls.AllowLong()()
	ts := tx.tableStatements(live)
	for i, text := range placeTexts(ts, tx.qualify(stage.Real.Name), mode) {
		put := func() error { return tx.exec(ctx, "put rows into "+ts.label, text) }
		wait := put
		if i == 0 && mode != sink.Merge { // the first statement locks the whole table
			wait = func() error { return tx.waitShortly(ctx, put) }
		}
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

func placeTexts(ts *tableStatements, stage string, mode sink.LoadMode) []string {
	source := stage + " AS S"
	drop := "DROP TABLE " + stage
	names := ts.names(ts.layout.All(), "")
	switch {
	case mode == sink.Merge:
		return []string{ts.upsertText(source, true), drop}
	case ts.layout.Scope == nil && ts.layout.Real.Native.(*relation).plain && len(ts.columns) == len(ts.layout.Real.Columns):
		return []string{
			"TRUNCATE TABLE " + ts.table,
			ts.withIdentity("INSERT INTO " + ts.table + " WITH (TABLOCK) (" + names + ")\n" +
				"SELECT " + ts.expressions() + "\nFROM " + source + ";"),
			drop,
		}
	}
	terms := append(ts.inScope(), "NOT EXISTS (SELECT 1 FROM "+source+" WHERE "+ts.matches()+")")
	return []string{
		// TABLOCKX makes another load that replaces rows of the table wait for this one.
		"DELETE T\nFROM " + ts.table + " AS T WITH (TABLOCKX)\nWHERE " + strings.Join(terms, " AND ") + ";",
		ts.upsertText(source, false), // a snapshot that replaces rows also replaces newer rows
		drop,
	}
}

// Drop drops a staging table, if it exists.
func (tx *transaction) Drop(ctx context.Context, table string) error {
	if err := tx.open(ctx); err != nil {
		return err
	}
	return tx.exec(ctx, fmt.Sprintf("drop table %q", table), "DROP TABLE IF EXISTS "+tx.qualify(table))
}
