package snowflake

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// attribute describes the type of a column.
type attribute struct {
	kind      kind
	length    int // for text: the maximum number of characters
	precision int // for numbers: the number of digits; for instants: fractional digits of the second
	scale     int // for numbers: the number of decimal places
}

// catalogueSQL lists the columns of tables in the session's schema. Its parameter is a JSON array
// of table names.
const catalogueSQL = `SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, TO_VARCHAR(CHARACTER_MAXIMUM_LENGTH), ` +
	`TO_VARCHAR(NUMERIC_PRECISION), TO_VARCHAR(NUMERIC_SCALE), TO_VARCHAR(DATETIME_PRECISION), IS_NULLABLE, COLUMN_DEFAULT, IS_IDENTITY
FROM INFORMATION_SCHEMA.COLUMNS
WHERE TABLE_SCHEMA = CURRENT_SCHEMA() AND TABLE_NAME IN (SELECT VALUE::VARCHAR FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?))))
ORDER BY TABLE_NAME, ORDINAL_POSITION`

// keysSQL lists the primary keys of the session's schema.
const keysSQL = "SHOW PRIMARY KEYS IN SCHEMA"

// objectsSQL lists tables and views in the session's schema. Its parameter is a JSON array of
// names.
const objectsSQL = `SELECT TABLE_NAME, TABLE_TYPE
FROM INFORMATION_SCHEMA.TABLES
WHERE TABLE_SCHEMA = CURRENT_SCHEMA() AND TABLE_NAME IN (SELECT VALUE::VARCHAR FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?))))`

// objectKinds describes objects other than tables, by TABLES.TABLE_TYPE.
var objectKinds = map[string]string{"VIEW": "a view", "MATERIALIZED VIEW": "a materialized view", "EXTERNAL TABLE": "an external table"}

// Objects describes the named objects that exist. Like Tables, it also finds an object whose name
// is the given name in upper case.
func (s *sqlSession) Objects(ctx context.Context, names []string) ([]sqlsink.Object, error) {
	list, err := nameSpellings(names)
	if err != nil {
		return nil, err
	}
	found, err := s.query(ctx, "read the catalogue", objectsSQL, list)
	if err != nil {
		return nil, err
	}
	types := make(map[string]string, len(found.rows))
	for i := range found.rows {
		types[found.text(i, 0)] = found.text(i, 1)
	}
	var objects []sqlsink.Object
	for _, n := range names {
		kind, ok := types[n]
		if !ok {
			if kind, ok = types[strings.ToUpper(n)]; ok {
				s.dialect.actual.Store(n, strings.ToUpper(n))
			}
		}
		if ok {
			objects = append(objects, sqlsink.Object{Name: n, Other: objectKinds[kind]})
		}
	}
	return objects, nil
}

// nameSpellings returns a JSON array that contains each name both unchanged and in upper case.
// Snowflake stores the name of a table in upper case if the table was created without quotes.
func nameSpellings(names []string) (string, error) {
	wanted := make([]string, 0, 2*len(names))
	for _, n := range names {
		wanted = append(wanted, n, strings.ToUpper(n))
	}
	list, err := json.Marshal(wanted)
	return string(list), err
}

// Empty finds out which of the named tables have no rows. It returns the positions of their names
// in the slice names.
func (s *sqlSession) Empty(ctx context.Context, names []string) ([]int, error) {
	tables := make([]string, len(names))
	for i, name := range names {
		tables[i] = s.dialect.table(name)
	}
	found, err := s.query(ctx, "look for rows", sqlsink.EmptyQuery(tables))
	if err != nil {
		return nil, err
	}
	indexes := make([]int, len(found.rows))
	for i := range found.rows {
		if indexes[i], err = strconv.Atoi(found.text(i, 0)); err != nil {
			return nil, fmt.Errorf("look for rows: %w", err)
		}
	}
	return indexes, nil
}

// Tables describes the named tables that exist. If no table has the exact name, it looks for the
// name in upper case, because a table that was created without quotes has such a name. Tables also
// finishes interrupted widenings of columns.
func (s *sqlSession) Tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	tables, err := s.describe(ctx, names)
	if err != nil {
		return nil, err
	}
	finished, err := s.finishWidening(ctx, tables)
	if err != nil {
		return nil, err
	}
	if finished {
		if tables, err = s.describe(ctx, names); err != nil {
			return nil, err
		}
	}
	for _, t := range tables {
		hideUnfinished(t)
	}
	return tables, s.describeKeys(ctx, tables)
}

