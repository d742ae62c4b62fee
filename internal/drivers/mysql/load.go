package mysql

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Exec runs DDL statements one after the other. Each statement is a separate transaction.
func (s *sqlSession) Exec(ctx context.Context, statements []string) error {
	defer s.calls.AllowLong()()
	return s.waitShortly(ctx, func() error {
		for _, sql := range statements {
			err := s.exec(ctx, "change the table", sql)
			if short, ok := strings.CutSuffix(sql, enumType); ok && numbered(err, 1118) {
				// The row has no space for another short text.
				err = s.exec(ctx, "change the table", short+textType)
			}
			if err != nil {
				return permanentDDLError(err)
			}
		}
		return nil
	})
}

// Stage creates a staging table. If the staging table may replace the live table, it is a copy of
// the live table, so that the live table's constraints apply to rows while they are loaded.
// Otherwise it has only the columns that eds writes. The primary key of the staging table is the
// layout's key, so only the last of several rows with the same key stays. The staging table is
// transactional, so that a file that fails leaves no rows.
func (s *sqlSession) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	ts := s.tableStatements(live)
	return s.exec(ctx, "create a staging table", stageText(ts, quote(name)))
}

func stageText(ts *tableStatements, stage string) string {
	if r := ts.layout.Real.Native.(*relation); r.transactional() && ts.keyOnly {
		return "CREATE TABLE " + stage + " LIKE " + ts.table
	}
	return "CREATE TABLE " + stage + " (\n" + ts.definitions(ts.layout.All(), true) +
		"\n) ENGINE=InnoDB DEFAULT" + utf8mb4 + " ROW_FORMAT=DYNAMIC"
}

// Append loads the rows of a snapshot into a staging table. It returns the number of keys added.
func (tx *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	if err := tx.start(ctx); err != nil {
		return 0, err
	}
	next, stop := iter.Pull2(rows)
	defer stop()
	ts := tx.tableStatements(stage)
	return tx.fill(ctx, ts, ts.stagingWriter(), func() (*change.Row, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return nil, err
		}
		return row, nil
	}, time.Now().UTC())
}

// Count counts the table's rows that are in the layout's scope.
func (s *sqlSession) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	defer s.calls.AllowLong()()
	rows, err := s.query(ctx, "count rows", s.countText(l))
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, errors.New("count rows: the server returned no row")
	}
	return strconv.ParseInt(rows[0][0], 10, 64)
}

