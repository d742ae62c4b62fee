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

// Stage makes an empty copy of the live table's definition, so that the copy can
// take its place. Its key is indexed from the start: rows that come sorted, as
// those of a snapshot do, cost little more so, and a key that comes twice keeps
// its last row.
func (s *session) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return s.write(ctx, func() error {
		copied, err := renamed(relationOf(live).sql, name)
		if err != nil {
			return err
		}
		err = s.db.Exec(copied)
		if e := new(capi.Error); errors.As(err, &e) && e.Primary() == capi.CodeError {
			// A constraint that names its own table, say.
			err = s.db.Exec(plainCopy(live, name))
		}
		if err != nil || relationOf(live).unique(live.KeyNames()) {
			return err
		}
		return s.db.Exec(fmt.Sprintf("CREATE INDEX %s ON %s (%s)", quote(sqlsink.Beside("key", name)), quote(name), strings.Join(keyNames(live), ", ")))
	})
}

// plainCopy has the live table's columns and key, and nothing else of it.
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

// Count counts the rows of a table.
func (s *session) Count(ctx context.Context, l *sqlsink.Layout) (n int64, err error) {
	err = s.db.Within(ctx, func() error {
		return s.query(countSQL(l), nil, func(row *capi.Stmt) { n = row.Int(0) })
	})
	return n, err
}

// Seal has nothing to do: a stage is indexed and has no key twice.
func (s *session) Seal(context.Context, *sqlsink.Layout, *sqlsink.Layout) error { return nil }

// Place puts the stage in the live table's place, or its rows into the live table.
func (t *tx) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
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
		whole.Guard = false // the rows that are staged are the table
		return t.execAll(slices.Concat([]string{pruneSQL(live, stage.Real.Name)}, mergeSQL(&whole, stage.Real.Name), []string{dropSQL(stage.Real.Name)})...)
	})
}

func (t *tx) execAll(statements ...string) error {
	for _, sql := range statements {
		if err := t.s.db.Exec(sql); err != nil {
			return err
		}
	}
	return nil
}

// swappable reports whether the stage can become the live table: it is defined
// as that is now, no trigger waits to see the rows come, and there are no columns
// whose values only the live table has.
func swappable(stage, live *sqlsink.Layout, now *sqlsink.Table) bool {
	r := now.Native.(*relation)
	copied, err := renamed(r.sql, stage.Real.Name)
	return err == nil && !r.triggers && live.Covers(now) && copied == relationOf(stage).sql
}

// swap drops the live table and gives its name to the stage, which costs nothing
// a row. Views, and triggers and foreign keys of other tables, mean the name and
// stay as they are; that is what legacy_alter_table is for. The indexes of the
// live table are made anew on the stage.
func (t *tx) swap(stage, live *sqlsink.Layout) (err error) {
	db := t.s.db
	name, indexes := "", []string{dropIndexSQL(sqlsink.Beside("key", stage.Real.Name))}
	if err := t.s.query("SELECT type, name, sql FROM sqlite_schema WHERE tbl_name = ? COLLATE NOCASE AND type IN ('table', 'index') AND sql IS NOT NULL", []string{live.Real.Name}, func(row *capi.Stmt) {
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
func (t *tx) Drop(ctx context.Context, table string) error {
	return t.within(ctx, func() error { return t.s.db.Exec(dropSQL(table)) })
}

func dropSQL(table string) string { return "DROP TABLE IF EXISTS " + quote(table) }

func dropIndexSQL(index string) string { return "DROP INDEX IF EXISTS " + quote(index) }