func (s *sqlSession) describe(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	list, err := nameSpellings(names)
	if err != nil {
		return nil, err
	}
	found, err := s.query(ctx, "read the catalogue", catalogueSQL, list)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*sqlsink.RealTable)
	for i := range found.rows {
		name := found.text(i, 0)
		t := byName[name]
		if t == nil {
			t = &sqlsink.RealTable{Name: name}
			byName[name] = t
		}
		c, err := describe(found, i)
		if err != nil {
			return nil, fmt.Errorf("read the catalogue: column %q of table %q: %w", c.Name, name, err)
		}
		t.Columns = append(t.Columns, c)
	}
	var tables []*sqlsink.RealTable
	for _, n := range names {
		t := byName[n]
		if t == nil && byName[strings.ToUpper(n)] != nil {
			upper := *byName[strings.ToUpper(n)]
			t = &upper
			s.dialect.actual.Store(n, t.Name)
			t.Name = n
		} else {
			s.dialect.actual.Delete(n)
		}
		if t != nil {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// finishWidening completes widenings that were interrupted after the old column was dropped: it
// gives the old column's name to the new column. It reports whether it renamed any column.
func (s *sqlSession) finishWidening(ctx context.Context, tables []*sqlsink.RealTable) (finished bool, err error) {
	for _, t := range tables {
		for i := range t.Columns {
			of, ok := widenedFrom(t.Columns[i].Name)
			if !ok || hasColumn(t, of) {
				continue
			}
			sql := "ALTER TABLE " + s.dialect.table(t.Name) + " RENAME COLUMN " + quote(t.Columns[i].Name) + " TO " + quote(of)
			if _, err := s.query(ctx, "finish widening a column", sql); err != nil {
				return false, err
			}
			finished = true
		}
	}
	return finished, nil
}

func hasColumn(t *sqlsink.RealTable, column string) bool {
	for i := range t.Columns {
		if t.Columns[i].Name == column {
			return true
		}
	}
	return false
}

// hideUnfinished removes from t.Columns the new columns of unfinished widenings, and the column
// with the row numbers of a staging table.
func hideUnfinished(t *sqlsink.RealTable) {
	var kept []sqlsink.RealColumn
	for _, c := range t.Columns {
		if of, ok := widenedFrom(c.Name); c.Name == rowColumn || ok && hasColumn(t, of) {
			continue
		}
		kept = append(kept, c)
	}
	t.Columns = kept
}

func (s *sqlSession) describeKeys(ctx context.Context, tables []*sqlsink.RealTable) error {
	if len(tables) == 0 {
		return nil
	}
	found, err := s.query(ctx, "read the catalogue", keysSQL)
	if err != nil {
		return err
	}
	column := make(map[string]int, len(found.columns))
	for i, name := range found.columns {
		column[strings.ToLower(name)] = i
	}
	table, hasTable := column["table_name"]
	name, hasName := column["column_name"]
	if !hasTable || !hasName {
		return nil
	}
	for i := range found.rows {
		for _, t := range tables {
			if s.dialect.table(t.Name) == quote(found.text(i, table)) {
				t.Key = append(t.Key, found.text(i, name))
			}
		}
	}
	return nil
}

// describe converts a row of catalogueSQL to a column.
func describe(found *queryResult, row int) (sqlsink.RealColumn, error) {
	c := sqlsink.RealColumn{Name: found.text(row, 1), Type: found.text(row, 2), Nullable: found.text(row, 7) == "YES"}
	c.Filled = found.rows[row][8] != nil || found.text(row, 9) == "YES"
	a := &attribute{}
	for i, into := range []*int{3: &a.length, 4: &a.precision, 5: &a.scale} {
		if into == nil || found.text(row, i) == "" {
			continue
		}
		var err error
		if *into, err = strconv.Atoi(found.text(row, i)); err != nil {
			return c, err
		}
	}
	a.kind, c.Holds = kindOf(c.Type)
	switch a.kind {
	case kindText:
		c.Type = fmt.Sprintf("VARCHAR(%d)", a.length)
		c.Narrow = a.length < defaultLength
	case kindFixed:
		c.Type = fmt.Sprintf("NUMBER(%d,%d)", a.precision, a.scale)
		c.Holds = schema.Number
		if a.scale == 0 {
			c.Holds = schema.Integer
			c.Narrow = a.precision < integerDigits
		}
	case kindTZ, kindNTZ, kindLTZ:
		a.precision = 9
		if p := found.text(row, 6); p != "" {
			n, err := strconv.Atoi(p)
			if err != nil {
				return c, err
			}
			a.precision = n
		}
		c.Type = fmt.Sprintf("%s(%d)", c.Type, a.precision)
	}
	c.Native = a
	return c, nil
}

const (
	defaultLength = 16777216 // characters of a VARCHAR that was declared without a length
	integerDigits = 19       // decimal digits of a 64-bit integer
)

// kindOf returns the encoding for values of a Snowflake type. It also returns the schema type whose
// values the Snowflake type can hold, or 0 if there is no such schema type. The parameter name is
// the DATA_TYPE of the catalogue.
func kindOf(name string) (kind, schema.Type) {
	switch name {
	case "TEXT":
		return kindText, schema.String
	case "NUMBER":
		return kindFixed, schema.Integer
	case "FLOAT":
		return kindFloat, schema.Number
	case "BOOLEAN":
		return kindBool, schema.Boolean
	case "TIMESTAMP_TZ":
		return kindTZ, schema.DateTime
	case "TIMESTAMP_LTZ":
		return kindLTZ, schema.DateTime
	case "TIMESTAMP_NTZ":
		return kindNTZ, schema.DateTime
	case "DATE":
		return kindDate, schema.DateTime
	case "VARIANT":
		return kindVariant, schema.Object
	case "OBJECT":
		return kindObject, 0
	case "ARRAY":
		return kindArray, 0
	}
	return kindCast, 0
}
