package snowflake

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// tableStatements has the encoders of all columns and the statements for one layout.
type tableStatements struct {
	layout  *sqlsink.Layout
	table   string // quoted name
	label   string // the table's description in messages
	columns []columnEncoder
	members []string                   // the JSON member name of each column, such as `,"c3":`
	merges  map[operationFilter]string // the format strings that merge has built
}

// Parts of a row. eds sends each row as a JSON object, whose member "o" is the operation. The
// members "c0", "c1" and so on are the values of the layout's columns, without NULLs. For a staged
// row, the member "n" is the row's number in the staging table, which the column rowColumn keeps.
const (
	opMember  = `{"o":`
	rowMember = `,"n":`
	rowColumn = "_eds_row"
)

// Operations of a row.
const (
	opUpsert = "u"
	opDelete = "d"
)

// operationFilter selects the rows that a MERGE reads: the rows of one operation, or all rows.
type operationFilter string

// allRows selects the rows of all operations.
const allRows operationFilter = ""

// tableStatements returns the statements for layout l. It builds the statements on first use and
// keeps them in l.Native.
func (s *sqlSession) tableStatements(l *sqlsink.Layout) *tableStatements {
	if ts, ok := l.Native.(*tableStatements); ok {
		return ts
	}
	ts := &tableStatements{
		layout: l, table: s.dialect.table(l.Real.Name), label: fmt.Sprintf("table %q", l.Real.Name),
		merges: make(map[operationFilter]string),
	}
	for i := range l.Columns {
		ts.columns = append(ts.columns, newColumnEncoder(l, &l.Columns[i], s.dialect.env.Adjusted))
		ts.members = append(ts.members, fmt.Sprintf(`,"c%d":`, i))
	}
	l.Native = ts
	return ts
}