func (s *flavour) countText(l *sqlsink.Layout) string {
	text := "SELECT COUNT(*) FROM " + quote(l.Real.Name)
	if terms := s.inScope(l); len(terms) > 0 {
		text += " WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions under which a row is in the layout's scope. All conditions must
// hold.
func (s *flavour) inScope(l *sqlsink.Layout) []string {
	return l.ScopeTerms(func(name string) string {
		return "CONVERT(" + quote(l.Real.Name) + "." + quote(name) + " USING utf8mb4) COLLATE " + s.exact
	}, literal)
}

// Seal finds out whether the staging table can replace the live table without losing triggers,
// foreign keys or other properties of the live table.
func (s *sqlSession) Seal(ctx context.Context, stage, live *sqlsink.Layout) error {
	ts := s.tableStatements(live)
	ts.swap = false
	found, err := s.Tables(ctx, []string{live.Real.Name, stage.Real.Name})
	if err != nil || len(found) != 2 {
		return err
	}
	if likeness(found[0]) != likeness(found[1]) || !ts.layout.Covers(ts.layout.Real) || !ts.keyOnly {
		return nil
	}
	rows, err := s.query(ctx, "inspect the live table", dependentsQuery, live.Real.Name, live.Real.Name, live.Real.Name)
	if err != nil {
		return err
	}
	ts.swap = len(rows) == 1 && rows[0][0] == "1"
	return nil
}

// likeness returns the table's definition without the parts that differ between a table and its
// copy: the name and the value of AUTO_INCREMENT.
func likeness(t *sqlsink.RealTable) string {
	create := strings.Replace(t.Native.(*relation).create, quote(t.Name), "", 1)
	if before, after, ok := strings.Cut(create, " AUTO_INCREMENT="); ok {
		create = before + strings.TrimLeft(after, "0123456789")
	}
	return create
}

// dependentsQuery returns 1 if the table has no triggers and no foreign key refers to the table.
// The server hides triggers from users without the privilege TRIGGER, so the query returns 0 if
// the user lacks that privilege. All three parameters are the table's name.
const dependentsQuery = `SELECT NOT EXISTS (
  SELECT 1 FROM information_schema.triggers WHERE event_object_schema = DATABASE() AND event_object_table = ?)
 AND NOT EXISTS (
  SELECT 1 FROM information_schema.key_column_usage WHERE referenced_table_schema = DATABASE() AND referenced_table_name = ?)
 AND EXISTS (
  SELECT 1 FROM information_schema.user_privileges WHERE privilege_type = 'TRIGGER' AND grantee = ` + grantee + `
  UNION ALL SELECT 1 FROM information_schema.schema_privileges
   WHERE privilege_type = 'TRIGGER' AND DATABASE() LIKE table_schema AND grantee = ` + grantee + `
  UNION ALL SELECT 1 FROM information_schema.table_privileges
   WHERE privilege_type = 'TRIGGER' AND table_schema = DATABASE() AND table_name = ? AND grantee = ` + grantee + `)`

// grantee is an expression for the session's user in the format of the privilege tables.
const grantee = `CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')`

// oldName returns the temporary name of the live table. The live table gets this name when the
// staging table named stage replaces it, and keeps the name until it is dropped.
func oldName(stage string) string { return sqlsink.StageObjectName("old", stage) }

// Place merges the staged rows into the live table, or replaces the live table's rows. If all rows
// are replaced and nothing depends on the live table, Place renames the staging table to the live
// table's name. Otherwise Place works within the transaction: if it replaces rows, it deletes the
// rows whose keys were not staged, and in any case it upserts the staged rows.
func (tx *transaction) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	ts := tx.tableStatements(live)
	if mode == sink.Replace && ts.swap && live.Scope == nil {
		if placed, err := tx.rename(ctx, stage.Real.Name, live.Real.Name); placed || err != nil {
			return err
		}
	}
	if !tx.begun && mode == sink.Replace { // makes another load that replaces rows wait for this one
		if err := tx.exec(ctx, "begin", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"); err != nil {
			return err
		}
	}
	if err := tx.start(ctx); err != nil {
		return err
	}
	defer tx.calls.AllowLong()()
	for _, sql := range placeTexts(ts, quote(stage.Real.Name), mode) {
		if err := tx.exec(ctx, "put rows into "+ts.label, sql); err != nil {
			return err
		}
	}
	tx.drops = append(tx.drops, stage.Real.Name)
	return nil
}

func placeTexts(ts *tableStatements, stage string, mode sink.LoadMode) []string {
	if mode == sink.Merge {
		return ts.upsertFrom(stage, ts.layout.Guard)
	}
	terms := append(ts.server.inScope(ts.layout), stage+"."+quote(ts.columns[0].name)+" IS NULL")
	missing := fmt.Sprintf("DELETE %s FROM %s LEFT JOIN %s ON %s WHERE %s",
		ts.table, ts.table, stage, ts.staged(stage), strings.Join(terms, " AND "))
	return append([]string{missing}, ts.upsertFrom(stage, false)...)
}

// staged returns the condition that a staged row has the same key as a row of the live
// table. The server can evaluate the condition with the index of the staging table's key.
func (ts *tableStatements) staged(stage string) string {
	var terms []string
	for i := range ts.layout.Keys {
		key := ts.of(i)
		if c := &ts.columns[i]; !c.exact() {
			key = "CONVERT(" + key + " USING utf8mb4) COLLATE " + ts.server.exact
		}
		terms = append(terms, stage+"."+quote(ts.columns[i].name)+" = "+key)
	}
	return strings.Join(terms, " AND ")
}

// rename replaces the live table by the staging table in one atomic step, and drops the old live
// table. It returns false and leaves both tables unchanged if the user lacks the privilege, or if a
// foreign key that the catalogue did not show refers to the live table.
func (tx *transaction) rename(ctx context.Context, stage, live string) (bool, error) {
	old := oldName(stage)
	change := func(a, b, c, d string) error {
		return tx.exec(ctx, fmt.Sprintf("put rows into table %q", live),
			"RENAME TABLE "+quote(a)+" TO "+quote(b)+", "+quote(c)+" TO "+quote(d))
	}
	if err := tx.exec(ctx, "drop a staging table", "DROP TABLE IF EXISTS "+quote(old)); err != nil {
		return false, err
	}
	if err := tx.waitShortly(ctx, func() error { return change(live, old, stage, live) }); err != nil {
		if numbered(err, 1044, 1142) {
			return false, nil
		}
		return false, err
	}
	defer tx.calls.AllowLong()() // deleting large files is slow
	err := tx.exec(ctx, "drop the table that was replaced", "DROP TABLE "+quote(old))
	if numbered(err, 1217, 1451, 3730) {
		return false, change(live, stage, old, live)
	}
	return true, err
}

// Drop makes Commit drop a staging table, and the old live table that an interrupted load may have
// renamed and not dropped.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.drops = append(tx.drops, table, oldName(table))
	return nil
}

// PlacesFirst reports whether Place may rename tables, which commits the transaction implicitly.
func (s *sqlSession) PlacesFirst(live *sqlsink.Layout) bool {
	return s.tableStatements(live).swap && live.Scope == nil
}
