package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// relation describes a table, except for its columns.
type relation struct {
	oid string
	// The field plain is set if a write to the table changes nothing except the table's rows. A
	// plain table is an ordinary table without triggers, rules, foreign keys in either direction,
	// row security, partitions or child tables.
	plain bool
	// The field checked is set if no trigger changes rows before the server checks the constraints.
	checked bool
	checks  []checkConstraint
	// uniques are the columns of each unique index that ON CONFLICT can name.
	uniques [][]string
}

// checkConstraint is a CHECK constraint.
type checkConstraint struct {
	Name       string
	Definition string
	Columns    []string // the columns that the constraint refers to
}

// attribute describes a column's type. If the type is a domain, attribute describes the domain's
// base type.
type attribute struct {
	kind      kind
	oid       uint32 // the type's oid
	array     uint32 // the oid of the type's array type, or 0 if it has none
	spelling  string // the type's name, qualified and quoted, without a length
	typmod    int32  // the type modifier, such as a length; see pg_attribute.atttypmod
	collation string // qualified and quoted, or "" for the type's default collation
}

// catalogueQuery lists the columns of tables. Its parameters are the schema and
// a JSON array of table names.
const catalogueQuery = `
SELECT c.oid::text, c.relname,
       c.relkind = 'r' AND NOT c.relhastriggers AND NOT c.relhasrules AND NOT c.relrowsecurity AND NOT c.relispartition
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid OR h.inhrelid = c.oid),
       a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull OR t.typnotnull,
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> '' OR a.attidentity = 'a',
       b.oid::text, b.typname, b.typtype::text, b.typcategory::text, b.typarray::text, ` +
	`pg_catalog.quote_ident(bs.nspname) || '."' || replace(b.typname, '"', '""') || '"',
       CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END::text,
       coalesce((SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname)
                   FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                  WHERE l.oid = a.attcollation AND a.attcollation <> b.typcollation), ''),
       t.typtype = 'd', c.relkind::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  JOIN pg_catalog.pg_namespace bs ON bs.oid = b.typnamespace
 WHERE s.nspname = $1 AND c.relname IN (SELECT json_array_elements_text($2::json))
 ORDER BY c.relname, a.attnum`

// indexQuery lists the unique indexes of tables, primary keys first. It leaves out deferred,
// partial and expression indexes. It takes the parameters of catalogueQuery.
const indexQuery = `
SELECT c.relname, i.indisprimary,
       (SELECT json_agg(a.attname ORDER BY k.n)
          FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
         WHERE k.n <= i.indnkeyatts)::text
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
 WHERE s.nspname = $1 AND c.relname IN (SELECT json_array_elements_text($2::json))
   AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY c.relname, i.indisprimary DESC, i.indexrelid`

// checkQuery lists the check constraints of tables. It leaves out constraints that refer to no
// column, or to the whole row. It takes the parameters of catalogueQuery.
const checkQuery = `
SELECT c.relname,
       NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7),
       (SELECT json_agg(json_build_object('name', k.conname, 'definition', pg_catalog.pg_get_constraintdef(k.oid), 'columns',
                 (SELECT json_agg(a.attname) FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey))) ORDER BY k.conname)
          FROM pg_catalog.pg_constraint k
         WHERE k.conrelid = c.oid AND k.contype = 'c' AND 0 < ALL (k.conkey))::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
 WHERE s.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relname IN (SELECT json_array_elements_text($2::json))`

// objectKinds describes relations other than tables, by pg_class.relkind. A partitioned table
// counts as a table.
var objectKinds = map[string]string{
	"v": "a view", "m": "a materialized view", "S": "a sequence", "f": "a foreign table",
	"i": "an index", "I": "an index", "c": "a type",
}

// objectsQuery lists relations of any kind. It takes the parameters of catalogueQuery.
const objectsQuery = `
SELECT c.relname, c.relkind::text, c.oid::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
 WHERE s.nspname = $1 AND c.relname IN (SELECT json_array_elements_text($2::json))`

