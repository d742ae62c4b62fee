package sqlite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func relationOf(l *sqlsink.Layout) *relation { return l.Real.Native.(*relation) }

// The constant here is the alias of the real table. The alias qualifies columns, so that a column
// that does not exist is an error. SQLite treats an unqualified name in double quotes as a string
// if no such column exists.
const here = `"_here"`

// The constant there is the alias of a stage.
const there = `"_there"`

// names returns the quoted names of the columns with the given indexes.
func names(l *sqlsink.Layout, columns []int) []string {
	list := make([]string, len(columns))
	for k, i := range columns {
		list[k] = quote(l.Columns[i].Real.Name)
	}
	return list
}

// keyNames returns the quoted names of the key columns.
func keyNames(l *sqlsink.Layout) []string { return names(l, l.All()[:l.Keys]) }

// parameters returns a list of n parameters in parentheses: (?, ?, ...).
func parameters(n int) string { return "(" + strings.Repeat("?, ", n-1) + "?)" }

// upsertSQL returns the statement that inserts rows from source, which is a VALUES clause or a
// SELECT statement. If the key of a row exists, the statement updates the other columns.
func upsertSQL(l *sqlsink.Layout, source string) string {
	if len(l.Columns) == l.Keys {
		return insertSQL(l, source)
	}
	text := onConflict(l, source) + "UPDATE SET " + assignments(l, "excluded.")
	if l.Guard {
		text += "\nWHERE " + guard(l, "excluded."+version(l))
	}
	return text
}

// insertSQL returns the statement that inserts the rows from source whose keys do not exist.
func insertSQL(l *sqlsink.Layout, source string) string { return onConflict(l, source) + "NOTHING" }

func onConflict(l *sqlsink.Layout, source string) string {
	columns := names(l, l.All())
	return fmt.Sprintf("INSERT INTO %s AS %s (%s)\n%s\nON CONFLICT (%s) DO ",
		quote(l.Real.Name), here, strings.Join(columns, ", "), source, strings.Join(columns[:l.Keys], ", "))
}

// assignments returns the assignments to all columns that are not part of the key. Each column gets
// the value of the column of the same name in the relation that the parameter prefix names, such as
// "excluded.".
func assignments(l *sqlsink.Layout, prefix string) string {
	sets := names(l, l.All()[l.Keys:])
	for i, c := range sets {
		sets[i] = c + " = " + prefix + c
	}
	return strings.Join(sets, ", ")
}

// version returns the quoted name of the column for the row's version.
func version(l *sqlsink.Layout) string {
	return quote(l.Columns[l.Meta(sqlsink.MetaVersion)].Real.Name)
}

// guard returns the condition that the existing row is not newer than a given version. The
// parameter newer is the SQL expression for that version.
func guard(l *sqlsink.Layout, newer string) string {
	c := here + "." + version(l)
	return fmt.Sprintf("(%s IS NULL OR %s <= %s)", c, c, newer)
}

// sameKey returns the condition that the existing row has a given key. The key comes from the
// columns with the prefix or, if the prefix is "", from parameters. The condition compares byte by
// byte, even if a column has another collation.
func sameKey(l *sqlsink.Layout, prefix string) string {
	terms := keyNames(l)
	for i, c := range terms {
		other := "?"
		if prefix != "" {
			other = prefix + c
		}
		terms[i] = fmt.Sprintf("%s.%s = %s COLLATE BINARY", here, c, other)
	}
	return strings.Join(terms, " AND ")
}

// update returns the command that updates the existing row with the same key as the new row.
func update(l *sqlsink.Layout) boundStatement {
	sets := names(l, l.All())
	for i := range sets {
		sets[i] += " = ?"
	}
	sql := fmt.Sprintf("UPDATE %s AS %s SET %s\nWHERE %s", quote(l.Real.Name), here, strings.Join(sets, ", "), sameKey(l, ""))
	return boundStatement{sql, slices.Concat(l.All(), l.All()[:l.Keys])}.guarded(l)
}

// insertion returns the command that inserts a row, unless a row with the same key exists.
func insertion(l *sqlsink.Layout) boundStatement {
	values := strings.Trim(parameters(len(l.Columns)), "()")
	sql := fmt.Sprintf("INSERT INTO %s (%s)\nSELECT %s\nWHERE NOT EXISTS (SELECT 1 FROM %s AS %s WHERE %s)",
		quote(l.Real.Name), strings.Join(names(l, l.All()), ", "), values, quote(l.Real.Name), here, sameKey(l, ""))
	return boundStatement{sql, slices.Concat(l.All(), l.All()[:l.Keys])}
}

