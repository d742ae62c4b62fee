package tds

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// definition is the definition of a table: its columns, and the names of its primary key's columns.
type definition struct {
	Columns []definedColumn
	Key     []string
}

type definedColumn struct {
	Name      string
	Type      Type
	Collation string
	NotNull   bool
	Identity  bool
}

// column returns the column with the given name, in any case, or nil if there is none.
func (d *definition) column(name string) *definedColumn {
	for i := range d.Columns {
		if strings.EqualFold(d.Columns[i].Name, name) {
			return &d.Columns[i]
		}
	}
	return nil
}

// identity returns the index of the identity column, or -1 if there is none.
func (d *definition) identity() int {
	for i, c := range d.Columns {
		if c.Identity {
			return i
		}
	}
	return -1
}

// catalogueTables creates the supported system views as SQLite tables.
const catalogueTables = `
CREATE TABLE "sys.schemas" (schema_id INT PRIMARY KEY, name TEXT NVARCHAR(128) COLLATE NOCASE UNIQUE);
INSERT INTO "sys.schemas" VALUES (1, 'dbo'), (4, 'sys');
CREATE TABLE "sys.types" (user_type_id INT PRIMARY KEY, name TEXT NVARCHAR(128));
INSERT INTO "sys.types" VALUES (231, 'nvarchar'), (167, 'varchar'), (239, 'nchar'), (175, 'char'), (104, 'bit'), (48, 'tinyint'),
  (52, 'smallint'), (56, 'int'), (127, 'bigint'), (59, 'real'), (62, 'float'),
  (106, 'decimal'), (43, 'datetimeoffset'), (42, 'datetime2'), (61, 'datetime'), (58, 'smalldatetime'),
  (40, 'date'), (41, 'time'), (165, 'varbinary'), (173, 'binary');
CREATE TABLE "sys.objects" (object_id INTEGER PRIMARY KEY, name TEXT NVARCHAR(128) COLLATE NOCASE, schema_id INT,
  type TEXT NVARCHAR(2), definition TEXT, UNIQUE (schema_id, name));
CREATE TABLE "sys.tables" (object_id INT PRIMARY KEY, is_memory_optimized INT, temporal_type INT);
CREATE TABLE "sys.columns" (object_id INT, column_id INT, name TEXT NVARCHAR(128), max_length INT, precision INT, scale INT,
  collation_name TEXT NVARCHAR(128),
  is_nullable INT, is_identity INT, is_computed INT,
  default_object_id INT, generated_always_type INT, user_type_id INT, system_type_id INT);
CREATE TABLE "sys.indexes" (object_id INT, index_id INT, name TEXT NVARCHAR(128), is_primary_key INT,
  is_unique INT, is_disabled INT, has_filter INT, is_hypothetical INT);
CREATE TABLE "sys.index_columns" (object_id INT, index_id INT, column_id INT, key_ordinal INT, is_included_column INT);
CREATE TABLE "sys.triggers" (parent_id INT, is_disabled INT, is_instead_of_trigger INT);
CREATE TABLE "sys.foreign_keys" (parent_object_id INT, referenced_object_id INT);
CREATE TABLE "sys.foreign_key_columns" (parent_object_id INT, parent_column_id INT);
CREATE TABLE "sys.sql_expression_dependencies" (referencing_id INT, referenced_id INT,
  referenced_minor_id INT, is_schema_bound_reference INT);
CREATE TABLE "sys.databases" (name TEXT NVARCHAR(128), delayed_durability INT);`

// prepare creates the system views in an empty database.
func (d *database) prepare(ctx context.Context, durability int) error {
	if _, err := d.db.ExecContext(ctx, catalogueTables); err != nil {
		return fmt.Errorf("make the catalogue: %w", err)
	}
	_, err := d.db.ExecContext(ctx, `INSERT INTO "sys.databases" VALUES (?, ?)`, d.name, durability)
	return err
}

// schemaAndName splits an object's name, schema.name, into its parts.
func schemaAndName(object string) (schema, own string) {
	schema, own, _ = strings.Cut(object, ".")
	return schema, own
}

func notFound(object string) error {
	return &Error{Number: 208, Class: 16, State: 1, Message: fmt.Sprintf("Invalid object name '%s'.", object)}
}

// temporaryTables creates the table that contains the definitions of a session's temporary tables.
const temporaryTables = "CREATE TEMP TABLE definitions (object TEXT PRIMARY KEY, definition TEXT)"

