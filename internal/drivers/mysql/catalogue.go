package mysql

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// relation describes a table, except for its columns.
type relation struct {
	create string // the result of SHOW CREATE TABLE
	// uniques are the columns of each unique index. The entry for an index on prefixes or
	// expressions is nil.
	uniques [][]string
}

// transactional reports whether the table's engine is InnoDB, which supports
// transactions.
func (r *relation) transactional() bool { return strings.Contains(r.create, "\n) ENGINE=InnoDB") }

// attribute describes the type of a column.
type attribute struct {
	kind       kind
	data       string // the type's name, in lower case, without length and other attributes
	definition string // from SHOW CREATE TABLE, after the column's name
	key        bool   // the column is part of the primary key
	length     int    // the maximum length: in characters for CHAR and VARCHAR, in bytes for other types
	most       int    // for a text in the primary key: the length that the index allows; else 0
	scale      int    // the number of decimal places, or -1 for no limit
	whole      int    // the number of digits before the decimal point, or 0 for no limit; for BIT, of bits
	precision  int    // the number of fractional digits of the second
	unsigned   bool
	charset    string
	collation  string
}

// exact reports whether the column always keeps different values distinct, both when it
// stores values and when it compares them.
func (a *attribute) exact() bool {
	switch {
	case a.collation == "", strings.HasSuffix(a.collation, "_nopad_bin"), a.collation == "utf8mb4_0900_bin", a.collation == "binary":
		return a.data != "char" && a.data != "enum" && a.data != "set"
	}
	return false
}

const columnsQuery = "SELECT table_name, column_name, data_type, column_type, is_nullable, column_default, extra, " +
	"character_maximum_length, numeric_precision, numeric_scale, datetime_precision, character_set_name, collation_name, column_key " +
	"FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN (%s) ORDER BY table_name, ordinal_position"

const indexesQuery = "SELECT table_name, index_name, column_name, sub_part " +
	"FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name IN (%s) AND non_unique = 0 " +
	"ORDER BY table_name, index_name, seq_in_index"

const tablesQuery = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN (%s)"

// otherThanTable describes the object with the given table_type, or returns "" if the object is a
// table.
func otherThanTable(kind string) string {
	switch kind {
	case "BASE TABLE", "SYSTEM VERSIONED":
		return ""
	case "VIEW", "SYSTEM VIEW":
		return "a view"
	case "SEQUENCE":
		return "a sequence"
	}
	return "an object of type " + kind
}

// Objects describes the named objects that exist. It returns no ids, because InnoDB changes the id
// of a table that is altered, and shows ids only to administrators.
func (s *sqlSession) Objects(ctx context.Context, names []string) ([]sqlsink.Object, error) {
	var objects []sqlsink.Object
	for part := range slices.Chunk(names, namesAtOnce) {
		args, requested := s.nameArgs(part)
		rows, err := s.query(ctx, "read the catalogue", fmt.Sprintf(tablesQuery, markers(len(part))), args...)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if name, ok := requested[s.foldTable(row[0])]; ok {
				objects = append(objects, sqlsink.Object{Name: name, Other: otherThanTable(row[1])})
			}
		}
	}
	return objects, nil
}

// Empty finds out which of the named tables have no rows. It returns the positions of their names
// in the slice names.
func (s *sqlSession) Empty(ctx context.Context, names []string) ([]int, error) {
	tables := make([]string, len(names))
	for i, name := range names {
		tables[i] = quote(name)
	}
	var rows [][]string
	err := s.waitShortly(ctx, func() (err error) {
		rows, err = s.query(ctx, "look for rows", sqlsink.EmptyQuery(tables))
		return err
	})
	if err != nil {
		return nil, err
	}
	indexes := make([]int, len(rows))
	for i, row := range rows {
		if indexes[i], err = strconv.Atoi(row[0]); err != nil {
			return nil, fmt.Errorf("look for rows: %w", err)
		}
	}
	return indexes, nil
}

// namesAtOnce is the maximum number of tables per catalogue query.
const namesAtOnce = 200

func markers(n int) string { return strings.Repeat(", ?", n)[2:] }

// nameArgs returns names as query parameters. It also returns a map from each name, folded as the
// server folds table names, to the name itself.
func (s *sqlSession) nameArgs(names []string) ([]driver.Value, map[string]string) {
	args := make([]driver.Value, len(names))
	requested := make(map[string]string, len(names))
	for i, n := range names {
		args[i] = n
		requested[s.foldTable(n)] = n
	}
	return args, requested
}

