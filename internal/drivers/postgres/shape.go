package postgres

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// textArray and friends are the types of parameters that are not the column's own.
const (
	oidText      = 25
	oidTextArray = 1009
)

// shape is a layout as PostgreSQL writes it: how each value travels, and the
// texts of all statements.
type shape struct {
	layout *sqlsink.Layout
	server *server
	table  string // qualified and quoted
	label  string // for messages
	// columns are those of the layout, in its order.
	columns []column
	// direct: rows may be deleted and inserted without anybody noticing the
	// difference to an update.
	direct bool
	// unique: an upsert can name a unique index of exactly the key.
	unique bool
	// swap: a staging table can take the live one's name.
	swap bool
	// casted: some values travel as text and are cast by the server.
	casted bool

	arrays []uint32 // types of the parameters of unnest, by column

	upsertArrays []string // parameters: an array a column
	deleteArrays string   // parameters: an array a key column, and of deletedExtras
	stage        string   // quoted name of the temporary table
	makeStage    string
	copyStage    string
	upsertStage  []string
	copyTable    string
}

// shape returns the layout's shape, made when first asked for.
func (s *session) shape(l *sqlsink.Layout) *shape {
	if known, ok := l.Native.(*shape); ok && *known.server == s.server {
		return known
	}
	made := newShape(&s.server, l, s.dialect.env.Adjusted)
	l.Native = made
	return made
}

func newShape(server *server, l *sqlsink.Layout, adjusted func(table, column, rule string)) *shape {
	sh := &shape{layout: l, server: server, table: server.qualify(l.Real.Name), label: fmt.Sprintf("table %q", l.Table.Name)}
	for i := range l.Columns {
		c := newColumn(l, &l.Columns[i], adjusted)
		sh.casted = sh.casted || sh.casts(&c)
		sh.columns = append(sh.columns, c)
		sh.arrays = append(sh.arrays, sh.arrayOf(&c, l.Columns[i].Real.Native.(*attribute)))
	}
	r := l.Real.Native.(*relation)
	key := make([]string, l.Keys)
	for i := range key {
		key[i] = l.Columns[i].Real.Name
	}
	sh.unique = r.upsertable(key)
	sh.direct = r.plain && !sh.casted && !l.Guard && !l.Soft && len(l.Columns) == len(l.Real.Columns)
	sh.write()
	return sh
}

// casts reports whether values travel as text and are cast by the server.
func (sh *shape) casts(c *column) bool {
	return c.kind == kindCast || c.kind == kindArray
}

// arrayOf returns the type of a parameter that holds many values of the column.
func (sh *shape) arrayOf(c *column, a *attribute) uint32 {
	if sh.asText(c, a) {
		return oidTextArray
	}
	return a.array
}

// asText reports whether a parameter holds the column's values as text:
// CockroachDB has no arrays of jsonb.
func (sh *shape) asText(c *column, a *attribute) bool {
	return sh.casts(c) || a.array == 0 || sh.server.can.Cockroach && (c.kind == kindJSONB || c.kind == kindJSON)
}

// names returns the quoted names of columns[from:].
func (sh *shape) names(from int) []string {
	names := make([]string, 0, len(sh.columns)-from)
	for i := from; i < len(sh.columns); i++ {
		names = append(names, quote(sh.columns[i].name))
	}
	return names
}

// source is a relation to write from, with the expression that each column takes
// from it.
type source struct {
	from        string
	expressions []string
}

// unnest returns the source that parameters from $1 on are, for n columns.
func (sh *shape) unnest(n int) source {
	var params, aliases, expressions []string
	for i := range n {
		c := &sh.columns[i]
		a := sh.layout.Columns[i].Real.Native.(*attribute)
		alias := fmt.Sprintf("c%d", i+1)
		element, expression := a.spelling, "s."+alias
		if sh.asText(c, a) {
			element, expression = "text", expression+"::"+a.spelling
		}
		params = append(params, fmt.Sprintf("$%d::%s[]", i+1, element))
		aliases = append(aliases, alias)
		expressions = append(expressions, expression)
	}
	return source{from: "unnest(" + strings.Join(params, ", ") + ") AS s(" + strings.Join(aliases, ", ") + ")", expressions: expressions}
}

// staged returns the source that a staging table is.
func (sh *shape) staged(stage string) source {
	src := source{from: stage + " AS s"}
	for i := range sh.columns {
		c := &sh.columns[i]
		expression := "s." + quote(c.name)
		if sh.casts(c) {
			expression += "::" + sh.layout.Columns[i].Real.Native.(*attribute).spelling
		}
		src.expressions = append(src.expressions, expression)
	}
	return src
}

