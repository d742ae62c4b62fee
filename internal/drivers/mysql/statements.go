package mysql

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// tableStatements has the encoders of all columns and the text of all statements for one layout.
type tableStatements struct {
	layout *sqlsink.Layout
	server flavour
	table  string // quoted name
	label  string // the table's description in messages
	// columns are the encoders of the layout's columns, in the same order.
	columns []columnEncoder
	// keyOnly is set if an insert can conflict only with the row that has the same key. One statement
	// can then insert or update a row.
	keyOnly bool
	// The field swap is set if a staging table can replace the live table. Seal determines it.
	swap bool

	upsertRows  *rowWriter   // inserts or updates rows; nil unless keyOnly is set
	updateRow   rowStatement // updates one row
	insertRow   rowStatement // inserts one row if the table has no row with the same key
	deleteRows  rowStatement // deletes rows
	upsertStage *tempStage   // upserts many rows
	deleteStage *tempStage   // deletes many rows
}

// rowStatement is a statement that takes the values of one row as parameters. The field takes has
// the indexes of the columns.
type rowStatement struct {
	sql       string
	condition string // the condition for one row, if sql needs one condition per row; else ""
	takes     []int  // indexes of the layout's columns
}

// rowWriter has the parts of the statements that write rows into a table: a LOAD DATA, and an
// INSERT of many rows of parameters.
type rowWriter struct {
	what    string // the operation, for errors
	columns []int  // indexes of the layout's columns
	load    string // the part of LOAD DATA after the file, or "" if LOAD DATA cannot be used
	insert  string // the part of the INSERT before the rows
	row     string // one row of parameters
	suffix  string // the part of the INSERT after the rows
	// The field replace is the writer that writes all rows again if the first pass skipped rows
	// whose keys already existed. After this second pass, the table has the last row of each key.
	// The field replace is nil if the first pass never skips rows.
	replace *rowWriter
}

// tempStage is a temporary table. Rows are first written into the temporary table, and then copied
// from there into the live table.
type tempStage struct {
	name   string // quoted name
	create string
	writer *rowWriter
	apply  []string // the statements that write the rows into the live table
}

// tableStatements returns the statements for layout l. It builds the statements on first use, and
// again if the server has changed, and keeps them in l.Native.
func (s *sqlSession) tableStatements(l *sqlsink.Layout) *tableStatements {
	if known, ok := l.Native.(*tableStatements); ok && known.server == s.flavour {
		return known
	}
	ts := newTableStatements(s.flavour, l, s.dialect.env.Adjusted)
	l.Native = ts
	return ts
}

func newTableStatements(server flavour, l *sqlsink.Layout, adjusted func(table, column, rule string)) *tableStatements {
	ts := &tableStatements{layout: l, server: server, table: quote(l.Real.Name), label: fmt.Sprintf("table %q", l.Table.Name)}
	for i := range l.Columns {
		ts.columns = append(ts.columns, newColumnEncoder(l, &l.Columns[i], !server.maria, adjusted))
	}
	exact := true
	for i := range l.Keys {
		exact = exact && ts.columns[i].exact() && !l.Columns[i].Real.Nullable
	}
	ts.keyOnly = exact && l.Real.Native.(*relation).keyed(l.KeyNames())
	ts.build()
	return ts
}

// names returns the quoted names of the columns with the given indexes, separated by commas.
func (ts *tableStatements) names(indexes []int) string {
	names := make([]string, len(indexes))
	for k, i := range indexes {
		names[k] = quote(ts.columns[i].name)
	}
	return strings.Join(names, ", ")
}

// The method named of returns the qualified name of column i of the real table.
func (ts *tableStatements) of(i int) string { return ts.table + "." + quote(ts.columns[i].name) }

// parameter returns an SQL expression that converts an encoded value to the column's type. The
// parameter text is the SQL expression for the encoded value.
func (c *columnEncoder) parameter(text string) string {
	switch c.kind {
	case kindBytes:
		return "UNHEX(" + text + ")"
	case kindBit:
		return "CAST(" + text + " AS UNSIGNED)"
	}
	return text
}

