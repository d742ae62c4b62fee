package sqlserver

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// shape is what the dialect hangs on a layout: its encoders and its statements.
// The statements read rows from a source S and write into the real table T.
type shape struct {
	layout  *sqlsink.Layout
	columns []column
	table   string // the real table's name, with its schema, quoted
	label   string // for messages
	stage   string // temporary table of a session, for rows
	keys    string // temporary table of a session, for keys
	merges  bool   // MERGE may write the table
	texts   map[string]string
}

// shape returns what is known of the layout, made when it is first met.
func (s *session) shape(l *sqlsink.Layout) *shape {
	if sh, ok := l.Native.(*shape); ok {
		return sh
	}
	sh := newShape(l, quote(s.namespace)+"."+quote(l.Real.Name), s.dialect.env.Adjusted)
	l.Native = sh
	return sh
}

func newShape(l *sqlsink.Layout, table string, adjusted func(table, column, rule string)) *shape {
	sh := &shape{layout: l, table: table, label: fmt.Sprintf("table %q", l.Real.Name), texts: make(map[string]string)}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s", table)
	for i := range l.Columns {
		c := newColumn(l, &l.Columns[i], adjusted)
		sh.columns = append(sh.columns, c)
		fmt.Fprintf(h, ",%s %s", c.name, c.declaration())
	}
	sh.stage = fmt.Sprintf("#eds_rows_%016x", h.Sum64())
	sh.keys = fmt.Sprintf("#eds_keys_%016x", h.Sum64())
	relation := l.Real.Native.(*relation)
	sh.merges = relation.merges
	return sh
}

// text returns a statement, which make makes when it is first asked for.
func (sh *shape) text(name string, make func() string) string {
	text, ok := sh.texts[name]
	if !ok {
		text = make()
		sh.texts[name] = text
	}
	return text
}

// all returns the indexes of all columns.
func (sh *shape) all() []int {
	indexes := make([]int, len(sh.columns))
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}

