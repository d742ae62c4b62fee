package tds

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// defaultCollation is the collation of every database.
const defaultCollation = "SQL_Latin1_General_CP1_CI_AS"

// define executes a DDL statement.
func (e *engine) define(ctx context.Context, tokens []token) error {
	switch {
	case begins(tokens, "CREATE", "SCHEMA") && len(tokens) == 3:
		return e.do(ctx, `INSERT INTO "sys.schemas" SELECT max(schema_id) + 1, ? FROM "sys.schemas"`, tokens[2].text)
	case begins(tokens, "CREATE", "TABLE"):
		return e.createTable(ctx, tokens[2:])
	case begins(tokens, "DROP", "TABLE"):
		return e.dropTable(ctx, tokens[2:])
	case begins(tokens, "ALTER", "TABLE"):
		return e.alterTable(ctx, tokens[2:])
	}
	return syntaxError(plain(tokens))
}

func (e *engine) createTable(ctx context.Context, tokens []token) error {
	o, n, err := object(tokens)
	if err != nil {
		return err
	}
	rest := tokens[n:]
	if len(rest) < 3 || !rest[0].is("(") || closing(rest, 0) != len(rest)-1 {
		return syntaxError(plain(rest))
	}
	if _, err := e.definition(ctx, o); err == nil {
		return &Error{Number: 2714, Class: 16, State: 6, Message: "There is already an object of that name in the database."}
	}
	d := new(definition)
	for _, part := range splitTop(rest[1:len(rest)-1], ",") {
		if part[0].is("PRIMARY") {
			if d.Key, err = keyOf(part); err != nil {
				return err
			}
			continue
		}
		c, key, err := columnOf(part)
		if err != nil {
			return err
		}
		if d.column(c.Name) != nil {
			return &Error{Number: 2705, Class: 16, State: 3, Message: "Column names in each table must be unique."}
		}
		if key {
			d.Key = []string{c.Name}
		}
		d.Columns = append(d.Columns, c)
	}
	return e.make(ctx, o, d)
}

// keyOf parses PRIMARY KEY [CLUSTERED | NONCLUSTERED] (a, b), and returns the names of the columns.
func keyOf(tokens []token) ([]string, error) {
	open := slices.IndexFunc(tokens, func(t token) bool { return t.is("(") })
	if !begins(tokens, "PRIMARY", "KEY") || open < 2 || open == 3 && !tokens[2].is("CLUSTERED") && !tokens[2].is("NONCLUSTERED") ||
		open > 3 {
		return nil, syntaxError(plain(tokens))
	}
	var key []string
	for _, part := range splitTop(tokens[open+1:len(tokens)-1], ",") {
		key = append(key, part[0].text)
	}
	return key, nil
}

// columnOf parses the definition of a column. The second result says whether the column is the
// primary key.
func columnOf(tokens []token) (c definedColumn, key bool, err error) {
	if len(tokens) < 2 || tokens[0].kind != 'q' && tokens[0].kind != 'w' {
		return c, false, syntaxError(plain(tokens))
	}
	c.Name = tokens[0].text
	end := 2
	if len(tokens) > 2 && tokens[2].is("(") {
		end = 1 + closing(tokens, 2)
	}
	if c.Type, err = parseType(plain(tokens[1:end])); err != nil {
		return c, false, err
	}
	if c.Type.text() {
		c.Collation = defaultCollation
	}
	for rest := tokens[end:]; len(rest) > 0; {
		switch {
		case begins(rest, "COLLATE") && len(rest) > 1:
			c.Collation, rest = rest[1].text, rest[2:]
		case begins(rest, "NOT", "NULL"):
			c.NotNull, rest = true, rest[2:]
		case begins(rest, "NULL"):
			rest = rest[1:]
		case begins(rest, "PRIMARY", "KEY"):
			key, c.NotNull, rest = true, true, rest[2:]
		case begins(rest, "IDENTITY", "("):
			c.Identity, rest = true, rest[closing(rest, 1)+1:]
		default:
			return c, false, syntaxError(plain(rest))
		}
	}
	return c, key, nil
}

