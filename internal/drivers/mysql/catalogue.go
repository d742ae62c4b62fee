package mysql

import (
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

// relation is what we know of a table beside its columns.
type relation struct {
	base   bool   // not a view
	create string // its SHOW CREATE TABLE
	// uniques are the columns of each unique index; of one that holds for parts
	// of columns or for expressions, nil.
	uniques [][]string
}

// attribute is what we know of a column beside what the engine does.
type attribute struct {
	kind       kind
	data       string // the type's bare name
	definition string // from SHOW CREATE TABLE, behind the name; "" of a view's
	key        bool   // part of the primary key
	length     int    // characters of a text, or bytes of one that is not VARCHAR
	scale      int    // decimal places; -1 is any number
	whole      int    // digits before the decimal point; 0 is any number
	precision  int    // digits of a second
	unsigned   bool
	charset    string
	collation  string
}

// exact reports whether the column tells any two values apart.
func (a *attribute) exact() bool {
	switch {
	case a.collation == "", strings.HasSuffix(a.collation, "_nopad_bin"), a.collation == "utf8mb4_0900_bin", a.collation == "binary":
		return a.data != "char" && a.data != "enum" && a.data != "set"
	}
	return false
}

const columnsQuery = "SELECT table_name, column_name, data_type, column_type, is_nullable, column_default, extra, character_maximum_length, numeric_precision, numeric_scale, datetime_precision, character_set_name, collation_name, column_key " +
	"FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN (%s) ORDER BY table_name, ordinal_position"

const indexesQuery = "SELECT table_name, index_name, column_name, sub_part " +
	"FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name IN (%s) AND non_unique = 0 ORDER BY table_name, index_name, seq_in_index"

const tablesQuery = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN (%s)"

// Tables describes those of the named tables, views included, that exist.
func (s *session) Tables(ctx context.Context, names []string) ([]*sqlsink.Table, error) {
	var tables []*sqlsink.Table
	for part := range slices.Chunk(names, 200) {
		found, err := s.describe(ctx, part)
		if err != nil {
			return nil, err
		}
		tables = append(tables, found...)
	}
	return tables, nil
}

func (s *session) describe(ctx context.Context, names []string) ([]*sqlsink.Table, error) {
	const what = "read the catalogue"
	list := strings.Repeat(", ?", len(names))[2:]
	args := make([]driver.Value, len(names))
	asked := make(map[string]string, len(names)) // by the name that the catalogue has
	for i, n := range names {
		args[i] = n
		asked[s.foldTable(n)] = n
	}
	var tables []*sqlsink.Table
	byName := make(map[string]*sqlsink.Table)
	rows, err := s.query(ctx, what, fmt.Sprintf(tablesQuery, list), args...)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		// The catalogue may compare names more kindly than the server does.
		name, ok := asked[s.foldTable(row[0])]
		if !ok {
			continue
		}
		t := &sqlsink.Table{Name: name, Native: &relation{base: row[1] == "BASE TABLE"}}
		byName[row[0]] = t
		tables = append(tables, t)
	}
	for _, t := range tables {
		if err := s.showCreate(ctx, t); err != nil {
			return nil, err
		}
	}
	if rows, err = s.query(ctx, what, fmt.Sprintf(columnsQuery, list), args...); err != nil {
		return nil, err
	}
	for _, row := range rows {
		if t := byName[row[0]]; t != nil {
			t.Columns = append(t.Columns, s.describeColumn(t.Native.(*relation), row[1:]))
		}
	}
	if rows, err = s.query(ctx, what, fmt.Sprintf(indexesQuery, list), args...); err != nil {
		return nil, err
	}
	describeIndexes(byName, rows)
	return tables, nil
}

func (s *session) foldTable(name string) string {
	if s.foldsTables {
		return strings.ToLower(name)
	}
	return name
}

func (s *session) showCreate(ctx context.Context, t *sqlsink.Table) error {
	r := t.Native.(*relation)
	if !r.base {
		return nil
	}
	rows, err := s.query(ctx, "read the catalogue", "SHOW CREATE TABLE "+quote(t.Name))
	if err != nil {
		return err
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return errors.New("read the catalogue: the server answered no definition of a table")
	}
	r.create = rows[0][1]
	return nil
}

// definitionOf returns what SHOW CREATE TABLE says of a column behind its name.
func (r *relation) definitionOf(column string) string {
	_, rest, ok := strings.Cut(r.create, "\n  "+quote(column)+" ")
	if !ok {
		return ""
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSuffix(line, ",")
}

// describeColumn reads a row of columnsQuery, less the table's name.
func (s *session) describeColumn(r *relation, row []string) sqlsink.Column {
	extra := strings.ToUpper(row[5])
	c := sqlsink.Column{
		Name: row[0], Type: row[2], Nullable: row[3] == "YES",
		Filled:    row[4] != "" && row[4] != "NULL" || strings.Contains(extra, "AUTO_INCREMENT") || strings.Contains(r.definitionOf(row[0]), " DEFAULT "),
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

// holds tells how values travel to the type, what it is made for, and whether it
// holds only some of that.
func (a *attribute) holds(spelling string, checked bool) (kind, schema.Type, bool) {
	foreign := a.charset != "utf8mb4"
	switch a.data {
	case "varchar", "char":
		switch {
		case a.data == "varchar" && a.length >= 255 && !foreign && !a.key:
			return kindText, schema.Enum, true
		case a.key:
			return kindText, schema.String, a.length < 255
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
		return kindText, schema.Enum, false // on purpose
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
		case a.scale >= 0: // FLOAT(7,2) is rounded as a decimal is
			return kindDecimal, schema.Number, false
		case a.data == "float":
			return kindFloat, schema.Number, true
		}
		return kindDouble, schema.Number, false
	case "decimal", "numeric":
		return kindDecimal, schema.Number, false // on purpose
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

// describeIndexes reads rows of indexesQuery.
func describeIndexes(tables map[string]*sqlsink.Table, rows [][]string) {
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

// keyed reports whether the table has one unique index, of exactly the given
// columns: then a row that is there already can only be the one of the key.
func (r *relation) keyed(key []string) bool {
	if len(r.uniques) != 1 || len(r.uniques[0]) != len(key) {
		return false
	}
	return !slices.ContainsFunc(key, func(k string) bool {
		return !slices.ContainsFunc(r.uniques[0], func(c string) bool { return strings.EqualFold(c, k) })
	})
}
