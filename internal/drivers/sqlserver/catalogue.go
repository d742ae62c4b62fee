package sqlserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// relation describes a table, except for its columns.
type relation struct {
	id string // object_id
	// The field plain is set if the table can be truncated, and a write to the table changes
	// nothing except the table's rows.
	plain bool
	// The field merges is set if eds can write the table with MERGE. MERGE has defects in tables
	// with a filtered index, an indexed view, a history or an INSTEAD OF trigger, and does not work
	// with memory-optimised tables.
	merges bool
}

// attribute describes the type of a column.
type attribute struct {
	kind      kind
	base      string // the type's name; for an alias type, the name of its base type
	length    int    // the maximum length: in UTF-16 units for N types, else in bytes; -1 for MAX
	precision int
	scale     int
	collation string // "" if the type is not a text type
	utf8      bool   // the collation stores VARCHAR text as UTF-8
	identity  bool
	indexed   bool // an index, a constraint or a computed column uses the column
}

// columnQuery lists the columns of the named tables and views of a schema. For an alias type, it
// returns the base type.
const columnQuery = `SELECT o.name, c.name, COALESCE(b.name, u.name), c.max_length, c.precision, c.scale, c.collation_name, ` +
	`c.is_nullable, c.is_identity, c.is_computed,
CASE WHEN c.default_object_id <> 0 THEN 1 ELSE 0 END, c.generated_always_type,
CASE WHEN EXISTS (SELECT 1 FROM sys.index_columns AS x WHERE x.object_id = c.object_id AND x.column_id = c.column_id)
  OR EXISTS (SELECT 1 FROM sys.foreign_key_columns AS f WHERE f.parent_object_id = c.object_id AND f.parent_column_id = c.column_id)
  OR EXISTS (SELECT 1 FROM sys.sql_expression_dependencies AS d ` +
	`WHERE d.referenced_id = c.object_id AND d.referenced_minor_id = c.column_id AND d.is_schema_bound_reference = 1)
  THEN 1 ELSE 0 END
FROM sys.columns AS c
INNER JOIN sys.objects AS o ON o.object_id = c.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
INNER JOIN sys.types AS u ON u.user_type_id = c.user_type_id
LEFT JOIN sys.types AS b ON b.user_type_id = c.system_type_id
WHERE s.name = @p1 AND o.type IN ('U', 'V') AND o.name IN (%s)
ORDER BY o.name, c.column_id`

// tableQuery returns the properties that decide how eds can write the rows of a table. It takes the
// parameters of columnQuery.
const tableQuery = `SELECT o.name, CASE WHEN o.type = 'V' THEN 1 ELSE 0 END,
COALESCE((SELECT t.is_memory_optimized FROM sys.tables AS t WHERE t.object_id = o.object_id), 0),
COALESCE((SELECT t.temporal_type FROM sys.tables AS t WHERE t.object_id = o.object_id), 0),
(SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = o.object_id AND g.is_disabled = 0),
(SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = o.object_id AND g.is_instead_of_trigger = 1),
(SELECT COUNT(*) FROM sys.foreign_keys AS f WHERE f.parent_object_id = o.object_id OR f.referenced_object_id = o.object_id),
(SELECT COUNT(*) FROM sys.sql_expression_dependencies AS d ` +
	`INNER JOIN sys.indexes AS v ON v.object_id = d.referencing_id WHERE d.referenced_id = o.object_id),
(SELECT COUNT(*) FROM sys.indexes AS i WHERE i.object_id = o.object_id AND i.has_filter = 1),
o.object_id
FROM sys.objects AS o
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
WHERE s.name = @p1 AND o.type IN ('U', 'V') AND o.name IN (%s)`

// keyQuery lists the columns of the tables' primary keys. It takes the parameters of columnQuery.
const keyQuery = `SELECT o.name, c.name
FROM sys.indexes AS i
INNER JOIN sys.objects AS o ON o.object_id = i.object_id
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id
INNER JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id
WHERE s.name = @p1 AND i.is_primary_key = 1 AND x.is_included_column = 0 AND o.name IN (%s)
ORDER BY o.name, x.key_ordinal`

// namesAtOnce is the maximum number of tables per catalogue query.
const namesAtOnce = 500

// objectQuery lists the named objects of a schema.
const objectQuery = `SELECT o.name, o.type, o.object_id
FROM sys.objects AS o
INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id
WHERE s.name = @p1 AND o.name IN (%s)`

// objectKinds describes objects other than tables, by sys.objects.type.
var objectKinds = map[string]string{"V": "a view", "SN": "a synonym", "SO": "a sequence"}