// definition returns the definition of a table. A table that does not exist is an *Error.
func (e *engine) definition(ctx context.Context, object string) (*definition, error) {
	text := ""
	if strings.HasPrefix(object, "#") {
		found, err := e.ask(ctx, "SELECT definition FROM temp.definitions WHERE object = ?", object)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, notFound(object)
		}
		text = found[0][0].(string)
	} else {
		schema, own := schemaAndName(object)
		found, err := e.ask(ctx, `SELECT o.definition FROM "sys.objects" AS o JOIN "sys.schemas" AS s ON s.schema_id = `+
			`o.schema_id WHERE s.name = ? AND o.name = ?`, schema, own)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, notFound(object)
		}
		text = found[0][0].(string)
	}
	d := new(definition)
	return d, json.Unmarshal([]byte(text), d)
}

// enter writes the definition of a table to the catalogue. It replaces an existing definition.
func (e *engine) enter(ctx context.Context, object string, d *definition) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if strings.HasPrefix(object, "#") {
		return e.do(ctx, "INSERT INTO temp.definitions VALUES (?, ?)", object, string(text))
	}
	schema, own := schemaAndName(object)
	found, err := e.ask(ctx, `SELECT schema_id FROM "sys.schemas" WHERE name = ?`, schema)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return &Error{Number: 2760, Class: 16, State: 1, Message: fmt.Sprintf("The specified schema name %q either does not "+
			"exist or you do not have permission to use it.", schema)}
	}
	if err := e.do(ctx, `INSERT INTO "sys.objects" (name, schema_id, type, definition) VALUES (?, ?, 'U', ?)
ON CONFLICT (schema_id, name) DO UPDATE SET definition = excluded.definition`, own, found[0][0], string(text)); err != nil {
		return err
	}
	found, err = e.ask(ctx, `SELECT object_id FROM "sys.objects" WHERE name = ? AND schema_id = ?`, own, found[0][0])
	if err != nil {
		return err
	}
	return e.enterColumns(ctx, found[0][0].(int64), d)
}

func (e *engine) enterColumns(ctx context.Context, id int64, d *definition) error {
	for _, text := range []string{
		`DELETE FROM "sys.columns" WHERE object_id = ?`,
		`DELETE FROM "sys.indexes" WHERE object_id = ? AND is_primary_key = 1`,
		`DELETE FROM "sys.index_columns" WHERE object_id = ? AND index_id = 1`, `INSERT OR IGNORE INTO "sys.tables" VALUES (?, 0, 0)`,
	} {
		if err := e.do(ctx, text, id); err != nil {
			return err
		}
	}
	var values []any
	for i, c := range d.Columns {
		var collation any
		if c.Type.text() {
			collation = c.Collation
		}
		length, precision, scale := c.Type.catalogue()
		values = append(values, id, i+1, c.Name, length, precision, scale, collation, !c.NotNull, c.Identity, strings.ToLower(c.Type.Name))
	}
	rows := strings.TrimSuffix(strings.Repeat("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?), ", len(d.Columns)), ", ")
	if err := e.do(ctx, `WITH c AS (VALUES `+rows+`) INSERT INTO "sys.columns" SELECT column1, column2, column3, column4, `+
		`column5, column6, column7, column8, column9, 0, 0, 0, t.user_type_id, t.user_type_id FROM c JOIN "sys.types" AS t ON `+
		`t.name = column10`, values...); err != nil {
		return err
	}
	if d.Key == nil {
		return nil
	}
	if err := e.do(ctx, `INSERT INTO "sys.indexes" VALUES (?, 1, 'PK', 1, 1, 0, 0, 0)`, id); err != nil {
		return err
	}
	for i, k := range d.Key {
		if err := e.do(ctx, `INSERT INTO "sys.index_columns" SELECT object_id, 1, column_id, ?, 0 FROM "sys.columns" WHERE `+
			`object_id = ? AND name = ? COLLATE NOCASE`, i+1, id, k); err != nil {
			return err
		}
	}
	return nil
}

// catalogue returns the type's values for max_length, precision and scale in sys.columns.
func (t Type) catalogue() (length, precision, scale int) {
	switch t.Name {
	case "NVARCHAR", "NCHAR":
		if t.Length > 0 {
			return 2 * t.Length, 0, 0
		}
		return -1, 0, 0
	case "VARCHAR", "CHAR", "VARBINARY", "BINARY":
		return t.Length, 0, 0
	case "DECIMAL":
		return 17, t.Precision, t.Scale
	}
	return 8, 0, t.Scale
}