// deleted returns the indexes of the columns that a delete reads: the key's, and
// the version's or, where rows are marked, all metadata's.
func (sh *shape) deleted() []int {
	var indexes []int
	for i, t := range sh.layout.Columns {
		if i < sh.layout.Keys || t.Meta != 0 && (sh.layout.Soft || t.Meta == sqlsink.MetaVersion) {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

func (sh *shape) names(indexes []int, prefix string) string {
	names := make([]string, len(indexes))
	for i, index := range indexes {
		names[i] = prefix + sh.columns[index].name
	}
	return strings.Join(names, ", ")
}

// matches compares the keys of T and S: by the real column's collation, for the
// sake of its index, and where that takes different texts for the same, by code.
func (sh *shape) matches() string {
	var terms []string
	for i := range sh.columns[:sh.layout.Keys] {
		c := &sh.columns[i]
		collate := ""
		if c.collation != "" {
			collate = " COLLATE " + c.collation
		}
		terms = append(terms, "T."+c.name+" = S."+c.name+collate)
		if c.collation != "" && !strings.HasSuffix(c.collation, "_BIN2") {
			terms = append(terms, "T."+c.name+" = S."+c.name+" COLLATE "+c.byCode())
		}
	}
	return strings.Join(terms, " AND ")
}

// guard is the condition under which a row of S may write T, "" for any.
func (sh *shape) guard() string {
	if !sh.layout.Guard {
		return ""
	}
	for i, t := range sh.layout.Columns {
		if t.Meta == sqlsink.MetaVersion {
			c := &sh.columns[i]
			return "(T." + c.name + " IS NULL OR T." + c.name + " <= S." + c.name + " COLLATE " + c.byCode() + ")"
		}
	}
	return ""
}

// expression is the value of a column of S as its real type.
func (sh *shape) expression(index int) string {
	c := &sh.columns[index]
	if c.kind == kindCast {
		return "CAST(S." + c.name + " AS " + c.spelling() + ")"
	}
	return "S." + c.name
}

// assignments sets T's columns that are not part of the key.
func (sh *shape) assignments(prefix string, indexes []int) string {
	var all []string
	for _, index := range indexes {
		if index >= sh.layout.Keys {
			all = append(all, prefix+sh.columns[index].name+" = "+sh.expression(index))
		}
	}
	return strings.Join(all, ", ")
}

func (sh *shape) expressions() string {
	all := make([]string, len(sh.columns))
	for i := range sh.columns {
		all[i] = sh.expression(i)
	}
	return strings.Join(all, ", ")
}

// upsert returns the statements that write the rows of a source into the table.
// HOLDLOCK keeps another writer from inserting a key between the look and the insert.
func (sh *shape) upsert(source string, guarded bool) string {
	guard := ""
	if g := sh.guard(); guarded && g != "" {
		guard = " AND " + g
	}
	set := sh.assignments("", sh.all())
	names := sh.names(sh.all(), "")
	if sh.merges {
		text := "MERGE INTO " + sh.table + " WITH (HOLDLOCK) AS T\nUSING " + source + "\nON " + sh.matches()
		if set != "" {
			text += "\nWHEN MATCHED" + guard + " THEN UPDATE SET " + set
		}
		text += "\nWHEN NOT MATCHED BY TARGET THEN INSERT (" + names + ") VALUES (" + sh.expressions() + ");"
		return sh.withIdentity(text)
	}
	text := ""
	if set != "" {
		text = "UPDATE T SET " + set + "\nFROM " + sh.table + " AS T WITH (UPDLOCK, HOLDLOCK) INNER JOIN " + source + "\nON " + sh.matches()
		if guard != "" {
			text += "\nWHERE" + strings.TrimPrefix(guard, " AND")
		}
		text += ";\n"
	}
	text += "INSERT INTO " + sh.table + " (" + names + ")\nSELECT " + sh.expressions() + "\nFROM " + source +
		"\nWHERE NOT EXISTS (SELECT 1 FROM " + sh.table + " AS T WITH (UPDLOCK, HOLDLOCK) WHERE " + sh.matches() + ");"
	return sh.withIdentity(text)
}

// withIdentity lets a statement give an identity column of the key its value.
func (sh *shape) withIdentity(text string) string {
	for i := range sh.columns {
		if sh.columns[i].identity {
			return "SET IDENTITY_INSERT " + sh.table + " ON;\n" + text + "\nSET IDENTITY_INSERT " + sh.table + " OFF;"
		}
	}
	return text
}

// remove returns the statement that deletes the rows of a source's keys, or
// marks them as deleted.
func (sh *shape) remove(source string) string {
	text := "DELETE T"
	if sh.layout.Soft {
		text = "UPDATE T SET " + sh.assignments("", sh.deleted())
	}
	text += "\nFROM " + sh.table + " AS T INNER JOIN " + source + "\nON " + sh.matches()
	if g := sh.guard(); g != "" {
		text += "\nWHERE " + g
	}
	return text + ";"
}

// staged is a source: all rows of a temporary table.
func staged(table string) string { return quote(table) + " AS S" }

// values is a source: n rows of parameters.
func (sh *shape) values(indexes []int, n int) string {
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
	b.WriteString(") AS S (" + sh.names(indexes, "") + ")")
	return b.String()
}

// declarations declares the parameters of values.
func (sh *shape) declarations(indexes []int, n int) string {
	var b strings.Builder
	p := 0
	for range n {
		for _, index := range indexes {
			if p > 0 {
				b.WriteString(", ")
			}
			p++
			fmt.Fprintf(&b, "@p%d %s", p, sh.columns[index].parameter())
		}
	}
	return b.String()
}

// parameter returns the type in which a value travels. It is that of the column
// but for those that have a newer name, and those that the server casts text to.
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

// byCode returns the collation that tells all texts of the column apart.
func (a *attribute) byCode() string {
	if a.utf8 {
		return binary + "_UTF8"
	}
	return binary
}

// stageDefinition defines a column of a staging table.
func (c *column) stageDefinition(null string) string {
	text := c.name + " " + c.parameter()
	if c.kind == kindNVarChar || c.kind == kindVarChar {
		text += " COLLATE " + c.byCode()
	}
	return text + null
}

// makeTemporary returns the statement that makes a temporary table of columns.
func (sh *shape) makeTemporary(table string, indexes []int) string {
	lines := make([]string, len(indexes))
	for i, index := range indexes {
		lines[i] = "\t" + sh.columns[index].stageDefinition(" NULL")
	}
	return "CREATE TABLE " + quote(table) + " (\n" + strings.Join(lines, ",\n") + "\n)"
}
