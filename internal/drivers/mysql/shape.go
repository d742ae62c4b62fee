package mysql

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// shape is a layout as MySQL writes it: how each value becomes text, and the
// texts of all statements.
type shape struct {
	layout *sqlsink.Layout
	server server
	table  string // quoted
	label  string // for messages
	// columns are those of the layout, in its order.
	columns []column
	// fast: a row that stands in the way of an insert can only be the one of its
	// key, so that one statement inserts or updates.
	fast bool
	// swap: a staging table can take the live one's name.
	swap bool

	upsert  *sheet   // inserts or updates; nil where the table is not fast
	update  command  // of one row
	insert  command  // of one row that is not there
	remove  command  // of one row, or of several where only its condition is repeated
	through *through // upserts of many rows
	outward *through // deletes of many rows
}

// command is a statement with the columns whose values its parameters take.
type command struct {
	sql   string
	where string // the condition for one row, where that may be repeated
	takes []int
}

// sheet is where rows are written as they are: by LOAD DATA, or by an INSERT of
// many rows of parameters.
type sheet struct {
	what    string // for errors
	columns []int  // of the shape
	load    string // what follows the file in LOAD DATA; "" if it is not to be used
	insert  string // what comes before the rows
	row     string // one row of parameters
	after   string // what follows them
	// replace writes rows again some of which the sheet has passed over, because
	// their keys were there already: the last row of a key stays. Nil if it passes
	// over none.
	replace *sheet
}

// through is a temporary table that rows go through.
type through struct {
	name string // quoted
	make string
	into *sheet
	then []string // the statements that write from it
}

// shape returns the layout's shape, made when first asked for.
func (s *session) shape(l *sqlsink.Layout) *shape {
	if known, ok := l.Native.(*shape); ok && known.server == s.server {
		return known
	}
	made := newShape(s.server, l, s.dialect.env.Adjusted)
	l.Native = made
	return made
}

func newShape(server server, l *sqlsink.Layout, adjusted func(table, column, rule string)) *shape {
	sh := &shape{layout: l, server: server, table: quote(l.Real.Name), label: fmt.Sprintf("table %q", l.Table.Name)}
	for i := range l.Columns {
		sh.columns = append(sh.columns, newColumn(l, &l.Columns[i], !server.maria, adjusted))
	}
	key := make([]string, l.Keys)
	exact := true
	for i := range key {
		key[i] = l.Columns[i].Real.Name
		exact = exact && sh.columns[i].exact() && !l.Columns[i].Real.Nullable
	}
	sh.fast = exact && l.Real.Native.(*relation).keyed(key)
	sh.write()
	return sh
}

// all returns the indexes of all columns.
func (sh *shape) all() []int {
	indexes := make([]int, len(sh.columns))
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}

// names returns the quoted names of columns.
func (sh *shape) names(indexes []int) string {
	names := make([]string, len(indexes))
	for k, i := range indexes {
		names[k] = quote(sh.columns[i].name)
	}
	return strings.Join(names, ", ")
}

// of returns the column of the real table in an expression.
func (sh *shape) of(i int) string { return sh.table + "." + quote(sh.columns[i].name) }

// parameter returns the expression that makes a value of the column of the text
// that encodes it.
func (c *column) parameter(text string) string {
	switch c.kind {
	case kindBytes:
		return "UNHEX(" + text + ")"
	case kindBit:
		return "CAST(" + text + " AS UNSIGNED)"
	}
	return text
}

// matches returns the condition that the real row has the key that the
// expressions are, and which columns they take. A collation that takes two texts
// for one finds the row by its index; their bytes decide.
func (sh *shape) matches(expression func(i int) string) (string, []int) {
	var terms []string
	var takes []int
	for i := range sh.layout.Keys {
		c := &sh.columns[i]
		x := expression(i)
		takes = append(takes, i)
		if c.exact() {
			terms = append(terms, sh.of(i)+" = "+x)
			continue
		}
		takes = append(takes, i)
		converted := "CONVERT(" + x + " USING " + c.charset + ")"
		terms = append(terms, fmt.Sprintf("%s = %s COLLATE %s AND CAST(%s AS BINARY) = CAST(%s AS BINARY)", sh.of(i), converted, c.collation, sh.of(i), converted))
	}
	return strings.Join(terms, " AND "), takes
}

// meta returns the index of a metadata column, or -1.
func (sh *shape) meta(m sqlsink.Meta) int {
	for i, t := range sh.layout.Columns {
		if t.Meta == m {
			return i
		}
	}
	return -1
}

// older returns the condition that the real row is not newer than version.
func (sh *shape) older(version string) string {
	column := sh.of(sh.meta(sqlsink.MetaVersion))
	return fmt.Sprintf("(%s IS NULL OR %s <= %s)", column, column, version)
}