// Tables describes the named tables that exist. If a name belongs to an object of another kind,
// such as a view, the result has an entry for the object, without columns.
func (s *sqlSession) Tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	var tables []*sqlsink.RealTable
	for part := range slices.Chunk(names, namesAtOnce) {
		found, err := s.describe(ctx, part)
		if err != nil {
			return nil, err
		}
		tables = append(tables, found...)
	}
	return tables, nil
}

func (s *sqlSession) describe(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	const what = "read the catalogue"
	list := markers(len(names))
	args, requested := s.nameArgs(names)
	var tables []*sqlsink.RealTable
	byName := make(map[string]*sqlsink.RealTable)
	rows, err := s.query(ctx, what, fmt.Sprintf(tablesQuery, list), args...)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		// The catalogue's collation may match names that differ from the requested ones.
		name, ok := requested[s.foldTable(row[0])]
		if !ok {
			continue
		}
		t := &sqlsink.RealTable{Name: name, Other: otherThanTable(row[1]), Native: &relation{}}
		byName[row[0]] = t
		tables = append(tables, t)
	}
	for _, t := range tables {
		if t.Other != "" {
			continue
		}
		if err := s.showCreate(ctx, t); err != nil {
			return nil, err
		}
	}
	if rows, err = s.query(ctx, what, fmt.Sprintf(columnsQuery, list), args...); err != nil {
		return nil, err
	}
	for _, row := range rows {
		if t := byName[row[0]]; t != nil && t.Other == "" {
			t.Columns = append(t.Columns, s.describeColumn(t.Native.(*relation), row[1:]))
		}
	}
	if rows, err = s.query(ctx, what, fmt.Sprintf(indexesQuery, list), args...); err != nil {
		return nil, err
	}
	describeIndexes(byName, rows)
	for _, t := range tables {
		limitKey(t)
	}
	return tables, nil
}

// limitKey sets the length to which eds may widen each text column of the table's primary key. The
// limit is the length of such a column in a table that eds creates, or less if the key's other
// columns leave less space in an index entry.
func limitKey(t *sqlsink.RealTable) {
	var texts []*sqlsink.RealColumn
	size := 0
	for i := range t.Columns {
		c := &t.Columns[i]
		a := c.Native.(*attribute)
		if !a.key {
			continue
		}
		size += a.keySize()
		if a.data == "varchar" || a.data == "char" {
			texts = append(texts, c)
		}
	}
	// The longest column comes first, so that the shorter columns get the space that it does not
	// use.
	slices.SortStableFunc(texts, func(a, b *sqlsink.RealColumn) int {
		return cmp.Compare(b.Native.(*attribute).length, a.Native.(*attribute).length)
	})
	spare := max(0, maxIndex-size) / 4
	for i, c := range texts {
		a := c.Native.(*attribute)
		a.most = max(a.length, min(keyLength(len(texts)), a.length+spare/(len(texts)-i)))
		spare -= a.most - a.length
		c.Narrow = a.length < a.most
	}
}

// keySize returns the maximum size of the column's value in an index entry, in bytes.
func (a *attribute) keySize() int {
	switch {
	case a.kind == kindText && strings.HasPrefix(a.charset, "utf8"):
		return 4 * a.length
	case a.kind == kindText || a.kind == kindBytes:
		return a.length
	default:
		return 8
	}
}

func (s *sqlSession) foldTable(name string) string {
	if s.foldsTables {
		return strings.ToLower(name)
	}
	return name
}

func (s *sqlSession) showCreate(ctx context.Context, t *sqlsink.RealTable) error {
	r := t.Native.(*relation)
	rows, err := s.query(ctx, "read the catalogue", "SHOW CREATE TABLE "+quote(t.Name))
	if err != nil {
		return &sqlsink.StatementError{Table: t.Name, Err: err}
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return errors.New("read the catalogue: the server returned no definition of a table")
	}
	r.create = rows[0][1]
	return nil
}

