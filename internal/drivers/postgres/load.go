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

// Exec runs DDL as one transaction.
func (s *session) Exec(ctx context.Context, statements []string) error {
	defer s.calls.TakeTime()()
	err := s.exec(ctx, "change the table", s.lockWait(sqlsink.ShortLockWait)+s.makeSchema()+strings.Join(statements, ";\n"))
	if err == nil {
		s.lacksSchema = false
	}
	return depends(err)
}

// Stage makes a staging table: the columns that rows have, in the order of the
// live table's, which it may replace. A column whose values the server casts is text. What
// the live table would refuse in a row by itself is refused as it is loaded, while it is
// known where the row comes from.
func (s *session) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return s.exec(ctx, "make a staging table", stageText(s.shape(live), s.qualify(name)))
}

func stageText(sh *shape, stage string) string {
	written := make(map[string]int, len(sh.columns))
	for i := range sh.columns {
		written[sh.columns[i].name] = i
	}
	var columns []string
	relation := sh.layout.Real.Native.(*relation)
	for _, real := range sh.layout.Real.Columns {
		i, ok := written[real.Name]
		if !ok {
			continue
		}
		spelling := real.Type
		if sh.casts(&sh.columns[i]) {
			spelling = "text"
		}
		if collation := real.Native.(*attribute).collation; collation != "" {
			spelling += " COLLATE " + collation
		}
		if !real.Nullable && (i < sh.layout.Keys || relation.checked) {
			spelling += " NOT NULL"
		}
		columns = append(columns, "\t"+quote(real.Name)+" "+spelling)
	}
	for _, c := range relation.checks {
		if !slices.ContainsFunc(c.Columns, func(name string) bool {
			i, ok := written[name]
			return !ok || sh.casts(&sh.columns[i])
		}) {
			columns = append(columns, "\tCONSTRAINT "+quote(c.Name)+" "+c.Definition)
		}
	}
	return "CREATE TABLE " + stage + " (\n" + strings.Join(columns, ",\n") + "\n)"
}

// sealedName is the name of the constraint that seals a staging table.
func sealedName(stage *sqlsink.Layout) string {
	return sqlsink.Beside("key", stage.Real.Name)
}

// Count counts the rows of a table.
func (s *session) Count(ctx context.Context, l *sqlsink.Layout) (int64, error) {
	defer s.calls.TakeTime()()
	return s.count(ctx, "count rows", countText(s.shape(l)))
}

