package sqlite

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Name returns name unchanged, unless SQLite reserves the name or a statement cannot contain it.
// Name changes such a name, and keeps distinct names distinct.
func (d *dialect) Name(name string) string {
	if strings.Contains(name, "\x00") {
		// U+0000 would end the statement. Doubling underscores keeps distinct names distinct.
		name = strings.ReplaceAll(strings.ReplaceAll(name, "_", "__"), "\x00", "_0")
	}
	if len(name) >= len(reserved) && strings.EqualFold(name[:len(reserved)], reserved) {
		name = "_" + name
	}
	return name
}

// The constant reserved is the prefix of SQLite's own names.
const reserved = "sqlite_"

// FoldsCase returns true, because SQLite ignores the case of ASCII letters in names.
func (d *dialect) FoldsCase() bool { return true }

// sameName reports whether SQLite treats a and b as the same name. It ignores the case of ASCII
// letters.
func sameName(a, b string) bool {
	lower := func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return len(a) == len(b) && strings.Map(lower, a) == strings.Map(lower, b)
}

// quote returns name as a quoted identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal returns text as a string constant.
func literal(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }

// declared returns the declared type of a new column for values of type t. Text needs
// the affinity TEXT, because most other affinities convert text that looks like a number.
func declared(t schema.Type) string {
	switch t {
	case schema.Integer, schema.Boolean:
		return "INTEGER"
	case schema.Number:
		return "REAL"
	default:
		return "TEXT"
	}
}

// DDL returns the statements of a migration step. It returns nil if the step is not possible or
// needs no change.
func (d *dialect) DDL(step sqlsink.MigrationStep) []string {
	switch step.Kind {
	case sqlsink.CreateTable:
		return []string{createTable(step)}
	case sqlsink.AddColumn:
		c := step.Columns[0]
		return []string{fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", quote(step.Table), quote(c.Name), declared(c.Type))}
	case sqlsink.RelaxColumn:
		return []string{fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL", quote(step.Table), quote(step.Real.Name))}
	case sqlsink.WidenColumn:
		return widen(step)
	}
	return nil
}

// createTable returns the CREATE TABLE statement of step. The statement declares the key as a table
// constraint. If the key is a single INTEGER column, the column becomes the rowid.
func createTable(step sqlsink.MigrationStep) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (\n", quote(step.Table))
	keys := make([]string, step.Keys)
	for i, c := range step.Columns {
		fmt.Fprintf(&b, "  %s %s", quote(c.Name), declared(c.Type))
		if i < step.Keys {
			b.WriteString(" NOT NULL")
			keys[i] = quote(c.Name)
		}
		b.WriteString(",\n")
	}
	fmt.Fprintf(&b, "  PRIMARY KEY (%s)\n)", strings.Join(keys, ", "))
	return b.String()
}

// widen returns the statements that change the declared type of the column. SQLite has no single
// statement for this change, so the statements edit the table's definition in the schema, as
// https://sqlite.org/lang_altertable.html describes under "Making Other Kinds Of Table Schema
// Changes". They also create and drop an empty table, which makes every connection read the schema
// again. If the column becomes TEXT, they rebuild the indexes, whose order depends on the column's
// type, and convert existing numbers to text.
func widen(step sqlsink.MigrationStep) []string {
	to := declared(step.To)
	c := step.Real.Native.(*attribute)
	switch {
	case c.key: // the order of rows and index entries depends on the key's values
		return nil
	case step.To == schema.Number && c.strict: // REAL would round existing integers
		to = "ANY"
	case step.To == schema.Number || affinityOf(c.declared) == affinityOf(to):
		return nil // every affinity except TEXT keeps numbers
	}
	table, name := quote(step.Table), quote(step.Real.Name)
	statements := []string{
		"PRAGMA writable_schema=ON",
		fmt.Sprintf("UPDATE sqlite_schema SET sql = eds_retype(sql, %s, %s) WHERE type = 'table' AND name = %s COLLATE NOCASE",
			literal(step.Real.Name), literal(to), literal(step.Table)),
		"CREATE TABLE \"_eds_widen\" (x)",
		"DROP TABLE \"_eds_widen\"",
		"PRAGMA writable_schema=RESET",
	}
	if affinityOf(to) == asText {
		statements = append(statements,
			"REINDEX "+table,
			// Seventeen digits are enough for every REAL.
			fmt.Sprintf("UPDATE %s SET %[2]s = CASE typeof(%[2]s) WHEN 'integer' THEN CAST(%[2]s AS TEXT)"+
				" ELSE eds_shortest(printf('%%!.17g', %[2]s)) END WHERE typeof(%[2]s) IN ('integer', 'real')", table, name))
	}
	return statements
}
