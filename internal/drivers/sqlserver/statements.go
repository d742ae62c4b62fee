package sqlserver

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// tableStatements has the encoders of all columns and the text of the statements for one layout. A
// statement reads rows from a source, which has the alias S, and writes them into the real table,
// which has the alias T.
type tableStatements struct {
	layout  *sqlsink.Layout
	columns []columnEncoder
	table   string            // the real table's quoted name, with its schema
	label   string            // the table's description in messages
	merges  bool              // eds can write the table with MERGE
	texts   map[string]string // the statements that text has built, by name

	upsertStage string // name of the temporary table for rows to upsert
	deleteStage string // name of the temporary table for keys to delete
}

// tableStatements returns the statements for layout l. It builds the statements on first use and
// keeps them in l.Native.
func (s *sqlSession) tableStatements(l *sqlsink.Layout) *tableStatements {
	if ts, ok := l.Native.(*tableStatements); ok {
		return ts
	}
	ts := newTableStatements(l, s.qualify(l.Real.Name), s.dialect.env.Adjusted)
	l.Native = ts
	return ts
}

func newTableStatements(l *sqlsink.Layout, table string, adjusted func(table, column, rule string)) *tableStatements {
	ts := &tableStatements{layout: l, table: table, label: fmt.Sprintf("table %q", l.Real.Name), texts: make(map[string]string)}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s", table)
	for i := range l.Columns {
		c := newColumnEncoder(l, &l.Columns[i], adjusted)
		ts.columns = append(ts.columns, c)
		fmt.Fprintf(h, ",%s %s", c.name, c.declaration())
	}
	ts.upsertStage = fmt.Sprintf("#eds_rows_%016x", h.Sum64())
	ts.deleteStage = fmt.Sprintf("#eds_keys_%016x", h.Sum64())
	relation := l.Real.Native.(*relation)
	ts.merges = relation.merges
	return ts
}

// text returns the statement with the given name. On first use, it calls build to build the
// statement.
func (ts *tableStatements) text(name string, build func() string) string {
	text, ok := ts.texts[name]
	if !ok {
		text = build()
		ts.texts[name] = text
	}
	return text
}

// deleteColumns returns the indexes of the columns that a delete reads from its source: the key
// columns, and also the version if rows are guarded, or all metadata columns if deletes are soft.
func (ts *tableStatements) deleteColumns() []int {
	return append(ts.layout.All()[:ts.layout.Keys], ts.layout.DeleteExtras()...)
}

func (ts *tableStatements) names(indexes []int, prefix string) string {
	names := make([]string, len(indexes))
	for i, index := range indexes {
		names[i] = prefix + ts.columns[index].name
	}
	return strings.Join(names, ", ")
}

// matches returns the condition that the keys of T and S are equal. The condition uses the
// collation of each real column, so that the server can use the index. If that collation treats
// different texts as equal, the condition also compares their code points.
func (ts *tableStatements) matches() string {
	var terms []string
	for i := range ts.columns[:ts.layout.Keys] {
		c := &ts.columns[i]
		collate := ""
		if c.collation != "" {
			collate = " COLLATE " + c.collation
		}
		terms = append(terms, "T."+c.name+" = S."+c.name+collate)
		if c.collation != "" && !strings.HasSuffix(c.collation, "_BIN2") {
			terms = append(terms, "T."+c.name+" = S."+c.name+" COLLATE "+c.binaryCollation())
		}
	}
	return strings.Join(terms, " AND ")
}

// guard returns the condition that a row of T is not newer than the row of S. It returns "" if the
// layout has no guard.
func (ts *tableStatements) guard() string {
	if !ts.layout.Guard {
		return ""
	}
	c := &ts.columns[ts.layout.Meta(sqlsink.MetaVersion)]
	return "(T." + c.name + " IS NULL OR T." + c.name + " <= S." + c.name + " COLLATE " + c.binaryCollation() + ")"
}

// expression returns the SQL expression for a column of S, converted to the real column's type.
func (ts *tableStatements) expression(index int) string {
	c := &ts.columns[index]
	if c.kind == kindCast {
		return "CAST(S." + c.name + " AS " + c.spelling() + ")"
	}
	return "S." + c.name
}

// assignments returns the assignments of values from S to the columns with the given indexes,
// without the key columns. It puts prefix before the name of each assigned column.
func (ts *tableStatements) assignments(prefix string, indexes []int) string {
	var all []string
	for _, index := range indexes {
		if index >= ts.layout.Keys {
			all = append(all, prefix+ts.columns[index].name+" = "+ts.expression(index))
		}
	}
	return strings.Join(all, ", ")
}

func (ts *tableStatements) expressions() string {
	all := make([]string, len(ts.columns))
	for i := range ts.columns {
		all[i] = ts.expression(i)
	}
	return strings.Join(all, ", ")
}