// onDuplicate returns the clause that updates a row that is there already to the
// values that the expressions are. The version is assigned last: assignments see
// those before them.
func (sh *shape) onDuplicate(guard bool, expression func(i int) string) string {
	var sets []string
	set := func(i int) {
		if guard {
			older := sh.older(expression(sh.meta(sqlsink.MetaVersion)))
			sets = append(sets, fmt.Sprintf("%s = IF(%s, %s, %s)", sh.of(i), older, expression(i), sh.of(i)))
			return
		}
		sets = append(sets, sh.of(i)+" = "+expression(i))
	}
	last := -1
	if guard {
		last = sh.meta(sqlsink.MetaVersion)
	}
	for i := sh.layout.Keys; i < len(sh.columns); i++ {
		if i != last {
			set(i)
		}
	}
	if last >= 0 {
		set(last)
	}
	if len(sets) == 0 {
		sets = append(sets, sh.of(0)+" = "+sh.of(0))
	}
	return " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
}

// upsertFrom returns the statements that upsert the rows of another table with
// the layout's columns.
func (sh *shape) upsertFrom(table string, guard bool) []string {
	from := func(i int) string { return table + "." + quote(sh.columns[i].name) }
	var values []string
	for i := range sh.columns {
		values = append(values, from(i))
	}
	insert := "INSERT INTO " + sh.table + " (" + sh.names(sh.all()) + ") SELECT " + strings.Join(values, ", ") + " FROM " + table
	if sh.fast {
		return []string{insert + sh.onDuplicate(guard, from)}
	}
	match, _ := sh.matches(from)
	insert += " LEFT JOIN " + sh.table + " ON " + match + " WHERE " + sh.of(0) + " IS NULL"
	if len(sh.columns) == sh.layout.Keys {
		return []string{insert}
	}
	return []string{sh.updateFrom(table, sh.all()[sh.layout.Keys:], guard), insert}
}

// updateFrom returns the statement that sets columns of the rows of another
// table's keys.
func (sh *shape) updateFrom(table string, columns []int, guard bool) string {
	from := func(i int) string { return table + "." + quote(sh.columns[i].name) }
	match, _ := sh.matches(from)
	var sets []string
	for _, i := range columns {
		sets = append(sets, sh.of(i)+" = "+from(i))
	}
	text := "UPDATE " + table + " STRAIGHT_JOIN " + sh.table + " ON " + match + " SET " + strings.Join(sets, ", ")
	if guard {
		text += " WHERE " + sh.older(from(sh.meta(sqlsink.MetaVersion)))
	}
	return text
}

// marks are the columns beside the key that a delete writes or looks at: all
// metadata where it only marks the row, the version where it is guarded.
func (sh *shape) marks() []int {
	var marks []int
	for i, t := range sh.layout.Columns {
		if sh.layout.Soft && t.Meta != 0 || sh.layout.Guard && t.Meta == sqlsink.MetaVersion {
			marks = append(marks, i)
		}
	}
	return marks
}

// write makes the texts of all statements.
func (sh *shape) write() {
	sh.writeSingle()
	all := sh.all()
	if sh.fast {
		given := func(i int) string { return "VALUES(" + quote(sh.columns[i].name) + ")" }
		sh.upsert = sh.sheet("upsert into "+sh.label, sh.table, all, sh.onDuplicate(sh.layout.Guard, given))
	}
	sh.through = sh.temporary("_eds_up_", all, "upsert into "+sh.label)
	sh.through.then = sh.upsertFrom(sh.through.name, sh.layout.Guard)

	marks := sh.marks()
	sh.outward = sh.temporary("_eds_del_", append(all[:sh.layout.Keys:sh.layout.Keys], marks...), "delete from "+sh.label)
	table := sh.outward.name
	if sh.layout.Soft {
		sh.outward.then = []string{sh.updateFrom(table, marks, sh.layout.Guard)}
		return
	}
	match, _ := sh.matches(func(i int) string { return table + "." + quote(sh.columns[i].name) })
	text := "DELETE " + sh.table + " FROM " + table + " STRAIGHT_JOIN " + sh.table + " ON " + match
	if sh.layout.Guard {
		text += " WHERE " + sh.older(table+"."+quote(sh.columns[sh.meta(sqlsink.MetaVersion)].name))
	}
	sh.outward.then = []string{text}
}

// writeSingle makes the texts of the statements for one row.
func (sh *shape) writeSingle() {
	bind := func(i int) string { return sh.columns[i].parameter("?") }
	match, keys := sh.matches(bind)
	where := match
	takes := keys
	if sh.layout.Guard {
		version := sh.meta(sqlsink.MetaVersion)
		where += " AND " + sh.older("?")
		takes = append(keys[:len(keys):len(keys)], version)
	}
	set := func(columns []int) command {
		var sets []string
		for _, i := range columns {
			sets = append(sets, sh.of(i)+" = "+bind(i))
		}
		return command{sql: "UPDATE " + sh.table + " SET " + strings.Join(sets, ", ") + " WHERE " + where, takes: append(columns[:len(columns):len(columns)], takes...)}
	}
	if rest := sh.all()[sh.layout.Keys:]; len(rest) > 0 {
		sh.update = set(rest)
	}
	var values []string
	for i := range sh.columns {
		values = append(values, bind(i))
	}
	sh.insert = command{
		sql: "INSERT INTO " + sh.table + " (" + sh.names(sh.all()) + ") SELECT " + strings.Join(values, ", ") +
			" FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM " + sh.table + " WHERE " + match + ")",
		takes: append(sh.all(), keys...),
	}
	if sh.layout.Soft {
		sh.remove = set(sh.marks())
	} else {
		sh.remove = command{sql: "DELETE FROM " + sh.table + " WHERE ", where: "(" + where + ")", takes: takes}
	}
}

