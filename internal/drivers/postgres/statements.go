package postgres

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Types of parameters that do not have the type of their column.
const (
	oidText      = 25
	oidTextArray = 1009
)

// tableStatements has the encoders of all columns and the text of all statements for one layout.
type tableStatements struct {
	layout *sqlsink.Layout
	server *serverView
	table  string // qualified and quoted
	label  string // the table's description in messages
	// columns are the encoders of the layout's columns, in the same order.
	columns []columnEncoder
	// The field direct is set if deleting and inserting a row has the same effect as updating the
	// row.
	direct bool
	// The field unique is set if a unique index has exactly the key's columns, so that ON CONFLICT
	// can name them.
	unique bool
	// The field swap is set if a staging table can replace the live table. Seal determines it.
	swap bool
	// The field casted is set if the server casts the values of some columns from text.
	casted bool

	arrays []uint32 // types of the array parameters, by column

	upsertArrays []string // upsert rows; the parameters are one array per column
	deleteArrays string   // deletes rows; the parameters are one array per column of deleteColumns
	stage        string   // quoted name of the temporary table
	createStage  string
	copyStage    string
	upsertStage  []string
	copyTable    string
}

// tableStatements returns the statements for layout l. It builds the statements on first use, and
// again if the server has changed, and keeps them in l.Native.
func (s *sqlSession) tableStatements(l *sqlsink.Layout) *tableStatements {
	if known, ok := l.Native.(*tableStatements); ok && *known.server == s.serverView {
		return known
	}
	ts := newTableStatements(&s.serverView, l, s.dialect.env.Adjusted)
	l.Native = ts
	return ts
}

func newTableStatements(server *serverView, l *sqlsink.Layout, adjusted func(table, column, rule string)) *tableStatements {
	ts := &tableStatements{layout: l, server: server, table: server.qualify(l.Real.Name), label: fmt.Sprintf("table %q", l.Table.Name)}
	for i := range l.Columns {
		c := newColumnEncoder(l, &l.Columns[i], adjusted)
		ts.casted = ts.casted || ts.casts(&c)
		ts.columns = append(ts.columns, c)
		ts.arrays = append(ts.arrays, ts.arrayOf(&c, l.Columns[i].Real.Native.(*attribute)))
	}
	r := l.Real.Native.(*relation)
	ts.unique = r.upsertable(l.KeyNames())
	ts.direct = r.plain && !ts.casted && !l.Guard && !l.Soft && len(l.Columns) == len(l.Real.Columns)
	ts.build()
	return ts
}

// casts reports whether eds sends the column's values as text, which the server casts.
func (ts *tableStatements) casts(c *columnEncoder) bool {
	return c.kind == kindCast || c.kind == kindArray
}

// arrayOf returns the type of an array parameter that holds the column's values.
func (ts *tableStatements) arrayOf(c *columnEncoder, a *attribute) uint32 {
	if ts.asText(c, a) {
		return oidTextArray
	}
	return a.array
}

// asText reports whether array parameters hold the column's values as text. This is the case if the
// server casts the values, or the column's type has no array type. CockroachDB has no arrays of
// json or jsonb.
func (ts *tableStatements) asText(c *columnEncoder, a *attribute) bool {
	return ts.casts(c) || a.array == 0 || ts.server.features.Cockroach && (c.kind == kindJSONB || c.kind == kindJSON)
}

// names returns the quoted names of ts.columns[from:].
func (ts *tableStatements) names(from int) []string {
	names := make([]string, 0, len(ts.columns)-from)
	for i := from; i < len(ts.columns); i++ {
		names = append(names, quote(ts.columns[i].name))
	}
	return names
}

// rowSource is a relation that statements read rows from. It has one expression per column of the
// target table.
type rowSource struct {
	from        string
	expressions []string
}

// unnest returns a source that reads the first n columns from the array parameters $1 to $n.
func (ts *tableStatements) unnest(n int) rowSource {
	var params, aliases, expressions []string
	for i := range n {
		c := &ts.columns[i]
		a := ts.layout.Columns[i].Real.Native.(*attribute)
		alias := fmt.Sprintf("c%d", i+1)
		element, expression := a.spelling, "s."+alias
		if ts.asText(c, a) {
			element, expression = "text", expression+"::"+a.spelling
		}
		params = append(params, fmt.Sprintf("$%d::%s[]", i+1, element))
		aliases = append(aliases, alias)
		expressions = append(expressions, expression)
	}
	return rowSource{from: "unnest(" + strings.Join(params, ", ") + ") AS s(" + strings.Join(aliases, ", ") + ")", expressions: expressions}
}

// staged returns a source that reads all columns from a staging table. The parameter
// stage is the quoted name of the staging table.
func (ts *tableStatements) staged(stage string) rowSource {
	src := rowSource{from: stage + " AS s"}
	for i := range ts.columns {
		c := &ts.columns[i]
		expression := "s." + quote(c.name)
		if ts.casts(c) {
			expression += "::" + ts.layout.Columns[i].Real.Native.(*attribute).spelling
		}
		src.expressions = append(src.expressions, expression)
	}
	return src
}