// definitionOf returns the definition of a column in SHOW CREATE TABLE, without the column's name.
// It returns "" if it cannot find the column.
func (r *relation) definitionOf(column string) string {
	_, rest, ok := strings.Cut(r.create, "\n  "+quote(column)+" ")
	if !ok {
		return ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSuffix(line, ",")
}

// describeColumn converts a row of columnsQuery to a column. The parameter row lacks the first
// field, which is the table's name.
func (s *sqlSession) describeColumn(r *relation, row []string) sqlsink.RealColumn {
	extra := strings.ToUpper(row[5])
	c := sqlsink.RealColumn{
		Name: row[0], Type: row[2], Nullable: row[3] == "YES",
		Filled: row[4] != "" && row[4] != "NULL" || strings.Contains(extra, "AUTO_INCREMENT") ||
			strings.Contains(r.definitionOf(row[0]), " DEFAULT "),
		Generated: strings.Contains(extra, " GENERATED") || extra == "PERSISTENT" || extra == "VIRTUAL",
	}
	if c.Nullable && (row[4] == "" || row[4] == "NULL") {
		c.Filled = false
	}
	number := func(text string, otherwise int) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			return otherwise
		}
		return n
	}
	a := &attribute{
		data: strings.ToLower(row[1]), definition: r.definitionOf(row[0]), key: row[12] == "PRI",
		length: number(row[6], 0), scale: number(row[8], -1), precision: number(row[9], 0), charset: row[10], collation: row[11],
		unsigned: strings.Contains(strings.ToLower(row[2]), "unsigned"),
	}
	a.whole = number(row[7], 0) - max(0, a.scale)
	checked := strings.Contains(strings.ToLower(a.definition), "json_valid(")
	a.kind, c.Holds, c.Narrow = a.holds(c.Type, checked)
	c.Native = a
	return c
}

// holds returns three results: the encoding for values of the column's type; the schema type that
// the column can hold, or 0 if there is none; and whether the column is narrow, which means that it
// can hold only some values of the schema type. The parameter checked is set if a constraint checks
// that the text is JSON.
func (a *attribute) holds(spelling string, checked bool) (kind, schema.Type, bool) {
	foreign := a.charset != "utf8mb4"
	switch a.data {
	case "varchar", "char":
		switch {
		case a.data == "varchar" && a.length >= 255 && !foreign && !a.key:
			return kindText, schema.Enum, true
		case a.key: // limitKey sets Narrow
			return kindText, schema.String, false
		}
		return kindText, schema.String, true
	case "tinytext", "text", "mediumtext":
		return kindText, schema.String, true
	case "longtext":
		if checked {
			return kindJSON, schema.Object, false
		}
		return kindText, schema.String, foreign
	case "enum", "set":
		return kindText, schema.Enum, false // its owner restricts the values on purpose
	case "json":
		return kindJSON, schema.Object, false
	case "tinyint":
		if strings.HasPrefix(strings.ToLower(spelling), "tinyint(1)") {
			return kindTruth, schema.Boolean, false
		}
		return kindInt, schema.Integer, true
	case "smallint", "mediumint", "int", "integer":
		return kindInt, schema.Integer, true
	case "bigint":
		return kindInt, schema.Integer, false
	case "float", "double", "real":
		switch {
		case a.scale >= 0: // FLOAT(7,2) rounds like a decimal
			return kindDecimal, schema.Number, false
		case a.data == "float":
			return kindFloat, schema.Number, true
		}
		return kindDouble, schema.Number, false
	case "decimal", "numeric":
		return kindDecimal, schema.Number, false // its owner restricts the values on purpose
	case "datetime":
		return kindDateTime, schema.DateTime, false
	case "timestamp":
		return kindTimestamp, schema.DateTime, false
	case "date":
		return kindDate, schema.DateTime, false
	case "bit":
		if spelling == "bit(1)" {
			return kindBit, schema.Boolean, false
		}
		return kindBit, 0, false
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return kindBytes, 0, false
	}
	return kindOther, 0, false
}

// describeIndexes sets the unique indexes of the tables from rows of indexesQuery.
func describeIndexes(tables map[string]*sqlsink.RealTable, rows [][]string) {
	for i := 0; i < len(rows); {
		first := rows[i]
		var columns []string
		whole := true
		for ; i < len(rows) && rows[i][0] == first[0] && rows[i][1] == first[1]; i++ {
			columns = append(columns, rows[i][2])
			whole = whole && rows[i][2] != "" && rows[i][3] == ""
		}
		t := tables[first[0]]
		if t == nil {
			continue
		}
		if !whole {
			columns = nil
		}
		if first[1] == "PRIMARY" {
			t.Key = columns
		}
		r := t.Native.(*relation)
		r.uniques = append(r.uniques, columns)
	}
}

// keyed reports whether the table has a single unique index, which has exactly the given
// columns. An insert can then conflict only with the row that has the same key.
func (r *relation) keyed(key []string) bool {
	if len(r.uniques) != 1 || len(r.uniques[0]) != len(key) {
		return false
	}
	return !slices.ContainsFunc(key, func(k string) bool {
		return !slices.ContainsFunc(r.uniques[0], func(c string) bool { return strings.EqualFold(c, k) })
	})
}