// matches returns the condition that a row of the real table has a given key. The function
// expression returns the SQL expression for the value of key column i. The second result has the
// indexes of the columns, in the order in which the condition uses the expressions. If the
// collation of a key column treats different texts as equal, the condition compares the texts with
// that collation, so that the server can use the index, and also compares the texts' bytes.
func (ts *tableStatements) matches(expression func(i int) string) (string, []int) {
	var terms []string
	var takes []int
	for i := range ts.layout.Keys {
		c := &ts.columns[i]
		x := expression(i)
		takes = append(takes, i)
		if c.exact() {
			terms = append(terms, ts.of(i)+" = "+x)
			continue
		}
		takes = append(takes, i)
		converted := "CONVERT(" + x + " USING " + c.charset + ")"
		terms = append(terms, fmt.Sprintf("%s = %s COLLATE %s AND CAST(%s AS BINARY) = CAST(%s AS BINARY)",
			ts.of(i), converted, c.collation, ts.of(i), converted))
	}
	return strings.Join(terms, " AND "), takes
}

// notNewer returns the condition that a row of the real table is not newer than version, which is
// an SQL expression.
func (ts *tableStatements) notNewer(version string) string {
	column := ts.of(ts.layout.Meta(sqlsink.MetaVersion))
	return fmt.Sprintf("(%s IS NULL OR %s <= %s)", column, column, version)
}

// onDuplicate returns the clause that updates an existing row. The function expression returns the
// SQL expression for the new value of column i. If the parameter guard is true, the clause changes
// only a row that is not newer. It then assigns the version last, because each assignment sees the
// results of the earlier ones.
func (ts *tableStatements) onDuplicate(guard bool, expression func(i int) string) string {
	var sets []string
	set := func(i int) {
		if guard {
			condition := ts.notNewer(expression(ts.layout.Meta(sqlsink.MetaVersion)))
			sets = append(sets, fmt.Sprintf("%s = IF(%s, %s, %s)", ts.of(i), condition, expression(i), ts.of(i)))
			return
		}
		sets = append(sets, ts.of(i)+" = "+expression(i))
	}
	last := -1
	if guard {
		last = ts.layout.Meta(sqlsink.MetaVersion)
	}
	for i := ts.layout.Keys; i < len(ts.columns); i++ {
		if i != last {
			set(i)
		}
	}
	if last >= 0 {
		set(last)
	}
	if len(sets) == 0 {
		sets = append(sets, ts.of(0)+" = "+ts.of(0))
	}
	return " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
}

// upsertFrom returns the statements that upsert the rows of another table, which has the layout's
// columns. If the parameter guard is true, the statements do not change rows that are newer.
func (ts *tableStatements) upsertFrom(table string, guard bool) []string {
	from := func(i int) string { return table + "." + quote(ts.columns[i].name) }
	var values []string
	for i := range ts.columns {
		values = append(values, from(i))
	}
	insert := "INSERT INTO " + ts.table + " (" + ts.names(ts.layout.All()) + ") SELECT " + strings.Join(values, ", ") + " FROM " + table
	if ts.keyOnly {
		return []string{insert + ts.onDuplicate(guard, from)}
	}
	match, _ := ts.matches(from)
	insert += " LEFT JOIN " + ts.table + " ON " + match + " WHERE " + ts.of(0) + " IS NULL"
	if len(ts.columns) == ts.layout.Keys {
		return []string{insert}
	}
	return []string{ts.updateFrom(table, ts.layout.All()[ts.layout.Keys:], guard), insert}
}

// updateFrom returns the statement that updates the given columns from the rows of another table
// that have the same keys. If the parameter guard is true, the statement does not change rows that
// are newer.
func (ts *tableStatements) updateFrom(table string, columns []int, guard bool) string {
	from := func(i int) string { return table + "." + quote(ts.columns[i].name) }
	match, _ := ts.matches(from)
	var sets []string
	for _, i := range columns {
		sets = append(sets, ts.of(i)+" = "+from(i))
	}
	text := "UPDATE " + table + " STRAIGHT_JOIN " + ts.table + " ON " + match + " SET " + strings.Join(sets, ", ")
	if guard {
		text += " WHERE " + ts.notNewer(from(ts.layout.Meta(sqlsink.MetaVersion)))
	}
	return text
}

