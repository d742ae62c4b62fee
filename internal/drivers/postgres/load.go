package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Exec runs DDL statements in one transaction. If the URL's schema does not exist yet, Exec creates
// the schema in the same transaction.
func (s *sqlSession) Exec(ctx context.Context, statements []string) error {
	defer s.calls.AllowLong()()
	err := s.exec(ctx, "change the table", s.lockWait(sqlsink.ShortLockWait)+s.makeSchema()+strings.Join(statements, ";\n"))
	if err == nil {
		s.lacksSchema = false
	}
	return permanentDDLError(err)
}

// Stage creates a staging table with the columns that eds writes. The columns are in the live
// table's order, because the staging table may replace the live table. Columns that the server
// casts have type text. The staging table has the live table's NOT NULL and CHECK constraints, so
// that an invalid row fails while it is loaded, when the file that contains the row is known.
func (s *sqlSession) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return s.exec(ctx, "create a staging table", stageText(s.tableStatements(live), s.qualify(name)))
}

func stageText(ts *tableStatements, stage string) string {
	written := make(map[string]int, len(ts.columns))
	for i := range ts.columns {
		written[ts.columns[i].name] = i
	}
	var columns []string
	relation := ts.layout.Real.Native.(*relation)
	for _, real := range ts.layout.Real.Columns {
		i, ok := written[real.Name]
		if !ok {
			continue
		}
		spelling := real.Type
		if ts.casts(&ts.columns[i]) {
			spelling = "text"
		}
		if collation := real.Native.(*attribute).collation; collation != "" {
			spelling += " COLLATE " + collation
		}
		if !real.Nullable && (i < ts.layout.Keys || relation.checked) {
			spelling += " NOT NULL"
		}
		columns = append(columns, "\t"+quote(real.Name)+" "+spelling)
	}
	for _, c := range relation.checks {
		if !slices.ContainsFunc(c.Columns, func(name string) bool {
			i, ok := written[name]
			return !ok || ts.casts(&ts.columns[i])
		}) {
			columns = append(columns, "\tCONSTRAINT "+quote(c.Name)+" "+c.Definition)
		}
	}
	return "CREATE TABLE " + stage + " (\n" + strings.Join(columns, ",\n") + "\n)"
}

// sealedName returns the name of the primary key that Seal adds to a staging table.
func sealedName(stage *sqlsink.Layout) string {
	return sqlsink.StageObjectName("key", stage.Real.Name)
}

// Count counts the table's rows that are in the layout's scope.
func (s *sqlSession) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	defer s.calls.AllowLong()()
	return s.count(ctx, "count rows", countText(s.tableStatements(l)))
}