// removal returns the command that deletes the row with a given key or, if the layout is soft,
// marks that row as deleted.
func removal(l *sqlsink.Layout) boundStatement {
	table := fmt.Sprintf("%s AS %s", quote(l.Real.Name), here)
	c := boundStatement{sql: "DELETE FROM " + table}
	if l.Soft {
		c.columns = l.DeleteExtras()
		sets := names(l, c.columns)
		for i := range sets {
			sets[i] += " = ?"
		}
		c.sql = fmt.Sprintf("UPDATE %s SET %s", table, strings.Join(sets, ", "))
	}
	c.sql += "\nWHERE " + sameKey(l, "")
	c.columns = append(c.columns, l.All()[:l.Keys]...)
	return c.guarded(l)
}

// guarded returns the command with the layout's guard, if there is one, added to the
// condition. The command must end with its condition.
func (c boundStatement) guarded(l *sqlsink.Layout) boundStatement {
	if l.Guard {
		c.sql += " AND " + guard(l, "?")
		c.columns = append(c.columns, l.Meta(sqlsink.MetaVersion))
	}
	return c
}

// pruneSQL returns the statement that deletes the rows in the layout's scope whose keys are not in
// the stage.
func pruneSQL(l *sqlsink.Layout, stage string) string {
	staged := fmt.Sprintf("SELECT 1 FROM %s AS %s WHERE %s", quote(stage), there, sameKey(l, there+"."))
	terms := append(inScope(l), "NOT EXISTS ("+staged+")")
	return fmt.Sprintf("DELETE FROM %s AS %s\nWHERE %s", quote(l.Real.Name), here, strings.Join(terms, " AND "))
}

// countSQL returns the query that counts the rows in the layout's scope.
func countSQL(l *sqlsink.Layout) string {
	text := fmt.Sprintf("SELECT count(*) FROM %s AS %s", quote(l.Real.Name), here)
	if terms := inScope(l); len(terms) > 0 {
		text += "\nWHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions under which a row is in the layout's scope. All conditions must
// hold.
func inScope(l *sqlsink.Layout) []string {
	return l.ScopeTerms(func(name string) string {
		return "CAST(" + here + "." + quote(name) + " AS TEXT) COLLATE BINARY"
	}, literal)
}

// mergeSQL returns the statements that upsert the rows of a stage into the layout's table. The
// stage must have one row per key.
func mergeSQL(l *sqlsink.Layout, stage string) []string {
	columns := strings.Join(names(l, l.All()), ", ")
	if relationOf(l).unique(l.KeyNames()) {
		return []string{upsertSQL(l, fmt.Sprintf("SELECT %s FROM %s WHERE true", columns, quote(stage)))}
	}
	from, same := fmt.Sprintf("%s AS %s", quote(stage), there), sameKey(l, there+".")
	var statements []string
	if len(l.Columns) > l.Keys {
		update := fmt.Sprintf("UPDATE %s AS %s SET %s\nFROM %s\nWHERE %s",
			quote(l.Real.Name), here, assignments(l, there+"."), from, same)
		if l.Guard {
			update += " AND " + guard(l, there+"."+version(l))
		}
		statements = append(statements, update)
	}
	return append(statements, fmt.Sprintf("INSERT INTO %s (%s)\nSELECT %s FROM %s\nWHERE NOT EXISTS (SELECT 1 FROM %s AS %s WHERE %s)",
		quote(l.Real.Name), columns, columns, from, quote(l.Real.Name), here, same))
}

// checkpointSQL returns the statement that moves a checkpoint from its old position to c. The
// statement's parameters are, in this order: the new position (sequence and stored time); the seen
// time, if c has an epoch; the stream, consumer and filter; the old position, unless c is new; and
// the epoch and generation, if c has an epoch.
func checkpointSQL(l *sqlsink.Layout, c *sqlsink.Checkpoint, from cdc.Position) string {
	const unmoved = ` WHERE "stream" = ? AND "consumer" = ? AND "filter" = ? AND "position" = ? AND "stored" = ?`
	table := quote(l.Real.Name)
	switch {
	case c.New(from):
		return "INSERT INTO " + table + ` ("position", "stored", "stream", "consumer", "filter") VALUES (?, ?, ?, ?, ?)` +
			" ON CONFLICT DO NOTHING"
	case c.Epoch > 0:
		return "UPDATE " + table + ` SET "position" = ?, "stored" = ?, "seen" = ?` + unmoved +
			` AND "epoch" = ? AND coalesce("generation", 0) = ?`
	}
	return "UPDATE " + table + ` SET "position" = ?, "stored" = ?` + unmoved
}