// build sets the text of all statements.
func (ts *tableStatements) build() {
	ts.buildSingle()
	all := ts.layout.All()
	if ts.keyOnly {
		given := func(i int) string { return "VALUES(" + quote(ts.columns[i].name) + ")" }
		ts.upsertRows = ts.rowWriter("upsert into "+ts.label, ts.table, all, ts.onDuplicate(ts.layout.Guard, given))
	}
	ts.upsertStage = ts.tempStage("_eds_up_", all, "upsert into "+ts.label)
	ts.upsertStage.apply = ts.upsertFrom(ts.upsertStage.name, ts.layout.Guard)

	marks := ts.layout.DeleteExtras()
	ts.deleteStage = ts.tempStage("_eds_del_", append(all[:ts.layout.Keys:ts.layout.Keys], marks...), "delete from "+ts.label)
	table := ts.deleteStage.name
	if ts.layout.Soft {
		ts.deleteStage.apply = []string{ts.updateFrom(table, marks, ts.layout.Guard)}
		return
	}
	match, _ := ts.matches(func(i int) string { return table + "." + quote(ts.columns[i].name) })
	text := "DELETE " + ts.table + " FROM " + table + " STRAIGHT_JOIN " + ts.table + " ON " + match
	if ts.layout.Guard {
		text += " WHERE " + ts.notNewer(table+"."+quote(ts.columns[ts.layout.Meta(sqlsink.MetaVersion)].name))
	}
	ts.deleteStage.apply = []string{text}
}

// buildSingle sets the statements that write single rows, and the statement that deletes rows.
func (ts *tableStatements) buildSingle() {
	bind := func(i int) string { return ts.columns[i].parameter("?") }
	match, keys := ts.matches(bind)
	where := match
	takes := keys
	if ts.layout.Guard {
		version := ts.layout.Meta(sqlsink.MetaVersion)
		where += " AND " + ts.notNewer("?")
		takes = append(keys[:len(keys):len(keys)], version)
	}
	set := func(columns []int) rowStatement {
		var sets []string
		for _, i := range columns {
			sets = append(sets, ts.of(i)+" = "+bind(i))
		}
		return rowStatement{
			sql:   "UPDATE " + ts.table + " SET " + strings.Join(sets, ", ") + " WHERE " + where,
			takes: append(columns[:len(columns):len(columns)], takes...),
		}
	}
	if rest := ts.layout.All()[ts.layout.Keys:]; len(rest) > 0 {
		ts.updateRow = set(rest)
	}
	var values []string
	for i := range ts.columns {
		values = append(values, bind(i))
	}
	ts.insertRow = rowStatement{
		sql: "INSERT INTO " + ts.table + " (" + ts.names(ts.layout.All()) + ") SELECT " + strings.Join(values, ", ") +
			" FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM " + ts.table + " WHERE " + match + ")",
		takes: append(ts.layout.All(), keys...),
	}
	if ts.layout.Soft {
		ts.deleteRows = set(ts.layout.DeleteExtras())
	} else {
		ts.deleteRows = rowStatement{sql: "DELETE FROM " + ts.table + " WHERE ", condition: "(" + where + ")", takes: takes}
	}
}

// rowWriter returns a writer for the given columns of a table, without LOAD DATA. The parameter
// suffix is the part of the INSERT statement after the rows.
func (ts *tableStatements) rowWriter(what, table string, columns []int, suffix string) *rowWriter {
	var rows []string
	for _, i := range columns {
		rows = append(rows, ts.columns[i].parameter("?"))
	}
	return &rowWriter{
		what: what, columns: columns, insert: "INSERT INTO " + table + " (" + ts.names(columns) + ") VALUES ",
		row: "(" + strings.Join(rows, ", ") + ")", suffix: suffix,
	}
}

