package mysql

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Exec runs DDL, one statement after the other: each is a transaction of its own.
func (s *session) Exec(ctx context.Context, statements []string) error {
	for _, sql := range statements {
		err := s.exec(ctx, "change the table", sql)
		if short, ok := strings.CutSuffix(sql, enumType); ok && numbered(err, 1118) {
			// The row has no room for another short text.
			err = s.exec(ctx, "change the table", short+textType)
		}
		if err != nil {
			return forbidden(err)
		}
	}
	return nil
}

// covered reports whether the layout has every column of the real table that can
// be written.
func (sh *shape) covered() bool {
	written := 0
	for _, c := range sh.layout.Real.Columns {
		if !c.Generated {
			written++
		}
	}
	return written == len(sh.columns)
}

// Stage makes a staging table: a copy of the live one, which it may replace, or
// one of the columns that rows have. Either has the key as its primary key, so
// that of rows loaded twice the last one stays.
func (s *session) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	sh := s.shape(live)
	return s.exec(ctx, "make a staging table", stageText(sh, quote(name)))
}

func stageText(sh *shape, stage string) string {
	if sh.layout.Real.Native.(*relation).base && sh.fast && sh.covered() {
		return "CREATE TABLE " + stage + " LIKE " + sh.table
	}
	return "CREATE TABLE " + stage + " (\n" + sh.definitions(sh.all(), true) + "\n) ENGINE=InnoDB DEFAULT" + utf8mb4 + " ROW_FORMAT=DYNAMIC"
}

// Append loads the rows of a snapshot into a staging table.
func (tx *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	if err := tx.start(ctx); err != nil {
		return 0, err
	}
	next, stop := iter.Pull2(rows)
	defer stop()
	sh := tx.shape(stage)
	to := sh.sheet("load into "+sh.label, sh.table, sh.all(), "")
	to.insert = "REPLACE" + strings.TrimPrefix(to.insert, "INSERT")
	to.load = sh.loadText("REPLACE ", sh.table, to.columns)
	return tx.fill(ctx, sh, to, func() (*change.Row, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return nil, err
		}
		return row, nil
	}, time.Now().UTC())
}

// Seal finds out how the staging table can take the live table's place: by its
// name, where nothing would be missed that hangs on the live table.
func (s *session) Seal(ctx context.Context, stage, live *sqlsink.Layout) error {
	sh := s.shape(live)
	sh.swap = false
	found, err := s.Tables(ctx, []string{live.Real.Name, stage.Real.Name})
	if err != nil || len(found) != 2 {
		return err
	}
	if likeness(found[0]) != likeness(found[1]) || !sh.covered() || !sh.fast {
		return nil
	}
	rows, err := s.query(ctx, "look at the live table", hangingQuery, live.Real.Name, live.Real.Name, live.Real.Name)
	if err != nil {
		return err
	}
	sh.swap = len(rows) == 1 && rows[0][0] == "1"
	return nil
}

// likeness returns a table's definition less what differs between it and a copy.
func likeness(t *sqlsink.Table) string {
	create := strings.Replace(t.Native.(*relation).create, quote(t.Name), "", 1)
	if before, after, ok := strings.Cut(create, " AUTO_INCREMENT="); ok {
		create = before + strings.TrimLeft(after, "0123456789")
	}
	return create
}

// hangingQuery answers 1 where the table has no triggers and no foreign key
// refers to it, as far as the user is allowed to know: without the privilege
// TRIGGER nobody is told of triggers.
const hangingQuery = `SELECT NOT EXISTS (SELECT 1 FROM information_schema.triggers WHERE event_object_schema = DATABASE() AND event_object_table = ?)
 AND NOT EXISTS (SELECT 1 FROM information_schema.key_column_usage WHERE referenced_table_schema = DATABASE() AND referenced_table_name = ?)
 AND EXISTS (
  SELECT 1 FROM information_schema.user_privileges WHERE privilege_type = 'TRIGGER' AND grantee = ` + grantee + `
  UNION ALL SELECT 1 FROM information_schema.schema_privileges WHERE privilege_type = 'TRIGGER' AND DATABASE() LIKE table_schema AND grantee = ` + grantee + `
  UNION ALL SELECT 1 FROM information_schema.table_privileges WHERE privilege_type = 'TRIGGER' AND table_schema = DATABASE() AND table_name = ? AND grantee = ` + grantee + `)`

// grantee is how those tables name the session's user.
const grantee = `CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')`

// oldName is the name of a live table that was replaced, until it is dropped.
func (d *dialect) oldName(stage string) string { return d.Name(stage + "_old") }

// Place puts the staged rows in place: by giving their table the live one's name
// where nothing hangs on that; else by deleting the rows whose keys are not
// among them and upserting the others, in the transaction.
func (tx *transaction) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	sh := tx.shape(live)
	if mode == sink.Replace && sh.swap {
		if placed, err := tx.rename(ctx, stage.Real.Name, live.Real.Name); placed || err != nil {
			return err
		}
	}
	if err := tx.start(ctx); err != nil {
		return err
	}
	for _, sql := range placeTexts(sh, quote(stage.Real.Name), mode) {
		if err := tx.exec(ctx, "put rows into "+sh.label, sql); err != nil {
			return err
		}
	}
	tx.drops = append(tx.drops, stage.Real.Name)
	return nil
}

func placeTexts(sh *shape, stage string, mode sink.LoadMode) []string {
	if mode == sink.Merge {
		return sh.upsertFrom(stage, sh.layout.Guard)
	}
	missing := fmt.Sprintf("DELETE %s FROM %s LEFT JOIN %s ON %s WHERE %s.%s IS NULL", sh.table, sh.table, stage, sh.staged(stage), stage, quote(sh.columns[0].name))
	return append([]string{missing}, sh.upsertFrom(stage, false)...)
}

// staged returns the condition that a staged row, which its own key finds, has
// the key of the real row.
func (sh *shape) staged(stage string) string {
	var terms []string
	for i := range sh.layout.Keys {
		key := sh.of(i)
		if c := &sh.columns[i]; !c.exact() {
			key = "CONVERT(" + key + " USING utf8mb4) COLLATE " + sh.server.exact
		}
		terms = append(terms, stage+"."+quote(sh.columns[i].name)+" = "+key)
	}
	return strings.Join(terms, " AND ")
}

// rename gives the staging table the live one's name, in one step that nobody
// sees half of, and drops the live one. It reports false, with everything as it
// was, where the user may not, or where the server knows of a foreign key that
// refers to the live table and that nobody told us of.
func (tx *transaction) rename(ctx context.Context, stage, live string) (bool, error) {
	old := tx.dialect.oldName(stage)
	change := func(a, b, c, d string) error {
		return tx.exec(ctx, fmt.Sprintf("put rows into table %q", live), "RENAME TABLE "+quote(a)+" TO "+quote(b)+", "+quote(c)+" TO "+quote(d))
	}
	if err := tx.exec(ctx, "drop a staging table", "DROP TABLE IF EXISTS "+quote(old)); err != nil {
		return false, err
	}
	if err := change(live, old, stage, live); err != nil {
		if numbered(err, 1044, 1142) {
			return false, nil
		}
		return false, err
	}
	err := tx.exec(ctx, "drop the table that was replaced", "DROP TABLE "+quote(old))
	if numbered(err, 1217, 1451, 3730) {
		return false, change(live, stage, old, live)
	}
	return true, err
}

// Drop drops a staging table, and what an interrupted load has left of a live one.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.drops = append(tx.drops, table, tx.dialect.oldName(table))
	return nil
}