// make creates a table in SQLite and writes its definition to the catalogue.
func (e *engine) make(ctx context.Context, object string, d *definition) error {
	if err := e.makeBelow(ctx, table(object), d); err != nil {
		return err
	}
	return e.enter(ctx, object, d)
}

// makeBelow creates a table in SQLite only. If the table has an identity column, a trigger numbers
// the rows.
func (e *engine) makeBelow(ctx context.Context, named string, d *definition) error {
	var lines []string
	for _, c := range d.Columns {
		lines = append(lines, c.sqlite())
	}
	if d.Key != nil {
		lines = append(lines, "PRIMARY KEY ("+namesOf(d.Key)+")")
	}
	if err := e.do(ctx, "CREATE TABLE "+named+" ("+strings.Join(lines, ", ")+")"); err != nil {
		return err
	}
	i := d.identity()
	if i < 0 {
		return nil
	}
	schema, own, _ := strings.Cut(named, ".")
	number := name(d.Columns[i].Name)
	return e.do(ctx, fmt.Sprintf(`CREATE TRIGGER %s.%s AFTER INSERT ON %s WHEN NEW.%[4]s IS NULL BEGIN
UPDATE %[3]s SET %[4]s = (SELECT COALESCE(MAX(%[4]s), 0) + 1 FROM %[3]s) WHERE rowid = NEW.rowid;
END`, schema, name("numbers of "+own), own, number))
}

// sqlite returns the column definition for SQLite.
func (c definedColumn) sqlite() string {
	line := name(c.Name) + " " + c.Type.storage()
	if c.Collation != "" {
		line += " COLLATE " + collationOf(c.Collation)
	}
	if c.NotNull && !c.Identity { // NULL until a trigger numbers the inserted row
		line += " NOT NULL"
	}
	return line + c.checks()
}

// checks returns constraints that reject values that the column's type cannot hold. The name of a
// constraint ends in SQL Server's error number.
func (c definedColumn) checks() string {
	n := name(c.Name)
	switch {
	case c.Type.text() && c.Type.Length > 0:
		return fmt.Sprintf(" CONSTRAINT tsql_2628 CHECK (length(%s) <= %d)", n, c.Type.Length)
	case c.Type.storage() == c.Type.Name:
		low, high := c.Type.bounds()
		return fmt.Sprintf(" CONSTRAINT tsql_8115 CHECK (%s IS NULL OR typeof(%s) = 'integer' AND %s BETWEEN %d + 0 AND %d)", n,
			n, n, low, high)
	}
	return ""
}

func namesOf(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = name(n)
	}
	return strings.Join(quoted, ", ")
}

func (e *engine) dropTable(ctx context.Context, tokens []token) error {
	ifExists := begins(tokens, "IF", "EXISTS")
	if ifExists {
		tokens = tokens[2:]
	}
	o, n, err := object(tokens)
	if err != nil || n != len(tokens) {
		return syntaxError(plain(tokens))
	}
	if _, err := e.definition(ctx, o); err != nil {
		if ifExists {
			return nil
		}
		return &Error{Number: 3701, Class: 11, State: 5, Message: "Cannot drop the table, because it does not exist or you do " +
			"not have permission."}
	}
	if err := e.do(ctx, "DROP TABLE "+table(o)); err != nil {
		return err
	}
	schema, own := schemaAndName(o)
	ids := `(SELECT o.object_id FROM "sys.objects" AS o JOIN "sys.schemas" AS s ON s.schema_id = o.schema_id WHERE s.name = ? ` +
		`AND o.name = ?)`
	for _, view := range []string{"sys.columns", "sys.indexes", "sys.index_columns", "sys.tables", "sys.objects"} {
		if err := e.do(ctx, "DELETE FROM "+name(view)+" WHERE object_id IN "+ids, schema, own); err != nil {
			return err
		}
	}
	return nil
}