// sheet returns the sheet that columns of a table are.
func (sh *shape) sheet(what, table string, columns []int, after string) *sheet {
	var rows []string
	for _, i := range columns {
		rows = append(rows, sh.columns[i].parameter("?"))
	}
	return &sheet{
		what: what, columns: columns, insert: "INSERT INTO " + table + " (" + sh.names(columns) + ") VALUES ",
		row: "(" + strings.Join(rows, ", ") + ")", after: after,
	}
}

// stagedSheet returns the sheet of a staging table, which has one row per key.
func (sh *shape) stagedSheet() *sheet {
	to := sh.sheet("load into "+sh.label, sh.table, sh.all(), "")
	replace := *to
	replace.load = sh.loadText("REPLACE ", sh.table, to.columns)
	replace.insert = "REPLACE" + strings.TrimPrefix(to.insert, "INSERT")
	to.load = sh.loadText("IGNORE ", sh.table, to.columns)
	to.insert = "INSERT IGNORE" + strings.TrimPrefix(to.insert, "INSERT")
	to.replace = &replace
	return to
}

// loadText returns what follows the file in a LOAD DATA statement into columns
// of a table. The mode says what it does with a key that is there already.
func (sh *shape) loadText(mode, table string, columns []int) string {
	var into, sets []string
	for _, i := range columns {
		c := &sh.columns[i]
		name := quote(c.name)
		if c.parameter("") != "" {
			variable := fmt.Sprintf("@eds_%d", i)
			sets = append(sets, name+" = "+c.parameter(variable))
			name = variable
		}
		into = append(into, name)
	}
	text := mode + "INTO TABLE " + table + utf8mb4 + ` FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n' (` + strings.Join(into, ", ") + ")"
	if len(sets) > 0 {
		text += " SET " + strings.Join(sets, ", ")
	}
	return text
}

// temporary returns a temporary table of columns.
func (sh *shape) temporary(prefix string, columns []int, what string) *through {
	definition := sh.definitions(columns, !sh.server.maria)
	engine := "InnoDB"
	if sh.server.maria {
		engine = "Aria TRANSACTIONAL=0"
	}
	h := fnv.New64a()
	h.Write([]byte(sh.table + definition))
	name := quote(fmt.Sprintf("%s%016x", prefix, h.Sum64()))
	into := sh.sheet(what, name, columns, "")
	into.load = sh.loadText("", name, columns)
	return &through{name: name, make: "CREATE TEMPORARY TABLE " + name + " (\n" + definition + "\n) ENGINE=" + engine + " DEFAULT" + utf8mb4, into: into}
}

// definitions defines columns like the real ones, for a table that is only on
// the way: they take NULL and have no defaults; a key tells any two values apart.
func (sh *shape) definitions(columns []int, keyed bool) string {
	var lines, key []string
	texts := 0
	for _, i := range columns[:sh.layout.Keys] {
		if c := &sh.columns[i]; c.collation != "" || c.kind == kindBytes {
			texts++
		}
	}
	for _, i := range columns {
		c := &sh.columns[i]
		spelling := c.Type
		collation := c.collation
		if i < sh.layout.Keys {
			key = append(key, quote(c.name))
			switch {
			case c.kind == kindBytes:
				spelling = fmt.Sprintf("VARBINARY(%d)", min(c.length, 4*keyLength(texts)))
			case c.kind == kindText && c.most > 0: // the real key has room for all of it
				spelling, collation = fmt.Sprintf("VARCHAR(%d)", c.length), sh.server.exact
			case c.kind == kindText:
				spelling, collation = fmt.Sprintf("VARCHAR(%d)", min(max(c.length, 1), keyLength(texts))), sh.server.exact
			}
		}
		if collation != "" {
			charset, _, _ := strings.Cut(collation, "_")
			spelling += " CHARACTER SET " + charset + " COLLATE " + collation
		}
		if i < sh.layout.Keys && keyed {
			spelling += " NOT NULL"
		} else {
			spelling += " NULL"
		}
		lines = append(lines, "\t"+quote(c.name)+" "+spelling)
	}
	if keyed {
		lines = append(lines, "\tPRIMARY KEY ("+strings.Join(key, ", ")+")")
	}
	return strings.Join(lines, ",\n")
}