func countText(ts *tableStatements) string {
	text := "SELECT count(*) FROM " + ts.table + " AS t"
	if terms := ts.inScope(); len(terms) > 0 {
		text += " WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions under which row t is in the layout's scope. All conditions must
// hold.
func (ts *tableStatements) inScope() []string {
	return ts.layout.ScopeTerms(func(name string) string {
		text := "t." + quote(name) + "::text"
		if !ts.server.features.Cockroach { // CockroachDB's default collation is bytewise
			text += ` COLLATE "C"`
		}
		return text
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
	return strconv.ParseInt(rows[0].text(0), 10, 64)
}

// Seal adds a primary key to the staging table, and finds out whether the staging table can take
// the live table's name. If two staged rows have the same key, it returns a
// *sqlsink.DuplicatesError.
func (s *sqlSession) Seal(ctx context.Context, stage, live *sqlsink.Layout) error {
	defer s.calls.AllowLong()()
	if len(stage.Real.Key) == 0 {
		ts := s.tableStatements(stage)
		err := s.exec(ctx, "index the staged rows", sealText(ts))
		if e := new(serverError); errors.As(err, &e) && e.code == "23505" {
			rows, err := s.count(ctx, "count rows that were staged twice", duplicatesText(ts))
			if err != nil {
				return err
			}
			return &sqlsink.DuplicatesError{Rows: rows}
		}
		if err != nil {
			return err
		}
	}
	rows, err := s.query(ctx, "inspect the live table", swapQuery,
		live.Real.Native.(*relation).oid, stage.Real.Native.(*relation).oid, keyName(live))
	if err != nil {
		return err
	}
	ts := s.tableStatements(live)
	ts.swap = len(rows) == 1 && rows[0].text(0) == "t" && ts.direct && ts.unique
	return nil
}

func sealText(stage *tableStatements) string {
	return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s PRIMARY KEY (%s)", stage.table, quote(sealedName(stage.layout)), stage.keyNames())
}

func (ts *tableStatements) keyNames() string { return strings.Join(ts.names(0)[:ts.layout.Keys], ", ") }

// duplicatesText returns the query that counts the rows that the statement of deduplicateText
// removes.
func duplicatesText(stage *tableStatements) string {
	return fmt.Sprintf("SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM %s GROUP BY %s HAVING count(*) > 1) AS s",
		stage.table, stage.keyNames())
}

// Deduplicate removes rows from the staging table, so that only the last loaded row of each key
// remains.
func (tx *transaction) Deduplicate(_ context.Context, stage *sqlsink.Layout) error {
	ts := tx.tableStatements(stage)
	tx.calls.AllowLong()
	tx.pipeline.sendSimple(deduplicateText(ts), "remove rows that were staged twice", ts)
	return nil
}

// deduplicateText returns the statement that removes all rows of a staging table except the last
// loaded row of each key. A staging table stores rows in the order in which they were loaded, so
// the row that was loaded last has the highest ctid.
func deduplicateText(stage *tableStatements) string {
	var terms []string
	for _, name := range stage.names(0)[:stage.layout.Keys] {
		terms = append(terms, "t."+name+" = s."+name)
	}
	return fmt.Sprintf(`DELETE FROM %[1]s AS t USING (SELECT %[2]s, max(ctid) AS last FROM %[1]s GROUP BY %[2]s HAVING count(*) > 1) AS s `+
		`WHERE %[3]s AND t.ctid < s.last`,
		stage.table, stage.keyNames(), strings.Join(terms, " AND "))
}

// keyName returns PostgreSQL's default name for the primary key of the layout's table.
func keyName(l *sqlsink.Layout) string { return (*dialect)(nil).Name(l.Real.Name + "_pkey") }

// swapQuery finds out whether a new table can replace an old one without loss. Its parameters are
// the oid of the old table, the oid of the new table, and the name of the old table's primary key.
// A replacement is possible if three conditions hold: nothing depends on the old table, except its
// primary key and the objects that every table has; both tables have the same owner and grants; and
// no other relation has the name of the primary key.
const swapQuery = `
SELECT c.relowner = n.relowner AND c.relacl IS NOT DISTINCT FROM n.relacl AND c.reltablespace = n.reltablespace
   AND c.reloptions IS NULL AND c.relpersistence = 'p' AND c.relreplident = 'd' AND c.reloftype = 0
   AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_description d WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = c.oid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_seclabel l WHERE l.classoid = 'pg_catalog.pg_class'::regclass AND l.objoid = c.oid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND (a.attacl IS NOT NULL OR a.attoptions IS NOT NULL OR a.atthasdef OR a.attidentity <> ''))
   AND (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid) = 1
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class k WHERE k.relnamespace = c.relnamespace AND k.relname = $3
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indexrelid = k.oid))
   AND (SELECT count(*) FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype NOT IN ('p', 'n')) = 0
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel p WHERE p.prrelid = c.oid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_statistic_ext e WHERE e.stxrelid = c.oid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid
                     AND d.deptype IN ('n', 'e', 'x'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.refobjid
                    WHERE d.refclassid = 'pg_catalog.pg_type'::regclass AND t.typrelid = c.oid AND d.deptype = 'n')
  FROM pg_catalog.pg_class c, pg_catalog.pg_class n
 WHERE c.oid = $1::oid AND n.oid = $2::oid`

// Place merges the staged rows into the live table, or replaces the live table's rows. To replace
// all rows of a table on which nothing depends, Place drops the live table and renames the staging
// table. To replace all rows of a plain table whose columns are all in the layout, Place truncates
// and refills the live table. In any other replacement, Place locks the live table against another
// such load, deletes the rows whose keys were not staged, and upserts the staged rows.
func (tx *transaction) Place(_ context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	staging, ts := tx.tableStatements(stage), tx.tableStatements(live)
	if !ts.swaps(mode) {
		tx.calls.AllowLong()
	}
	texts := placeTexts(staging, ts, mode)
	switch {
	case ts.swaps(mode): // readers of the table wait until the transaction ends
		texts[0] = tx.lockWait(sqlsink.ShortLockWait) + texts[0]
	case ts.truncates(mode): // after TRUNCATE, readers wait anyway, so later locks may wait longer
		texts[0] = tx.lockWait(sqlsink.ShortLockWait) + texts[0]
		texts[1] = tx.lockWait(tx.dialect.timeouts.Lock) + texts[1]
	}
	for _, statement := range texts {
		tx.pipeline.sendSimple(statement, "put rows into "+ts.label, ts)
	}
	return nil
}

// swaps reports whether Place drops the live table and gives its name to the staging table.
func (ts *tableStatements) swaps(mode sink.LoadMode) bool {
	return ts.swap && mode != sink.Merge && ts.layout.Scope == nil
}

// truncates reports whether Place empties and refills the live table.
func (ts *tableStatements) truncates(mode sink.LoadMode) bool {
	return mode != sink.Merge && ts.layout.Scope == nil && !ts.swap &&
		ts.layout.Real.Native.(*relation).plain && len(ts.columns) == len(ts.layout.Real.Columns)
}

func placeTexts(staging, ts *tableStatements, mode sink.LoadMode) []string {
	src := ts.staged(staging.table)
	drop := "DROP TABLE " + staging.table
	names := strings.Join(ts.names(0), ", ")
	switch {
	case mode == sink.Merge:
		return append(ts.upsert(src), drop)
	case ts.swaps(mode):
		return []string{
			"DROP TABLE " + ts.table,
			"ALTER TABLE " + staging.table + " RENAME TO " + quote(ts.layout.Real.Name),
			"ALTER TABLE " + ts.table + " RENAME CONSTRAINT " + quote(sealedName(staging.layout)) + " TO " + quote(keyName(ts.layout)),
		}
	case ts.truncates(mode):
		return []string{
			"TRUNCATE " + ts.table,
			fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", ts.table, names, strings.Join(src.expressions, ", "), src.from),
			drop,
		}
	}
	var texts []string
	// Only tables can be locked, and tables have keys. CockroachDB needs no lock: its transactions
	// are serializable.
	if len(ts.layout.Real.Key) > 0 && !ts.server.features.Cockroach {
		texts = append(texts, "LOCK TABLE "+ts.table+" IN SHARE ROW EXCLUSIVE MODE")
	}
	missing := fmt.Sprintf("NOT EXISTS (SELECT FROM %s WHERE %s)", src.from, ts.matches(src))
	texts = append(texts, "DELETE FROM "+ts.table+" AS t WHERE "+strings.Join(append(ts.inScope(), missing), " AND "))
	return append(append(texts, ts.upsertUnguarded(src)...), drop)
}

// upsertUnguarded is like upsert, but its statements also replace rows that are newer than the
// source's rows. A snapshot that replaces a table replaces newer rows, too.
func (ts *tableStatements) upsertUnguarded(src rowSource) []string {
	unguarded := *ts
	layout := *ts.layout
	layout.Guard = false
	unguarded.layout = &layout
	return unguarded.upsert(src)
}

// Drop drops a staging table, if it exists.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.pipeline.sendSimple("DROP TABLE IF EXISTS "+tx.qualify(table), fmt.Sprintf("drop table %q", table), nil)
	return nil
}