// matches returns the condition that row t has the key of the source's row.
func (ts *tableStatements) matches(src rowSource) string {
	terms := make([]string, ts.layout.Keys)
	for i := range terms {
		terms[i] = "t." + quote(ts.columns[i].name) + " = " + src.expressions[i]
	}
	return strings.Join(terms, " AND ")
}

// guard returns the parameter word, which is WHERE or AND, followed by the condition that row t is
// not newer than a given version. It returns "" if the layout has no guard. The parameter version
// is the SQL expression for the version.
func (ts *tableStatements) guard(word, version string) string {
	if !ts.layout.Guard {
		return ""
	}
	column := "t." + quote(ts.columns[ts.layout.Meta(sqlsink.MetaVersion)].name)
	return fmt.Sprintf(" %s (%s IS NULL OR %s <= %s)", word, column, column, version)
}

// upsert returns the statements that upsert the rows of a source.
func (ts *tableStatements) upsert(src rowSource) []string {
	names := strings.Join(ts.names(0), ", ")
	insert := fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM %s", ts.table, names, strings.Join(src.expressions, ", "), src.from)
	keys := ts.layout.Keys
	if ts.unique {
		text := insert + " ON CONFLICT (" + strings.Join(ts.names(0)[:keys], ", ") + ") DO "
		if len(ts.columns) == keys {
			return []string{text + "NOTHING"}
		}
		var sets []string
		for _, name := range ts.names(keys) {
			sets = append(sets, name+" = excluded."+name)
		}
		text += "UPDATE SET " + strings.Join(sets, ", ")
		if ts.layout.Guard {
			text += ts.guard("WHERE", "excluded."+quote(ts.columns[ts.layout.Meta(sqlsink.MetaVersion)].name))
		}
		return []string{text}
	}
	// Without a unique index, ON CONFLICT is not possible, so an UPDATE and an INSERT do the same.
	insert += fmt.Sprintf(" WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)", ts.table, ts.matches(src))
	if len(ts.columns) == keys {
		return []string{insert}
	}
	var sets []string
	for i := keys; i < len(ts.columns); i++ {
		sets = append(sets, quote(ts.columns[i].name)+" = "+src.expressions[i])
	}
	update := fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s", ts.table, strings.Join(sets, ", "), src.from, ts.matches(src))
	if ts.layout.Guard {
		update += ts.guard("AND", src.expressions[ts.layout.Meta(sqlsink.MetaVersion)])
	}
	return []string{update, insert}
}

// deleteText returns the statement that deletes rows or, if the layout is soft, marks them as
// deleted. Its parameters are one array per column of deleteColumns.
func (ts *tableStatements) deleteText() string {
	picked := &tableStatements{layout: ts.layout, server: ts.server, table: ts.table}
	indexes := ts.deleteColumns()
	layout := *ts.layout
	layout.Columns = nil
	for _, i := range indexes {
		picked.columns = append(picked.columns, ts.columns[i])
		layout.Columns = append(layout.Columns, ts.layout.Columns[i])
	}
	picked.layout = &layout
	src := picked.unnest(len(indexes))
	guard := ""
	if ts.layout.Guard {
		guard = picked.guard("AND", src.expressions[layout.Meta(sqlsink.MetaVersion)])
	}
	if !ts.layout.Soft {
		return fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s%s", ts.table, src.from, picked.matches(src), guard)
	}
	var sets []string
	for i := layout.Keys; i < len(picked.columns); i++ {
		sets = append(sets, quote(picked.columns[i].name)+" = "+src.expressions[i])
	}
	return fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s%s", ts.table, strings.Join(sets, ", "), src.from, picked.matches(src), guard)
}

// deleteColumns returns the indexes of the columns that the delete statement has parameters for.
func (ts *tableStatements) deleteColumns() []int {
	return append(ts.layout.All()[:ts.layout.Keys], ts.layout.DeleteExtras()...)
}

// build sets the text of all statements.
func (ts *tableStatements) build() {
	ts.upsertArrays = ts.upsert(ts.unnest(len(ts.columns)))
	ts.deleteArrays = ts.deleteText()
	names := strings.Join(ts.names(0), ", ")
	var columns []string
	for i := range ts.columns {
		spelling := ts.columns[i].Type
		if ts.casts(&ts.columns[i]) {
			spelling = "text"
		}
		columns = append(columns, quote(ts.columns[i].name)+" "+spelling)
	}
	definition := strings.Join(columns, ", ")
	h := fnv.New64a()
	h.Write([]byte(ts.table + definition))
	ts.stage = fmt.Sprintf("pg_temp._eds_%016x", h.Sum64())
	ts.createStage = fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT DELETE ROWS", ts.stage, definition)
	ts.copyStage = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", ts.stage, names)
	ts.copyTable = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", ts.table, names)
	ts.upsertStage = ts.upsert(ts.staged(ts.stage))
}