// stagingWriter returns a writer for a staging table. It keeps the last row of each key.
func (ts *tableStatements) stagingWriter() *rowWriter {
	to := ts.rowWriter("load into "+ts.label, ts.table, ts.layout.All(), "")
	replace := *to
	replace.load = ts.loadText("REPLACE ", ts.table, to.columns)
	replace.insert = "REPLACE" + strings.TrimPrefix(to.insert, "INSERT")
	to.load = ts.loadText("IGNORE ", ts.table, to.columns)
	to.insert = "INSERT IGNORE" + strings.TrimPrefix(to.insert, "INSERT")
	to.replace = &replace
	return to
}

// loadText returns the part of a LOAD DATA statement after the file. The parameter mode says what
// happens to a row whose key already exists in the table: "IGNORE " skips the row, and "REPLACE "
// replaces the existing row. The value "" is for tables in which no key can exist already.
func (ts *tableStatements) loadText(mode, table string, columns []int) string {
	var into, sets []string
	for _, i := range columns {
		c := &ts.columns[i]
		name := quote(c.name)
		if c.parameter("") != "" {
			variable := fmt.Sprintf("@eds_%d", i)
			sets = append(sets, name+" = "+c.parameter(variable))
			name = variable
		}
		into = append(into, name)
	}
	text := mode + "INTO TABLE " + table + utf8mb4 +
		` FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (` + strings.Join(into, ", ") + ")"
	if len(sets) > 0 {
		text += " SET " + strings.Join(sets, ", ")
	}
	return text
}

// tempStage returns a temporary table that has the given columns. Errors of the table's writer
// contain the parameter what, which names the operation.
func (ts *tableStatements) tempStage(prefix string, columns []int, what string) *tempStage {
	definition := ts.definitions(columns, !ts.server.maria)
	engine := "InnoDB"
	if ts.server.maria {
		engine = "Aria TRANSACTIONAL=0"
	}
	h := fnv.New64a()
	h.Write([]byte(ts.table + definition))
	name := quote(fmt.Sprintf("%s%016x", prefix, h.Sum64()))
	writer := ts.rowWriter(what, name, columns, "")
	writer.load = ts.loadText("", name, columns)
	return &tempStage{
		name: name, create: "CREATE TEMPORARY TABLE " + name + " (\n" + definition + "\n) ENGINE=" + engine + " DEFAULT" + utf8mb4,
		writer: writer,
	}
}

// definitions returns the definitions of columns of a staging table. The columns have the types of
// the real columns, but no defaults, and allow NULL. Key columns have types that do not treat
// different values as equal. If the parameter keyed is true, the key columns are NOT NULL and form
// the primary key.
func (ts *tableStatements) definitions(columns []int, keyed bool) string {
	var definitions, key []string
	texts := 0
	for _, i := range columns[:ts.layout.Keys] {
		if c := &ts.columns[i]; c.collation != "" || c.kind == kindBytes {
			texts++
		}
	}
	for _, i := range columns {
		c := &ts.columns[i]
		spelling := c.Type
		collation := c.collation
		if i < ts.layout.Keys {
			key = append(key, quote(c.name))
			switch {
			case c.kind == kindBytes:
				spelling = fmt.Sprintf("VARBINARY(%d)", min(c.length, 4*keyLength(texts)))
			case c.kind == kindText && c.most > 0: // the whole text fits into the real key
				spelling, collation = fmt.Sprintf("VARCHAR(%d)", c.length), ts.server.exact
			case c.kind == kindText:
				spelling, collation = fmt.Sprintf("VARCHAR(%d)", min(max(c.length, 1), keyLength(texts))), ts.server.exact
			}
		}
		if collation != "" {
			charset, _, _ := strings.Cut(collation, "_")
			spelling += " CHARACTER SET " + charset + " COLLATE " + collation
		}
		if i < ts.layout.Keys && keyed {
			spelling += " NOT NULL"
		} else {
			spelling += " NULL"
		}
		definitions = append(definitions, "\t"+quote(c.name)+" "+spelling)
	}
	if keyed {
		definitions = append(definitions, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
	}
	return strings.Join(definitions, ",\n")
}