// Objects describes the named objects that exist. It identifies each object by its oid, except on
// CockroachDB, where TRUNCATE changes a table's oid.
func (s *sqlSession) Objects(ctx context.Context, names []string) ([]sqlsink.Object, error) {
	list, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	rows, err := s.query(ctx, "read the catalogue", objectsQuery, s.namespace, string(list))
	if err != nil {
		return nil, err
	}
	objects := make([]sqlsink.Object, 0, len(rows))
	for _, row := range rows {
		o := sqlsink.Object{Name: row.text(0), Other: objectKinds[row.text(1)]}
		if !s.features.Cockroach {
			o.ID = row.text(2)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// PlacedID returns the oid that the live table will have after Place, or "" on CockroachDB.
func (s *sqlSession) PlacedID(stage, live *sqlsink.Layout, mode sink.LoadMode) string {
	switch {
	case s.features.Cockroach:
		return ""
	case s.tableStatements(live).swaps(mode):
		return stage.Real.Native.(*relation).oid
	default:
		return live.Real.Native.(*relation).oid
	}
}

// Empty finds out which of the named tables have no rows. It returns the positions of their names
// in the slice names.
func (s *sqlSession) Empty(ctx context.Context, names []string) ([]int, error) {
	tables := make([]string, len(names))
	for i, name := range names {
		tables[i] = s.qualify(name)
	}
	results, err := s.execAll(ctx, "look for rows", s.lockWait(sqlsink.ShortLockWait)+sqlsink.EmptyQuery(tables))
	if err != nil {
		return nil, err
	}
	rows := resultRows(results[len(results)-1])
	indexes := make([]int, len(rows))
	for i, row := range rows {
		if indexes[i], err = strconv.Atoi(row.text(0)); err != nil {
			return nil, fmt.Errorf("look for rows: %w", err)
		}
	}
	return indexes, nil
}

// Tables describes the named tables that exist. If a name belongs to an object of another kind,
// such as a view, the result has an entry for the object, without columns.
func (s *sqlSession) Tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	list, err := json.Marshal(names)
	if err != nil {
		return nil, err
	}
	rows, err := s.query(ctx, "read the catalogue", catalogueQuery, s.namespace, string(list))
	if err != nil {
		return nil, err
	}
	var tables []*sqlsink.RealTable
	byName := make(map[string]*sqlsink.RealTable)
	for _, row := range rows {
		t := byName[row.text(1)]
		if t == nil {
			r := &relation{oid: row.text(0), plain: row.text(2) == "t"}
			t = &sqlsink.RealTable{Name: row.text(1), Other: objectKinds[row.text(17)], Native: r}
			byName[t.Name] = t
			tables = append(tables, t)
		}
		if t.Other != "" {
			continue
		}
		c, err := describe(row)
		if err != nil {
			return nil, fmt.Errorf("read the catalogue: column %q of table %q: %w", c.Name, t.Name, err)
		}
		t.Columns = append(t.Columns, c)
	}
	if err := s.describeKeys(ctx, byName, string(list)); err != nil {
		return nil, err
	}
	return tables, s.describeChecks(ctx, byName, string(list))
}

// describeChecks records the check constraints in the descriptions of tables. On CockroachDB it
// records none, so a staging table on CockroachDB checks only types. The parameter list is a JSON
// array of table names.
func (s *sqlSession) describeChecks(ctx context.Context, tables map[string]*sqlsink.RealTable, list string) error {
	if len(tables) == 0 || s.features.Cockroach {
		return nil
	}
	rows, err := s.query(ctx, "read the catalogue", checkQuery, s.namespace, list)
	if err != nil {
		return err
	}
	for _, row := range rows {
		t := tables[row.text(0)]
		if t == nil {
			continue
		}
		r := t.Native.(*relation)
		if r.checked = row.text(1) == "t"; !r.checked || row.isNull(2) {
			continue
		}
		if err := json.Unmarshal(row[2], &r.checks); err != nil {
			return fmt.Errorf("read the catalogue: %w", err)
		}
		for _, c := range r.checks {
			t.Checks = append(t.Checks, c.Definition)
		}
	}
	return nil
}

func (s *sqlSession) describeKeys(ctx context.Context, tables map[string]*sqlsink.RealTable, list string) error {
	if len(tables) == 0 {
		return nil
	}
	rows, err := s.query(ctx, "read the catalogue", indexQuery, s.namespace, list)
	if err != nil {
		return err
	}
	for _, row := range rows {
		var columns []string
		t := tables[row.text(0)]
		if t == nil || row.isNull(2) {
			continue
		}
		if err := json.Unmarshal(row[2], &columns); err != nil {
			return fmt.Errorf("read the catalogue: %w", err)
		}
		if row.text(1) == "t" {
			t.Key = columns
		}
		r := t.Native.(*relation)
		r.uniques = append(r.uniques, columns)
	}
	return nil
}

// describe converts a row of catalogueQuery to a column. On an error, the column has only its name,
// type and flags.
func describe(row resultRow) (sqlsink.RealColumn, error) {
	c := sqlsink.RealColumn{
		Name: row.text(3), Type: row.text(4), Nullable: row.text(5) == "f", Filled: row.text(6) == "t", Generated: row.text(7) == "t",
	}
	oid, err := strconv.ParseUint(row.text(8), 10, 32)
	if err != nil {
		return c, err
	}
	array, err := strconv.ParseUint(row.text(12), 10, 32)
	if err != nil {
		return c, err
	}
	typmod, err := strconv.ParseInt(row.text(14), 10, 32)
	if err != nil {
		return c, err
	}
	a := &attribute{
		oid: uint32(oid), array: uint32(array), spelling: row.text(13), typmod: int32(typmod), collation: row.text(15),
	}
	a.kind, c.Holds = kindOf(row.text(9), row.text(10), row.text(11))
	c.Narrow = a.narrow() && row.text(16) == "f" // domains stay as they are
	c.Native = a
	return c, nil
}

// narrow reports whether a wider type for the same values exists, such as bigint for
// integer. It returns false for an enum and for a numeric with a precision, which restrict values
// on purpose.
func (a *attribute) narrow() bool {
	switch a.kind {
	case kindInt2, kindInt4, kindFloat4:
		return true
	case kindText:
		return a.typmod >= 4
	}
	return false
}

// kindOf returns the encoding for values of a PostgreSQL type. It also returns the schema type
// whose values the PostgreSQL type can hold, or 0 if there is no such schema type. The parameters
// are the type's name, pg_type.typtype and pg_type.typcategory.
func kindOf(name, typtype, category string) (kind, schema.Type) {
	switch {
	case typtype == "e":
		return kindText, schema.Enum
	case category == "A":
		return kindArray, 0 // not schema.Array, whose values are JSON
	}
	switch name {
	case "text", "varchar", "bpchar", "citext", "name":
		return kindText, schema.String
	case "bool":
		return kindBool, schema.Boolean
	case "int2":
		return kindInt2, schema.Integer
	case "int4":
		return kindInt4, schema.Integer
	case "int8":
		return kindInt8, schema.Integer
	case "float4":
		return kindFloat4, schema.Number
	case "float8":
		return kindFloat8, schema.Number
	case "numeric":
		return kindNumeric, schema.Number
	case "timestamptz":
		return kindTimestampTZ, schema.DateTime
	case "timestamp":
		return kindTimestamp, schema.DateTime
	case "date":
		return kindDate, schema.DateTime
	case "json":
		return kindJSON, schema.Object
	case "jsonb":
		return kindJSONB, schema.Object
	case "uuid":
		return kindUUID, 0
	case "bytea":
		return kindBytea, 0
	}
	return kindCast, 0
}

// upsertable reports whether a unique index has exactly the given columns, in any order.
func (r *relation) upsertable(key []string) bool {
	return slices.ContainsFunc(r.uniques, func(unique []string) bool {
		return len(unique) == len(key) && !slices.ContainsFunc(key, func(k string) bool { return !slices.Contains(unique, k) })
	})
}