// upsertText returns the statements that upsert the rows of a source. If the parameter guarded is
// true, they apply the layout's guard. HOLDLOCK keeps other writers from inserting a key between
// the lookup and the insert.
func (ts *tableStatements) upsertText(source string, guarded bool) string {
	guard := ""
	if g := ts.guard(); guarded && g != "" {
		guard = " AND " + g
	}
	set := ts.assignments("", ts.layout.All())
	names := ts.names(ts.layout.All(), "")
	if ts.merges {
		text := "MERGE INTO " + ts.table + " WITH (HOLDLOCK) AS T\nUSING " + source + "\nON " + ts.matches()
		if set != "" {
			text += "\nWHEN MATCHED" + guard + " THEN UPDATE SET " + set
		}
		text += "\nWHEN NOT MATCHED BY TARGET THEN INSERT (" + names + ") VALUES (" + ts.expressions() + ");"
		return ts.withIdentity(text)
	}
	text := ""
	if set != "" {
		text = "UPDATE T SET " + set + "\nFROM " + ts.table + " AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN " + source + "\nON " + ts.matches()
		if guard != "" {
			text += "\nWHERE" + strings.TrimPrefix(guard, " AND")
		}
		text += ";\n"
	}
	text += "INSERT INTO " + ts.table + " (" + names + ")\nSELECT " + ts.expressions() + "\nFROM " + source +
		"\nWHERE NOT EXISTS (SELECT 1 FROM " + ts.table + " AS T WITH (UPDLOCK, HOLDLOCK) WHERE " + ts.matches() + ");"
	return ts.withIdentity(text)
}

// withIdentity returns the statement text unchanged if the layout has no identity column. Otherwise
// it adds statements that allow the statement text to set the identity column.
func (ts *tableStatements) withIdentity(text string) string {
	for i := range ts.columns {
		if ts.columns[i].identity {
			return "SET IDENTITY_INSERT " + ts.table + " ON;\n" + text + "\nSET IDENTITY_INSERT " + ts.table + " OFF;"
		}
	}
	return text
}

// deleteText returns the statement that deletes the rows of the table that have the keys of the
// source's rows. If the layout is soft, the statement marks them as deleted instead.
func (ts *tableStatements) deleteText(source string) string {
	text := "DELETE T"
	if ts.layout.Soft {
		text = "UPDATE T SET " + ts.assignments("", ts.deleteColumns())
	}
	text += "\nFROM " + ts.table + " AS T INNER JOIN " + source + "\nON " + ts.matches()
	if g := ts.guard(); g != "" {
		text += "\nWHERE " + g
	}
	return text + ";"
}

// staged returns a source that consists of all rows of a temporary table.
func staged(table string) string { return quote(table) + " AS S" }

// values returns a source that consists of n rows of parameters. Each row has the
// columns with the given indexes.
func (ts *tableStatements) values(indexes []int, n int) string {
	var b strings.Builder
	b.WriteString("(VALUES ")
	p := 0
	for row := range n {
		if row > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for i := range indexes {
			if i > 0 {
				b.WriteString(", ")
			}
			p++
			fmt.Fprintf(&b, "@p%d", p)
		}
		b.WriteByte(')')
	}
	b.WriteString(") AS S (" + ts.names(indexes, "") + ")")
	return b.String()
}

// declarations returns the declaration that execParams needs for the parameters of the source. The
// source is the one that values returns for the same indexes and n.
func (ts *tableStatements) declarations(indexes []int, n int) string {
	var b strings.Builder
	p := 0
	for range n {
		for _, index := range indexes {
			if p > 0 {
				b.WriteString(", ")
			}
			p++
			fmt.Fprintf(&b, "@p%d %s", p, ts.columns[index].parameter())
		}
	}
	return b.String()
}

// parameter returns the type of a parameter for the column's values. It is the column's type,
// unless that type is deprecated or unsuitable, or the server casts the values from text.
func (a *attribute) parameter() string {
	switch {
	case a.kind == kindCast, a.base == "ntext":
		return "NVARCHAR(MAX)"
	case a.base == "text":
		return "VARCHAR(MAX)"
	case a.base == "image":
		return "VARBINARY(MAX)"
	case a.base == "nchar":
		return fmt.Sprintf("NVARCHAR(%d)", a.length)
	case a.base == "char":
		return fmt.Sprintf("VARCHAR(%d)", a.length)
	case a.base == "money", a.base == "smallmoney":
		return fmt.Sprintf("DECIMAL(%d, %d)", a.precision, a.scale)
	}
	return a.spelling()
}

// binaryCollation returns the collation that never treats different texts of the column as equal.
func (a *attribute) binaryCollation() string {
	if a.utf8 {
		return binary + "_UTF8"
	}
	return binary
}

// stageDefinition returns the definition of the column in a staging table. The parameter null is
// " NULL" or " NOT NULL".
func (c *columnEncoder) stageDefinition(null string) string {
	text := c.name + " " + c.parameter()
	if c.kind == kindNVarChar || c.kind == kindVarChar {
		text += " COLLATE " + c.binaryCollation()
	}
	return text + null
}

// createTemporary returns the statement that creates a temporary table with the columns that have
// the given indexes.
func (ts *tableStatements) createTemporary(table string, indexes []int) string {
	definitions := make([]string, len(indexes))
	for i, index := range indexes {
		definitions[i] = "\t" + ts.columns[index].stageDefinition(" NULL")
	}
	return "CREATE TABLE " + quote(table) + " (\n" + strings.Join(definitions, ",\n") + "\n)"
}