// value returns the SQL expression for the value of column i in a row, converted to the column's
// type. The parameter row is the SQL expression for the row's JSON object.
func (ts *tableStatements) value(i int, row string) string {
	c := &ts.columns[i]
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

func (ts *tableStatements) name(i int) string { return quote(ts.layout.Columns[i].Real.Name) }

func (ts *tableStatements) names() string {
	names := make([]string, len(ts.columns))
	for i := range names {
		names[i] = ts.name(i)
	}
	return strings.Join(names, ", ")
}

// Sources of rows: a file of the stage, whose name replaces %s, or the statement's parameter. Both
// are relations with the column r, which is the JSON object of a row.
const (
	fromStage     = `(SELECT $1 AS r FROM @"` + stageName + `"/%s)`
	fromParameter = `(SELECT VALUE AS r FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?, 'd'))))`
)

// merge returns the statement that deletes and upserts the rows of a relation. The parameter from
// is the SQL text of the relation, which has the column r. The parameter only is the filter that
// selects the rows to read. Each key must occur once among the selected rows.
func (ts *tableStatements) merge(from string, only operationFilter) string {
	text, ok := ts.merges[only]
	if !ok {
		var source strings.Builder
		source.WriteString(`SELECT r:o::VARCHAR AS "o"`)
		for i := range ts.columns {
			fmt.Fprintf(&source, `, %s AS "c%d"`, ts.value(i, "r"), i)
		}
		where := ""
		if only != allRows {
			where = fmt.Sprintf(" WHERE r:o::VARCHAR = '%s'", only)
		}
		text = fmt.Sprintf("MERGE INTO %s AS t USING (\n%s FROM %%s%s\n) AS s ON %s\n%s",
			escaped(ts.table), escaped(source.String()), where, escaped(ts.match("c")), escaped(ts.mergeClauses()))
		ts.merges[only] = text
	}
	return fmt.Sprintf(text, from)
}

// escaped returns text with each % doubled, for use in a format string.
func escaped(text string) string { return strings.ReplaceAll(text, "%", "%%") }

// match returns the condition that the keys of t and s are equal. The name of a column of s is the
// prefix followed by the column's index.
func (ts *tableStatements) match(prefix string) string {
	var terms []string
	for i := range ts.layout.Keys {
		terms = append(terms, fmt.Sprintf(`t.%s = s."%s%d"`, ts.name(i), prefix, i))
	}
	return strings.Join(terms, " AND ")
}

// mergeClauses returns the WHEN clauses of a MERGE, which delete or upsert the rows of s.
func (ts *tableStatements) mergeClauses() string {
	guard := ""
	if ts.layout.Guard {
		v := ts.layout.Meta(sqlsink.MetaVersion)
		guard = fmt.Sprintf(` AND (t.%s IS NULL OR t.%[1]s <= s."c%d")`, ts.name(v), v)
	}
	remove := "DELETE"
	var set, marks, values []string
	for i, t := range ts.layout.Columns {
		assign := fmt.Sprintf(`%s = s."c%d"`, ts.name(i), i)
		if i >= ts.layout.Keys {
			set = append(set, assign)
		}
		if t.Meta != 0 {
			marks = append(marks, assign)
		}
		values = append(values, fmt.Sprintf(`s."c%d"`, i))
	}
	if ts.layout.Soft {
		remove = "UPDATE SET " + strings.Join(marks, ", ")
	}
	if set == nil { // all columns belong to the key
		set = append(set, ts.name(0)+` = s."c0"`)
	}
	return fmt.Sprintf(`WHEN MATCHED AND s."o" = '%s'%s THEN %s
WHEN MATCHED AND s."o" = '%s'%[2]s THEN UPDATE SET %[5]s
WHEN NOT MATCHED AND s."o" = '%[4]s' THEN INSERT (%[6]s) VALUES (%[7]s)`,
		opDelete, guard, remove, opUpsert, strings.Join(set, ", "), ts.names(), strings.Join(values, ", "))
}

// copyInto returns the statement that appends the rows of a file of the stage to a staging table.
func (ts *tableStatements) copyInto(file string) string {
	values := make([]string, len(ts.columns))
	for i := range values {
		values[i] = ts.value(i, "$1")
	}
	return fmt.Sprintf("COPY INTO %s (%s, %s) FROM (\nSELECT %s, $1:n::NUMBER(38,0) FROM @%s/%s\n) ON_ERROR = ABORT_STATEMENT",
		ts.table, ts.names(), quote(rowColumn), strings.Join(values, ", "), quote(stageName), file)
}

// createStage returns the statement that creates a staging table for the layout. The parameter
// table is the quoted name of the staging table.
func (ts *tableStatements) createStage(table string) string {
	var columns []string
	for _, t := range ts.layout.Columns {
		columns = append(columns, "\t"+quote(t.Real.Name)+" "+t.Real.Type)
	}
	columns = append(columns, "\t"+quote(rowColumn)+" NUMBER(38,0)")
	return "CREATE OR REPLACE TRANSIENT TABLE " + table + " (\n" + strings.Join(columns, ",\n") + "\n)"
}

func (ts *tableStatements) keyNames() string {
	keys := make([]string, ts.layout.Keys)
	for i := range keys {
		keys[i] = ts.name(i)
	}
	return strings.Join(keys, ", ")
}

// duplicates returns the query that counts the rows that the statement of deduplicate removes.
func (ts *tableStatements) duplicates() string {
	return fmt.Sprintf("SELECT TO_VARCHAR(COALESCE(SUM(n - 1), 0)) FROM (SELECT COUNT(*) AS n FROM %s GROUP BY %s HAVING COUNT(*) > 1)",
		ts.table, ts.keyNames())
}

// deduplicate returns the statement that removes all rows of a staging table except the last loaded
// row of each key.
func (ts *tableStatements) deduplicate() string {
	row := quote(rowColumn)
	return fmt.Sprintf("DELETE FROM %s AS t USING (SELECT %s, MAX(%s) AS %[3]s FROM %[1]s GROUP BY %[2]s HAVING COUNT(*) > 1) AS s "+
		"WHERE %[4]s AND t.%[3]s < s.%[3]s",
		ts.table, ts.keyNames(), row, ts.matchNames())
}

// replace returns the statements that replace the table's rows in the layout's scope with the
// staged rows. They keep the table itself, with its grants and the objects that depend on it, such
// as views and streams.
func (ts *tableStatements) replace(staging *tableStatements) []string {
	if !ts.layout.Covers(ts.layout.Real) || ts.layout.Scope != nil { // keep other columns and rows
		terms := append(ts.inScope(), fmt.Sprintf("NOT EXISTS (SELECT 1 FROM %s AS s WHERE %s)", staging.table, ts.matchNames()))
		missing := "DELETE FROM " + ts.table + " AS t WHERE " + strings.Join(terms, " AND ")
		return []string{missing, ts.mergeStage(staging, false)}
	}
	return []string{
		"DELETE FROM " + ts.table,
		fmt.Sprintf("INSERT INTO %s (%s)\nSELECT %s FROM %s", ts.table, ts.names(), staging.names(), staging.table),
	}
}

// countRows returns the query that counts the rows in the layout's scope.
func (ts *tableStatements) countRows() string {
	text := "SELECT TO_VARCHAR(COUNT(*)) FROM " + ts.table
	if terms := ts.inScope(); len(terms) > 0 {
		text += " AS t WHERE " + strings.Join(terms, " AND ")
	}
	return text
}

// inScope returns the conditions under which a row of t is in the layout's scope. All conditions
// must hold.
func (ts *tableStatements) inScope() []string {
	return ts.layout.ScopeTerms(func(name string) string { return "t." + quote(name) + "::VARCHAR" }, literal)
}

// matchNames returns the condition that the keys of t and s are equal. The columns of both have the
// names of the real columns.
func (ts *tableStatements) matchNames() string {
	var terms []string
	for i := range ts.layout.Keys {
		terms = append(terms, fmt.Sprintf("t.%s = s.%[1]s", ts.name(i)))
	}
	return strings.Join(terms, " AND ")
}

// mergeStage returns the statement that upserts the staged rows. If the parameter guarded is true,
// the statement applies the layout's guard.
func (ts *tableStatements) mergeStage(staging *tableStatements, guarded bool) string {
	var set, values []string
	for i := range ts.columns {
		if i >= ts.layout.Keys {
			set = append(set, fmt.Sprintf("%s = s.%s", ts.name(i), staging.name(i)))
		}
		values = append(values, "s."+staging.name(i))
	}
	if set == nil {
		set = append(set, fmt.Sprintf("%s = s.%s", ts.name(0), staging.name(0)))
	}
	guard := ""
	if guarded && ts.layout.Guard {
		guard = fmt.Sprintf(" AND (t.%s IS NULL OR t.%[1]s <= s.%[1]s)", ts.name(ts.layout.Meta(sqlsink.MetaVersion)))
	}
	return fmt.Sprintf("MERGE INTO %s AS t USING %s AS s ON %s\nWHEN MATCHED%s THEN UPDATE SET %s\n"+
		"WHEN NOT MATCHED THEN INSERT (%s) VALUES (%s)",
		ts.table, staging.table, ts.matchNames(), guard, strings.Join(set, ", "), ts.names(), strings.Join(values, ", "))
}
