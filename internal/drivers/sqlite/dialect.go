package sqlite

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Name returns name with what SQLite reserves or can not write in a statement
// changed.
func (d *dialect) Name(name string) string {
	if strings.Contains(name, "\x00") {
		// U+0000 ends a statement. Underscores stay apart from what replaces it.
		name = strings.ReplaceAll(strings.ReplaceAll(name, "_", "__"), "\x00", "_0")
	}
	if len(name) >= len(reserved) && strings.EqualFold(name[:len(reserved)], reserved) {
		name = "_" + name
	}
	return name
}

// reserved begins the names that SQLite keeps for itself.
const reserved = "sqlite_"

// FoldsCase is true: SQLite compares names without regard to the case of ASCII letters.
func (d *dialect) FoldsCase() bool { return true }

// sameName reports whether SQLite takes a and b for one name.
func sameName(a, b string) bool {
	lower := func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return len(a) == len(b) && strings.Map(lower, a) == strings.Map(lower, b)
}

// quote returns name as an identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal returns text as a string constant.
func literal(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }

// declared returns the type that a column of t is declared with. Text must have
// TEXT affinity, so that it stays what it is where it looks like a number.
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

// DDL returns the statements that carry out step.
func (d *dialect) DDL(step sqlsink.Step) []string {
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

// createTable declares the key as a constraint of the table, which makes a single
// INTEGER column the rowid itself.
func createTable(step sqlsink.Step) string {
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

// widen declares the column with another type. SQLite has no statement for that,
// so the table's own definition is edited, which its documentation describes
// under "Making Other Kinds Of Table Schema Changes". The empty table is made and
// dropped so that every connection, this one included, reads the schema anew.
// Indexes are then made anew, because they compare by the column's type, and the
// numbers that the column holds become text.
func widen(step sqlsink.Step) []string {
	to := declared(step.To)
	c := step.Real.Native.(*column)
	switch {
	case c.key: // its values decide where rows and their index entries stand
		return nil
	case step.To == schema.Number && c.strict: // REAL would round the integers that are there
		to = "ANY"
	case step.To == schema.Number || affinityOf(c.declared) == affinityOf(to):
		return nil // every affinity but TEXT keeps numbers
	}
	table, name := quote(step.Table), quote(step.Real.Name)
	statements := []string{
		"PRAGMA writable_schema=ON",
		fmt.Sprintf("UPDATE sqlite_schema SET sql = eds_retype(sql, %s, %s) WHERE type = 'table' AND name = %s COLLATE NOCASE", literal(step.Real.Name), literal(to), literal(step.Table)),
		"CREATE TABLE \"_eds_widen\" (x)",
		"DROP TABLE \"_eds_widen\"",
		"PRAGMA writable_schema=RESET",
	}
	if affinityOf(to) == asText {
		statements = append(statements,
			"REINDEX "+table,
			// Seventeen digits are enough for every REAL.
			fmt.Sprintf("UPDATE %s SET %s = CASE typeof(%s) WHEN 'integer' THEN CAST(%s AS TEXT) ELSE eds_shortest(printf('%%!.17g', %s)) END WHERE typeof(%s) IN ('integer', 'real')", table, name, name, name, name, name))
	}
	return statements
}