// Objects describes the named objects that exist. It identifies each object by its object_id.
func (s *sqlSession) Objects(ctx context.Context, names []string) ([]sqlsink.Object, error) {
	var objects []sqlsink.Object
	for some := range slices.Chunk(names, namesAtOnce) {
		list, params, requested := s.nameParams(some)
		rows, err := s.query(ctx, "read the catalogue", fmt.Sprintf(objectQuery, list), params...)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			o := sqlsink.Object{Name: requested[strings.ToLower(row.text(0))], ID: row.text(2)}
			if kind := strings.TrimSpace(row.text(1)); kind != "U" {
				o.Other = cmp.Or(objectKinds[kind], "an object of type "+kind)
			}
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// PlacedID returns the object_id of the live table, which Place does not change.
func (s *sqlSession) PlacedID(_, live *sqlsink.Layout, _ sink.LoadMode) string {
	return live.Real.Native.(*relation).id
}

// Empty finds out which of the named tables have no rows. It returns the positions of their names
// in the slice names.
func (s *sqlSession) Empty(ctx context.Context, names []string) ([]int, error) {
	tables := make([]string, len(names))
	for i, name := range names {
		tables[i] = s.qualify(name)
	}
	var rows []resultRow
	err := s.waitShortly(ctx, func() (err error) {
		rows, err = s.query(ctx, "look for rows", sqlsink.EmptyQuery(tables))
		return err
	})
	if err != nil {
		return nil, err
	}
	indexes := make([]int, len(rows))
	for i, row := range rows {
		indexes[i] = int(row.integer(0))
	}
	return indexes, nil
}

// nameParams returns the schema and the names as query parameters, with the list of parameter
// markers for the names. It also returns a map from each name in lower case to the name, because
// the server ignores case.
func (s *sqlSession) nameParams(names []string) (list string, params []string, requested map[string]string) {
	params, requested = []string{s.namespace}, make(map[string]string)
	var markers []string
	for _, name := range names {
		params = append(params, name)
		markers = append(markers, fmt.Sprintf("@p%d", len(params)))
		requested[strings.ToLower(name)] = name
	}
	return strings.Join(markers, ", "), params, requested
}

// Tables describes the named tables that exist. If a name belongs to a view, the result has an
// entry for the view, without columns.
func (s *sqlSession) Tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	var tables []*sqlsink.RealTable
	for some := range slices.Chunk(names, namesAtOnce) {
		found, err := s.tables(ctx, some)
		if err != nil {
			return nil, err
		}
		tables = append(tables, found...)
	}
	return tables, nil
}

func (s *sqlSession) tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	list, params, requested := s.nameParams(names) // the result uses the requested spelling of names
	rows, err := s.query(ctx, "read the catalogue", fmt.Sprintf(columnQuery, list), params...)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var tables []*sqlsink.RealTable
	byName := make(map[string]*sqlsink.RealTable)
	for _, row := range rows {
		t := byName[row.text(0)]
		if t == nil {
			t = &sqlsink.RealTable{Name: requested[strings.ToLower(row.text(0))], Native: &relation{plain: true, merges: true}}
			byName[row.text(0)] = t
			tables = append(tables, t)
		}
		t.Columns = append(t.Columns, describe(row))
	}
	if err := s.describeTables(ctx, byName, list, params); err != nil {
		return nil, err
	}
	return tables, s.describeKeys(ctx, byName, list, params)
}

func (s *sqlSession) describeTables(ctx context.Context, tables map[string]*sqlsink.RealTable, list string, params []string) error {
	rows, err := s.query(ctx, "read the catalogue", fmt.Sprintf(tableQuery, list), params...)
	if err != nil {
		return err
	}
	for _, row := range rows {
		t := tables[row.text(0)]
		if t == nil {
			continue
		}
		if row.boolean(1) {
			t.Other, t.Columns = "a view", nil
		}
		memory, history := row.boolean(2), row.boolean(3)
		triggers, instead, foreign := row.boolean(4), row.boolean(5), row.boolean(6)
		indexedViews, filtered := row.boolean(7), row.boolean(8)
		*t.Native.(*relation) = relation{
			id:     row.text(9),
			plain:  !memory && !history && !triggers && !foreign && !indexedViews,
			merges: !memory && !history && !instead && !indexedViews && !filtered,
		}
	}
	return nil
}