// alterTable executes ALTER TABLE with ADD column, ALTER COLUMN, DROP COLUMN or ADD PRIMARY KEY.
func (e *engine) alterTable(ctx context.Context, tokens []token) error {
	o, n, err := object(tokens)
	if err != nil {
		return err
	}
	was, err := e.definition(ctx, o)
	if err != nil {
		return &Error{Number: 4902, Class: 16, State: 1, Message: "Cannot find the object because it does not exist or you do " +
			"not have permissions."}
	}
	is := &definition{Columns: slices.Clone(was.Columns), Key: was.Key}
	switch rest := tokens[n:]; {
	case begins(rest, "ADD", "PRIMARY", "KEY"):
		if is.Key, err = keyOf(rest[1:]); err != nil {
			return err
		}
		return e.addKey(ctx, o, is)
	case begins(rest, "ADD", "COLUMN"):
		return syntaxError("COLUMN")
	case begins(rest, "ADD"):
		c, _, err := columnOf(rest[1:])
		if err != nil {
			return err
		}
		if is.column(c.Name) != nil {
			return &Error{Number: 2705, Class: 16, State: 4, Message: "Column names in each table must be unique."}
		}
		is.Columns = append(is.Columns, c)
		if err := e.do(ctx, "ALTER TABLE "+table(o)+" ADD COLUMN "+c.sqlite()); err != nil {
			return err
		}
		return e.enter(ctx, o, is)
	case begins(rest, "ALTER", "COLUMN"):
		c, _, err := columnOf(rest[2:])
		if err != nil {
			return err
		}
		if is.column(c.Name) == nil {
			return &Error{Number: 4924, Class: 16, State: 1, Message: "ALTER TABLE ALTER COLUMN failed because the column does not exist."}
		}
		if slices.ContainsFunc(is.Key, func(k string) bool { return strings.EqualFold(k, c.Name) }) {
			return &Error{Number: 5074, Class: 16, State: 1, Message: "The object is dependent on the column."}
		}
		*is.column(c.Name) = c
	case begins(rest, "DROP", "COLUMN"):
		is.Columns = slices.DeleteFunc(is.Columns, func(c definedColumn) bool { return strings.EqualFold(c.Name, rest[2].text) })
	default:
		return syntaxError(plain(rest))
	}
	return e.remake(ctx, o, was, is)
}

// remake replaces a table with a new one, and converts the values of its rows. The last two
// parameters are the old and the new definition of the table.
func (e *engine) remake(ctx context.Context, object string, was, is *definition) error {
	temporary := "temp." + name("remade "+object)
	if err := e.makeBelow(ctx, temporary, is); err != nil {
		return err
	}
	var into, from []string
	for _, c := range is.Columns {
		old := was.column(c.Name)
		if old == nil {
			continue
		}
		into = append(into, name(c.Name))
		if old.Type == c.Type {
			from = append(from, name(c.Name))
		} else {
			from = append(from, fmt.Sprintf("tsql_convert(%s, %s, 0)", name(c.Name), literal(c.Type.String())))
		}
	}
	err := e.do(ctx, fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s ORDER BY rowid", temporary, strings.Join(into, ", "),
		strings.Join(from, ", "), table(object)))
	if err != nil {
		return err
	}
	if err := e.do(ctx, "DROP TABLE "+table(object)); err != nil {
		return err
	}
	// Copying the table again is cheaper than renaming it.
	if err := e.makeBelow(ctx, table(object), is); err != nil {
		return err
	}
	for _, text := range []string{
		fmt.Sprintf("INSERT INTO %s SELECT * FROM %s ORDER BY rowid", table(object), temporary),
		"DROP TABLE " + temporary,
	} {
		if err := e.do(ctx, text); err != nil {
			return err
		}
	}
	return e.enter(ctx, object, is)
}

// addKey makes existing columns the primary key.
func (e *engine) addKey(ctx context.Context, object string, is *definition) error {
	_, own := schemaAndName(object)
	err := e.do(ctx, fmt.Sprintf("CREATE UNIQUE INDEX main.%s ON %s (%s)", name("key of "+object), name(object), namesOf(is.Key)))
	if err == nil {
		return e.enter(ctx, object, is)
	}
	if e, ok := translate(err).(*Error); ok && e.Number == 2627 {
		return &Error{Number: 1505, Class: 16, State: 1, Message: fmt.Sprintf("The CREATE UNIQUE INDEX statement terminated "+
			"because a duplicate key was found for %q. %s", own, e.Message)}
	}
	return err
}
