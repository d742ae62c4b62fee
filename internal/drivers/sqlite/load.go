package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Stage creates a stage, which is an empty copy of the live table, so that the stage can replace
// the live table. The stage has an index on the key from the start, so that only the last row of
// each key stays. The index costs little, because the rows of a snapshot are sorted.
func (s *fileSession) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return s.write(ctx, func() error {
		copied, err := renamed(relationOf(live).sql, name)
		if err != nil {
			return err
		}
		err = s.db.Exec(copied)
		if e := new(capi.Error); errors.As(err, &e) && e.Primary() == capi.CodeError {
			// The definition does not work for a copy, for example because a constraint names the table.
			err = s.db.Exec(plainCopy(live, name))
		}
		if err != nil || relationOf(live).unique(live.KeyNames()) {
			return err
		}
		index := sqlsink.StageObjectName("key", name)
		return s.db.Exec(fmt.Sprintf("CREATE INDEX %s ON %s (%s)", quote(index), quote(name), strings.Join(keyNames(live), ", ")))
	})
}

// plainCopy returns a statement that creates a table with only the columns and the key of the live
// table.
func plainCopy(live *sqlsink.Layout, name string) string {
	var columns []string
	for _, c := range live.Real.Columns {
		if !c.Generated {
			columns = append(columns, quote(c.Name)+" "+c.Type)
		}
	}
	if relationOf(live).unique(live.KeyNames()) {
		columns = append(columns, fmt.Sprintf("UNIQUE (%s)", strings.Join(keyNames(live), ", ")))
	}
	return fmt.Sprintf("CREATE TABLE %s (%s)", quote(name), strings.Join(columns, ", "))
}

// Count counts the table's rows that are in the layout's scope.
func (s *fileSession) Count(ctx context.Context, l *sqlsink.Layout) (n int64, err error) {
	err = s.db.Within(ctx, func() error {
		return s.query(countSQL(l), nil, func(row *capi.Stmt) { n = row.Int(0) })
	})
	return n, err
}

// Seal does nothing, because a stage already has an index and one row per key.
func (s *fileSession) Seal(context.Context, *sqlsink.Layout, *sqlsink.Layout) error { return nil }

// Place merges the rows of the stage into the live table, or replaces the live table's rows. To
// replace all rows, Place replaces the live table by the stage, if possible. Otherwise it deletes
// the rows whose keys are not in the stage, and upserts the rows of the stage.
func (t *transaction) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	return t.within(ctx, func() error {
		if mode == sink.Merge {
			return t.execAll(append(mergeSQL(live, stage.Real.Name), dropSQL(stage.Real.Name))...)
		}
		now, err := t.s.table(live.Real.Name)
		if err != nil {
			return err
		}
		if now != nil && live.Scope == nil && swappable(stage, live, now) {
			return t.swap(stage, live)
		}
		whole := *live
		whole.Guard = false // staged rows also replace newer rows
		return t.execAll(slices.Concat(
			[]string{pruneSQL(live, stage.Real.Name)}, mergeSQL(&whole, stage.Real.Name), []string{dropSQL(stage.Real.Name)},
		)...)
	})
}

func (t *transaction) execAll(statements ...string) error {
	for _, sql := range statements {
		if err := t.s.db.Exec(sql); err != nil {
			return err
		}
	}
	return nil
}

// swappable reports whether the stage can replace the live table. The parameter now describes the
// current live table, which must have the same definition as the stage, no triggers, and no columns
// outside the layout.
func swappable(stage, live *sqlsink.Layout, now *sqlsink.RealTable) bool {
	r := now.Native.(*relation)
	copied, err := renamed(r.sql, stage.Real.Name)
	return err == nil && !r.triggers && live.Covers(now) && copied == relationOf(stage).sql
}

// swap drops the live table, gives its name to the stage, and creates the indexes of the live table
// on the stage. It copies no rows. With legacy_alter_table, the renaming leaves three things
// unchanged: views, the triggers of other tables, and the foreign keys of other tables. So all of
// these continue to refer to the live table's name.
func (t *transaction) swap(stage, live *sqlsink.Layout) (err error) {
	db := t.s.db
	name, indexes := "", []string{dropIndexSQL(sqlsink.StageObjectName("key", stage.Real.Name))}
	const query = "SELECT type, name, sql FROM sqlite_schema" +
		" WHERE tbl_name = ? COLLATE NOCASE AND type IN ('table', 'index') AND sql IS NOT NULL"
	if err := t.s.query(query, []string{live.Real.Name}, func(row *capi.Stmt) {
		if row.String(0) == "table" {
			name = row.String(1)
			return
		}
		indexes = append(indexes, row.String(2))
	}); err != nil {
		return err
	}
	if err := db.Exec("PRAGMA legacy_alter_table=ON"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Exec("PRAGMA legacy_alter_table=OFF")) }()
	rename := fmt.Sprintf("ALTER TABLE %s RENAME TO %s", quote(stage.Real.Name), quote(name))
	return t.execAll(append([]string{dropSQL(name), rename}, indexes...)...)
}

// Drop drops a stage, if it exists.
func (t *transaction) Drop(ctx context.Context, table string) error {
	return t.within(ctx, func() error { return t.s.db.Exec(dropSQL(table)) })
}

func dropSQL(table string) string { return "DROP TABLE IF EXISTS " + quote(table) }

func dropIndexSQL(index string) string { return "DROP INDEX IF EXISTS " + quote(index) }
