package snowflake

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// shape is how the rows of a layout travel and which statements write them. It
// hangs on the layout.
type shape struct {
	layout  *sqlsink.Layout
	table   string // quoted
	label   string // for messages
	columns []column
	members []string // `,"c3":` of each column
	merges  map[filter]string
}

// Rows travel as JSON objects: what to do in "o", values by the index of their
// column, "n" the number of a staged row. NULLs are left out. In statements a
// row is r, whether it comes from a file or from a parameter.
const (
	opMember  = `{"o":`
	rowMember = `,"n":`
	rowColumn = "_eds_row"
)

// What is to be done with a row.
const (
	opUpsert = "u"
	opDelete = "d"
)

// filter says which rows a MERGE is about: all, or those of one operation.
type filter string

const everyRow filter = ""

// shape returns the layout's shape.
func (s *session) shape(l *sqlsink.Layout) *shape {
	if sh, ok := l.Native.(*shape); ok {
		return sh
	}
	sh := &shape{layout: l, table: s.dialect.table(l.Real.Name), label: fmt.Sprintf("table %q", l.Real.Name), merges: make(map[filter]string)}
	for i := range l.Columns {
		sh.columns = append(sh.columns, newColumn(l, &l.Columns[i], s.dialect.env.Adjusted))
		sh.members = append(sh.members, fmt.Sprintf(`,"c%d":`, i))
	}
	l.Native = sh
	return sh
}

// value returns the expression for a column's value of the row that expression
// row stands for.
func (sh *shape) value(i int, row string) string {
	c := &sh.columns[i]
	path := fmt.Sprintf("%s:c%d", row, i)
	text := path + "::VARCHAR"
	switch c.kind {
	case kindText:
		return text
	case kindBool:
		return text + "::BOOLEAN"
	case kindFloat:
		return text + "::FLOAT"
	case kindTZ:
		return "TO_TIMESTAMP_TZ(" + text + ", 'YYYY-MM-DD\"T\"HH24:MI:SS.FF6TZH:TZM')"
	case kindLTZ:
		return "TO_TIMESTAMP_LTZ(" + text + ", 'YYYY-MM-DD\"T\"HH24:MI:SS.FF6TZH:TZM')"
	case kindNTZ:
		return "TO_TIMESTAMP_NTZ(" + text + ", 'YYYY-MM-DD\"T\"HH24:MI:SS.FF6')"
	case kindDate:
		return "TO_DATE(" + text + ", 'YYYY-MM-DD')"
	case kindVariant:
		return path
	case kindObject, kindArray:
		return path + "::" + c.Type
	default:
		return text + "::" + c.Type
	}
}

// name returns the quoted name of a column.
func (sh *shape) name(i int) string { return quote(sh.layout.Columns[i].Real.Name) }

func (sh *shape) names() string {
	names := make([]string, len(sh.columns))
	for i := range names {
		names[i] = sh.name(i)
	}
	return strings.Join(names, ", ")
}

// version returns the index of the version's column.
func (sh *shape) version() int { return sh.meta(sqlsink.MetaVersion) }

func (sh *shape) meta(m sqlsink.Meta) int {
	for i, t := range sh.layout.Columns {
		if t.Meta == m {
			return i
		}
	}
	return -1
}

// Where rows come from: files of the stage, or the parameter.
const (
	fromStage     = `(SELECT $1 AS r FROM @"` + stageName + `"/%s)`
	fromParameter = `(SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))`
)

// merge returns the statement that writes rows of from, a place with the column
// r, to the table: it deletes and upserts, each key once.
func (sh *shape) merge(from string, only filter) string {
	text, ok := sh.merges[only]
	if !ok {
		var source strings.Builder
		source.WriteString(`SELECT r:o::VARCHAR AS "o"`)
		for i := range sh.columns {
			fmt.Fprintf(&source, `, %s AS "c%d"`, sh.value(i, "r"), i)
		}
		where := ""
		if only != everyRow {
			where = fmt.Sprintf(" WHERE r:o::VARCHAR = '%s'", only)
		}
		text = fmt.Sprintf("MERGE INTO %s AS t USING (\n%s FROM %%s%s\n) AS s ON %s\n%s", escaped(sh.table), escaped(source.String()), where, escaped(sh.match("c")), escaped(sh.clauses()))
		sh.merges[only] = text
	}
	return fmt.Sprintf(text, from)
}