// matches returns the condition that the row t has the key of the source's row.
func (sh *shape) matches(src source) string {
	terms := make([]string, sh.layout.Keys)
	for i := range terms {
		terms[i] = "t." + quote(sh.columns[i].name) + " = " + src.expressions[i]
	}
	return strings.Join(terms, " AND ")
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

// guard returns the condition that the row t is not newer than version, with the
// given word before it; "" where rows are not guarded.
func (sh *shape) guard(word, version string) string {
	if !sh.layout.Guard {
		return ""
	}
	column := "t." + quote(sh.columns[sh.meta(sqlsink.MetaVersion)].name)
	return fmt.Sprintf(" %s (%s IS NULL OR %s <= %s)", word, column, column, version)
}

// upsert returns the statements that upsert a source's rows.
func (sh *shape) upsert(src source) []string {
	names := strings.Join(sh.names(0), ", ")
	insert := fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM %s", sh.table, names, strings.Join(src.expressions, ", "), src.from)
	keys := sh.layout.Keys
	if sh.unique {
		text := insert + " ON CONFLICT (" + strings.Join(sh.names(0)[:keys], ", ") + ") DO "
		if len(sh.columns) == keys {
			return []string{text + "NOTHING"}
		}
		var sets []string
		for _, name := range sh.names(keys) {
			sets = append(sets, name+" = excluded."+name)
		}
		text += "UPDATE SET " + strings.Join(sets, ", ")
		if sh.layout.Guard {
			text += sh.guard("WHERE", "excluded."+quote(sh.columns[sh.meta(sqlsink.MetaVersion)].name))
		}
		return []string{text}
	}
	// Without a unique index to name, two statements do the same.
	insert += fmt.Sprintf(" WHERE NOT EXISTS (SELECT FROM %s AS t WHERE %s)", sh.table, sh.matches(src))
	if len(sh.columns) == keys {
		return []string{insert}
	}
	var sets []string
	for i := keys; i < len(sh.columns); i++ {
		sets = append(sets, quote(sh.columns[i].name)+" = "+src.expressions[i])
	}
	update := fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s", sh.table, strings.Join(sets, ", "), src.from, sh.matches(src))
	if sh.layout.Guard {
		update += sh.guard("AND", src.expressions[sh.meta(sqlsink.MetaVersion)])
	}
	return []string{update, insert}
}

// extras are the columns beside the key that a delete has parameters for: all
// metadata where it only marks the row, the version where it is guarded.
func (sh *shape) extras() []int {
	var extras []int
	for i, t := range sh.layout.Columns {
		if sh.layout.Soft && t.Meta != 0 || sh.layout.Guard && t.Meta == sqlsink.MetaVersion {
			extras = append(extras, i)
		}
	}
	return extras
}

// remove returns the statement that deletes rows of the table by arrays of keys
// and of extras.
func (sh *shape) remove() string {
	picked := &shape{layout: sh.layout, server: sh.server, table: sh.table}
	indexes := sh.deleteColumns()
	layout := *sh.layout
	layout.Columns = nil
	for _, i := range indexes {
		picked.columns = append(picked.columns, sh.columns[i])
		layout.Columns = append(layout.Columns, sh.layout.Columns[i])
	}
	picked.layout = &layout
	src := picked.unnest(len(indexes))
	guard := ""
	if sh.layout.Guard {
		guard = picked.guard("AND", src.expressions[picked.meta(sqlsink.MetaVersion)])
	}
	if !sh.layout.Soft {
		return fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s%s", sh.table, src.from, picked.matches(src), guard)
	}
	var sets []string
	for i := layout.Keys; i < len(picked.columns); i++ {
		sets = append(sets, quote(picked.columns[i].name)+" = "+src.expressions[i])
	}
	return fmt.Sprintf("UPDATE %s AS t SET %s FROM %s WHERE %s%s", sh.table, strings.Join(sets, ", "), src.from, picked.matches(src), guard)
}

// deleteColumns are the columns that a delete has parameters for.
func (sh *shape) deleteColumns() []int {
	var indexes []int
	for i := range sh.layout.Keys {
		indexes = append(indexes, i)
	}
	return append(indexes, sh.extras()...)
}

// write makes the texts of all statements.
func (sh *shape) write() {
	sh.upsertArrays = sh.upsert(sh.unnest(len(sh.columns)))
	sh.deleteArrays = sh.remove()
	names := strings.Join(sh.names(0), ", ")
	var columns []string
	for i := range sh.columns {
		spelling := sh.columns[i].Type
		if sh.casts(&sh.columns[i]) {
			spelling = "text"
		}
		columns = append(columns, quote(sh.columns[i].name)+" "+spelling)
	}
	definition := strings.Join(columns, ", ")
	h := fnv.New64a()
	h.Write([]byte(sh.table + definition))
	sh.stage = fmt.Sprintf("pg_temp._eds_%016x", h.Sum64())
	sh.makeStage = fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s) ON COMMIT DELETE ROWS", sh.stage, definition)
	sh.copyStage = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", sh.stage, names)
	sh.copyTable = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", sh.table, names)
	sh.upsertStage = sh.upsert(sh.staged(sh.stage))
}