func (s *sqlSession) describeKeys(ctx context.Context, tables map[string]*sqlsink.RealTable, list string, params []string) error {
	rows, err := s.query(ctx, "read the catalogue", fmt.Sprintf(keyQuery, list), params...)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if t := tables[row.text(0)]; t != nil {
			t.Key = append(t.Key, row.text(1))
		}
	}
	for _, t := range tables {
		markIdentitiesGenerated(t)
	}
	return nil
}

// describe converts a row of columnQuery to a column.
func describe(row resultRow) sqlsink.RealColumn {
	a := &attribute{
		base: row.text(2), length: int(row.integer(3)), precision: int(row.integer(4)), scale: int(row.integer(5)),
		collation: row.text(6), identity: row.boolean(8), indexed: row.boolean(12),
	}
	if strings.HasPrefix(a.base, "n") && a.length > 0 {
		a.length /= 2 // the catalogue counts bytes
	}
	a.utf8 = strings.HasSuffix(strings.ToUpper(a.collation), "_UTF8")
	c := sqlsink.RealColumn{
		Name: row.text(1), Nullable: row.boolean(7), Filled: row.boolean(10) || a.identity,
		Generated: row.boolean(9) || row.boolean(11) || a.base == "timestamp", Native: a,
	}
	a.kind, c.Holds = kindOf(a.base)
	c.Type = a.spelling()
	c.Narrow = a.narrow()
	return c
}

// narrow reports whether a wider type for the same values exists, such as BIGINT for
// INT. It returns false for DECIMAL, because its precision restricts the values on purpose.
func (a *attribute) narrow() bool {
	switch a.kind {
	case kindTinyInt, kindSmallInt, kindInt, kindReal:
		return true
	case kindVarChar:
		return true
	case kindNVarChar:
		// Columns that eds creates for enumerations and keys are wide enough.
		return a.length >= 0 && !(a.length >= keyLength && a.collation == binary)
	}
	return false
}

// kindOf returns the encoding for values of a SQL Server type. It also returns the schema type
// whose values the SQL Server type can hold, or 0 if there is no such schema type. The parameter
// base is the name of the SQL Server type.
func kindOf(base string) (kind, schema.Type) {
	switch base {
	case "nvarchar", "nchar", "ntext":
		return kindNVarChar, schema.String
	case "varchar", "char", "text":
		return kindVarChar, schema.String
	case "bit":
		return kindBit, schema.Boolean
	case "tinyint":
		return kindTinyInt, schema.Integer
	case "smallint":
		return kindSmallInt, schema.Integer
	case "int":
		return kindInt, schema.Integer
	case "bigint":
		return kindBigInt, schema.Integer
	case "real":
		return kindReal, schema.Number
	case "float":
		return kindFloat, schema.Number
	case "decimal", "numeric", "money", "smallmoney":
		return kindDecimal, schema.Number
	case "datetimeoffset":
		return kindDateTimeOffset, schema.DateTime
	case "datetime2":
		return kindDateTime2, schema.DateTime
	case "datetime", "smalldatetime":
		return kindDateTime, schema.DateTime
	case "date":
		return kindDate, schema.DateTime
	case "varbinary", "binary", "image":
		return kindBinary, 0
	}
	return kindCast, 0
}

// spelling returns the type with its length or precision, in SQL syntax.
func (a *attribute) spelling() string {
	switch a.base {
	case "nvarchar", "nchar", "varchar", "char", "varbinary", "binary":
		if a.length < 0 {
			return strings.ToUpper(a.base) + "(MAX)"
		}
		return fmt.Sprintf("%s(%d)", strings.ToUpper(a.base), a.length)
	case "decimal", "numeric":
		return fmt.Sprintf("%s(%d, %d)", strings.ToUpper(a.base), a.precision, a.scale)
	case "datetimeoffset", "datetime2", "time":
		return fmt.Sprintf("%s(%d)", strings.ToUpper(a.base), a.scale)
	case "float":
		return "FLOAT(53)"
	}
	return strings.ToUpper(a.base)
}

// declaration returns the type with its collation, in SQL syntax, for a column definition.
func (a *attribute) declaration() string {
	if a.collation == "" || a.kind == kindCast {
		return a.spelling()
	}
	return a.spelling() + " COLLATE " + a.collation
}

// markIdentitiesGenerated sets the mark "generated" for all identity columns outside the key,
// because the server refuses to update identity columns.
func markIdentitiesGenerated(t *sqlsink.RealTable) {
	for i := range t.Columns {
		c := &t.Columns[i]
		if c.Native.(*attribute).identity && !slices.Contains(t.Key, c.Name) {
			c.Generated = true
		}
	}
}
