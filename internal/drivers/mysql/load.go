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

// Exec runs DDL, one statement after the other: each is a transaction of its own.
func (s *session) Exec(ctx context.Context, statements []string) error {
	defer s.calls.TakeTime()()
	return s.waitShortly(ctx, func() error {
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
	})
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

// Stage makes a staging table: a copy of the live one, which it may replace and whose
// constraints rows are checked by as they are loaded, or one of the columns that rows
// have. Either has the key as its primary key, so
// that of rows loaded twice the last one stays, and has transactions, so that
// nothing stays of a file that fails.
func (s *session) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	sh := s.shape(live)
	return s.exec(ctx, "make a staging table", stageText(sh, quote(name)))
}

func stageText(sh *shape, stage string) string {
	if r := sh.layout.Real.Native.(*relation); r.transactional() && sh.fast {
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
	return tx.fill(ctx, sh, sh.stagedSheet(), func() (*change.Row, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return nil, err
		}
		return row, nil
	}, time.Now().UTC())
}

// Count counts the rows of a table.
func (s *session) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	defer s.calls.TakeTime()()
	rows, err := s.query(ctx, "count rows", s.countText(l))
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, errors.New("count rows: the server answered no row")
	}
	return strconv.ParseInt(rows[0][0], 10, 64)
}

func (s *server) countText(l *sqlsink.Layout) string {
	text := "SELECT COUNT(*) FROM " + quote(l.Real.Name)
	if terms := s.inScope(l); len(terms) > 0 {
		text += " WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions that a row is in the layout's scope.
func (s *server) inScope(l *sqlsink.Layout) []string {
	var terms []string
	for _, w := range l.Scope {
		values := make([]string, len(w.Values))
		for i, v := range w.Values {
			values[i] = literal(v)
		}
		terms = append(terms, fmt.Sprintf("CONVERT(%s.%s USING utf8mb4) COLLATE %s IN (%s)", quote(l.Real.Name), quote(w.Column.Name), s.exact, strings.Join(values, ", ")))
	}
	return terms
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
func oldName(stage string) string { return sqlsink.Beside("old", stage) }

// Place puts the staged rows in place: by giving their table the live one's name
// if nothing hangs on that and all rows are replaced; else by deleting the rows whose keys are not
// among them and upserting the others, in the transaction.
func (tx *transaction) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	sh := tx.shape(live)
	if mode == sink.Replace && sh.swap && live.Scope == nil {
		if placed, err := tx.rename(ctx, stage.Real.Name, live.Real.Name); placed || err != nil {
			return err
		}
	}
	if !tx.begun && mode == sink.Replace { // so that another load which does the same waits
		if err := tx.exec(ctx, "begin", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"); err != nil {
			return err
		}
	}
	if err := tx.start(ctx); err != nil {
		return err
	}
	defer tx.calls.TakeTime()()
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
	terms := append(sh.server.inScope(sh.layout), stage+"."+quote(sh.columns[0].name)+" IS NULL")
	missing := fmt.Sprintf("DELETE %s FROM %s LEFT JOIN %s ON %s WHERE %s", sh.table, sh.table, stage, sh.staged(stage), strings.Join(terms, " AND "))
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
	old := oldName(stage)
	change := func(a, b, c, d string) error {
		return tx.exec(ctx, fmt.Sprintf("put rows into table %q", live), "RENAME TABLE "+quote(a)+" TO "+quote(b)+", "+quote(c)+" TO "+quote(d))
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
	defer tx.calls.TakeTime()() // files of many GB are deleted slowly
	err := tx.exec(ctx, "drop the table that was replaced", "DROP TABLE "+quote(old))
	if numbered(err, 1217, 1451, 3730) {
		return false, change(live, stage, old, live)
	}
	return true, err
}

// Drop drops a staging table, and what an interrupted load has left of a live one.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.drops = append(tx.drops, table, oldName(table))
	return nil
}

// PlacesFirst reports whether Place renames, which ends the transaction.
func (s *session) PlacesFirst(live *sqlsink.Layout) bool {
	return s.shape(live).swap && live.Scope == nil
}