func countText(sh *shape) string {
	text := "SELECT count(*) FROM " + sh.table + " AS t"
	if terms := sh.inScope(); len(terms) > 0 {
		text += " WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions that the row t is in the layout's scope.
func (sh *shape) inScope() []string {
	var terms []string
	for _, w := range sh.layout.Scope {
		values := make([]string, len(w.Values))
		for i, v := range w.Values {
			values[i] = literal(v)
		}
		term := "t." + quote(w.Column.Name) + "::text"
		if !sh.server.can.Cockroach { // which compares by bytes unless a column says otherwise
			term += ` COLLATE "C"`
		}
		terms = append(terms, term+" IN ("+strings.Join(values, ", ")+")")
	}
	return terms
}

// count returns the one number that a query answers.
func (s *session) count(ctx context.Context, what, sql string) (int64, error) {
	rows, err := s.query(ctx, what, sql)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("%s: the server answered no row", what)
	}
	return strconv.ParseInt(rows[0].text(0), 10, 64)
}

// Seal gives the staging table its primary key, and finds out how it can take the
// live table's place.
func (s *session) Seal(ctx context.Context, stage, live *sqlsink.Layout) error {
	defer s.calls.TakeTime()()
	if len(stage.Real.Key) == 0 {
		sh := s.shape(stage)
		err := s.exec(ctx, "index the staged rows", sealText(sh))
		if e := new(serverError); errors.As(err, &e) && e.code == "23505" {
			rows, err := s.count(ctx, "count rows that were staged twice", duplicatesText(sh))
			if err != nil {
				return err
			}
			return &sqlsink.DuplicatesError{Rows: rows}
		}
		if err != nil {
			return err
		}
	}
	rows, err := s.query(ctx, "look at the live table", swapQuery, live.Real.Native.(*relation).oid, stage.Real.Native.(*relation).oid, keyName(live))
	if err != nil {
		return err
	}
	sh := s.shape(live)
	sh.swap = len(rows) == 1 && rows[0].text(0) == "t" && sh.direct && sh.unique
	return nil
}

func sealText(stage *shape) string {
	return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s PRIMARY KEY (%s)", stage.table, quote(sealedName(stage.layout)), stage.keyNames())
}

// keyNames returns the quoted names of the key's columns.
func (sh *shape) keyNames() string { return strings.Join(sh.names(0)[:sh.layout.Keys], ", ") }

// duplicatesText counts the rows that dedupText removes.
func duplicatesText(stage *shape) string {
	return fmt.Sprintf("SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM %s GROUP BY %s HAVING count(*) > 1) AS s", stage.table, stage.keyNames())
}

// Deduplicate keeps the last row of each key.
func (tx *transaction) Deduplicate(_ context.Context, stage *sqlsink.Layout) error {
	sh := tx.shape(stage)
	tx.calls.TakeTime()
	tx.flight.simple(dedupText(sh), "remove rows that were staged twice", sh)
	return nil
}

// dedupText keeps the last row of each key: rows stand in a table in the order in
// which they were copied.
func dedupText(stage *shape) string {
	var terms []string
	for _, name := range stage.names(0)[:stage.layout.Keys] {
		terms = append(terms, "t."+name+" = s."+name)
	}
	return fmt.Sprintf(`DELETE FROM %[1]s AS t USING (SELECT %[2]s, max(ctid) AS last FROM %[1]s GROUP BY %[2]s HAVING count(*) > 1) AS s WHERE %[3]s AND t.ctid < s.last`,
		stage.table, stage.keyNames(), strings.Join(terms, " AND "))
}

// keyName is the name that PostgreSQL gives the primary key of a table.
func keyName(l *sqlsink.Layout) string { return (*dialect)(nil).Name(l.Real.Name + "_pkey") }

// swapQuery tells whether the table of the first oid can be dropped for the one of the
// second without any loss: nothing hangs on it but its primary key and what the system
// keeps for every table, both have the same owner and grants, and no other relation has
// the name of the key, which is the third argument.
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

// Place puts the staged rows in place: by taking the live table's name if nothing
// hangs on that table; else by replacing its rows. If something may react to how rows
// come and go, or only some rows are replaced, it touches only those that differ in key,
// and locks the table against another load that does the same.
func (tx *transaction) Place(_ context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	st, sh := tx.shape(stage), tx.shape(live)
	if !sh.swaps(mode) {
		tx.calls.TakeTime()
	}
	texts := placeTexts(st, sh, mode)
	switch {
	case sh.swaps(mode): // readers wait for the end of the transaction
		texts[0] = tx.lockWait(sqlsink.ShortLockWait) + texts[0]
	case sh.truncates(mode): // later locks keep no reader out who is not kept out anyway
		texts[0] = tx.lockWait(sqlsink.ShortLockWait) + texts[0]
		texts[1] = tx.lockWait(tx.dialect.timeouts.Lock) + texts[1]
	}
	for _, statement := range texts {
		tx.flight.simple(statement, "put rows into "+sh.label, sh)
	}
	return nil
}

// swaps reports whether Place has a staging table take the live one's name.
func (sh *shape) swaps(mode sink.LoadMode) bool {
	return sh.swap && mode != sink.Merge && sh.layout.Scope == nil
}

// truncates reports whether Place empties the live table and fills it.
func (sh *shape) truncates(mode sink.LoadMode) bool {
	return mode != sink.Merge && sh.layout.Scope == nil && !sh.swap && sh.layout.Real.Native.(*relation).plain && len(sh.columns) == len(sh.layout.Real.Columns)
}

func placeTexts(st, sh *shape, mode sink.LoadMode) []string {
	src := sh.staged(st.table)
	drop := "DROP TABLE " + st.table
	names := strings.Join(sh.names(0), ", ")
	switch {
	case mode == sink.Merge:
		return append(sh.upsert(src), drop)
	case sh.swaps(mode):
		return []string{
			"DROP TABLE " + sh.table,
			"ALTER TABLE " + st.table + " RENAME TO " + quote(sh.layout.Real.Name),
			"ALTER TABLE " + sh.table + " RENAME CONSTRAINT " + quote(sealedName(st.layout)) + " TO " + quote(keyName(sh.layout)),
		}
	case sh.truncates(mode):
		return []string{
			"TRUNCATE " + sh.table,
			fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", sh.table, names, strings.Join(src.expressions, ", "), src.from),
			drop,
		}
	}
	var texts []string
	// Only tables can be locked, and they have keys. CockroachDB needs no lock: its
	// transactions are serializable.
	if len(sh.layout.Real.Key) > 0 && !sh.server.can.Cockroach {
		texts = append(texts, "LOCK TABLE "+sh.table+" IN SHARE ROW EXCLUSIVE MODE")
	}
	missing := fmt.Sprintf("NOT EXISTS (SELECT FROM %s WHERE %s)", src.from, sh.matches(src))
	texts = append(texts, "DELETE FROM "+sh.table+" AS t WHERE "+strings.Join(append(sh.inScope(), missing), " AND "))
	return append(append(texts, sh.upsertAnyway(src)...), drop)
}

// upsertAnyway is upsert without the guard: a snapshot that replaces a table
// replaces newer rows too.
func (sh *shape) upsertAnyway(src source) []string {
	unguarded := *sh
	layout := *sh.layout
	layout.Guard = false
	unguarded.layout = &layout
	return unguarded.upsert(src)
}

// Drop drops a staging table.
func (tx *transaction) Drop(_ context.Context, table string) error {
	tx.flight.simple("DROP TABLE IF EXISTS "+tx.qualify(table), fmt.Sprintf("drop table %q", table), nil)
	return nil
}