// escaped returns text that is to stand in a format.
func escaped(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// match compares the keys of t and s, whose columns are called prefix and their
// index.
func (sh *shape) match(prefix string) string {
	var terms []string
	for i := range sh.layout.Keys {
		terms = append(terms, fmt.Sprintf(`t.%s = s."%s%d"`, sh.name(i), prefix, i))
	}
	return strings.Join(terms, " AND ")
}

// clauses says what becomes of the rows of s.
func (sh *shape) clauses() string {
	guard := ""
	if sh.layout.Guard {
		v := sh.version()
		guard = fmt.Sprintf(` AND (t.%s IS NULL OR t.%[1]s <= s."c%d")`, sh.name(v), v)
	}
	remove := "DELETE"
	var set, marks, values []string
	for i, t := range sh.layout.Columns {
		assign := fmt.Sprintf(`%s = s."c%d"`, sh.name(i), i)
		if i >= sh.layout.Keys {
			set = append(set, assign)
		}
		if t.Meta != 0 {
			marks = append(marks, assign)
		}
		values = append(values, fmt.Sprintf(`s."c%d"`, i))
	}
	if sh.layout.Soft {
		remove = "UPDATE SET " + strings.Join(marks, ", ")
	}
	if set == nil { // nothing but the key
		set = append(set, sh.name(0)+` = s."c0"`)
	}
	return fmt.Sprintf(`WHEN MATCHED AND s."o" = '%s'%s THEN %s
WHEN MATCHED AND s."o" = '%s'%[2]s THEN UPDATE SET %[5]s
WHEN NOT MATCHED AND s."o" = '%[4]s' THEN INSERT (%[6]s) VALUES (%[7]s)`,
		opDelete, guard, remove, opUpsert, strings.Join(set, ", "), sh.names(), strings.Join(values, ", "))
}

// copyInto returns the statement that appends a file to a staging table.
func (sh *shape) copyInto(file string) string {
	values := make([]string, len(sh.columns))
	for i := range values {
		values[i] = sh.value(i, "$1")
	}
	return fmt.Sprintf("COPY INTO %s (%s, %s) FROM (\nSELECT %s, $1:n::NUMBER(38,0) FROM @%s/%s\n) ON_ERROR = ABORT_STATEMENT",
		sh.table, sh.names(), quote(rowColumn), strings.Join(values, ", "), quote(stageName), file)
}

// makeStage returns the statement that makes a staging table for the layout.
func (sh *shape) makeStage(table string) string {
	var columns []string
	for _, t := range sh.layout.Columns {
		columns = append(columns, "\t"+quote(t.Real.Name)+" "+t.Real.Type)
	}
	columns = append(columns, "\t"+quote(rowColumn)+" NUMBER(38,0)")
	return "CREATE OR REPLACE TRANSIENT TABLE " + table + " (\n" + strings.Join(columns, ",\n") + "\n)"
}

// keyNames returns the names of the key's columns.
func (sh *shape) keyNames() string {
	keys := make([]string, sh.layout.Keys)
	for i := range keys {
		keys[i] = sh.name(i)
	}
	return strings.Join(keys, ", ")
}

// duplicates counts the rows of a staging table that deduplicate removes.
func (st *shape) duplicates() string {
	return fmt.Sprintf("SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM %s GROUP BY %s HAVING COUNT(*) > 1)", st.table, st.keyNames())
}

// deduplicate keeps the row of each key that was staged last.
func (st *shape) deduplicate() string {
	row := quote(rowColumn)
	return fmt.Sprintf("DELETE FROM %s AS t USING (SELECT %s, MAX(%s) AS %[3]s FROM %[1]s GROUP BY %[2]s HAVING COUNT(*) > 1) AS s WHERE %[4]s AND t.%[3]s < s.%[3]s",
		st.table, st.keyNames(), row, st.matchNames())
}

// covers reports whether the layout writes every column of the real table, so
// that nothing of a row is lost with it.
func (sh *shape) covers() bool {
	written := make(map[string]bool, len(sh.layout.Columns))
	for _, t := range sh.layout.Columns {
		written[t.Real.Name] = true
	}
	for _, c := range sh.layout.Real.Columns {
		if !written[c.Name] && !c.Generated {
			return false
		}
	}
	return true
}

// replace returns the statements that make the staged rows the table's. Grants,
// views, streams and whatever else hangs on the table mean the table, which stays.
func (sh *shape) replace(st *shape) []string {
	if !sh.covers() || sh.layout.Scope != nil { // other rows, and columns of others, stay
		terms := append(sh.inScope(), fmt.Sprintf("NOT EXISTS (SELECT 1 FROM %s AS s WHERE %s)", st.table, sh.matchNames()))
		return []string{"DELETE FROM " + sh.table + " AS t WHERE " + strings.Join(terms, " AND "), sh.mergeStage(st, false)}
	}
	return []string{
		"DELETE FROM " + sh.table,
		fmt.Sprintf("INSERT INTO %s (%s)\nSELECT %s FROM %s", sh.table, sh.names(), st.names(), st.table),
	}
}

// countRows counts the rows in the layout's scope.
func (sh *shape) countRows() string {
	text := "SELECT TO_VARCHAR(COUNT(*)) FROM " + sh.table
	if terms := sh.inScope(); len(terms) > 0 {
		text += " AS t WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions that a row of t is in the layout's scope.
func (sh *shape) inScope() []string {
	var terms []string
	for _, w := range sh.layout.Scope {
		values := make([]string, len(w.Values))
		for i, v := range w.Values {
			values[i] = literal(v)
		}
		terms = append(terms, fmt.Sprintf("t.%s::VARCHAR IN (%s)", quote(w.Column.Name), strings.Join(values, ", ")))
	}
	return terms
}

func (sh *shape) matchNames() string {
	var terms []string
	for i := range sh.layout.Keys {
		terms = append(terms, fmt.Sprintf("t.%s = s.%[1]s", sh.name(i)))
	}
	return strings.Join(terms, " AND ")
}

// mergeStage returns the statement that upserts the staged rows.
func (sh *shape) mergeStage(st *shape, guarded bool) string {
	var set, values []string
	for i := range sh.columns {
		if i >= sh.layout.Keys {
			set = append(set, fmt.Sprintf("%s = s.%s", sh.name(i), st.name(i)))
		}
		values = append(values, "s."+st.name(i))
	}
	if set == nil {
		set = append(set, fmt.Sprintf("%s = s.%s", sh.name(0), st.name(0)))
	}
	guard := ""
	if guarded && sh.layout.Guard {
		guard = fmt.Sprintf(" AND (t.%s IS NULL OR t.%[1]s <= s.%[1]s)", sh.name(sh.version()))
	}
	return fmt.Sprintf("MERGE INTO %s AS t USING %s AS s ON %s\nWHEN MATCHED%s THEN UPDATE SET %s\nWHEN NOT MATCHED THEN INSERT (%s) VALUES (%s)",
		sh.table, st.table, sh.matchNames(), guard, strings.Join(set, ", "), sh.names(), strings.Join(values, ", "))
}
