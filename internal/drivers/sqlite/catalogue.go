package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// relation describes a table, except for its columns.
type relation struct {
	sql      string // the CREATE TABLE statement in the schema
	strict   bool
	rowid    bool
	triggers bool
	uniques  [][]string // the columns of each unique index that compares bytes, such as the primary key's
}

// unique reports whether a unique index has exactly the given columns, in any order.
func (r *relation) unique(key []string) bool {
	return slices.ContainsFunc(r.uniques, func(columns []string) bool {
		return len(columns) == len(key) && !slices.ContainsFunc(key, func(k string) bool {
			return !slices.ContainsFunc(columns, func(c string) bool { return sameName(c, k) })
		})
	})
}

// attribute describes the type of a column.
type attribute struct {
	declared string
	affinity affinity
	strict   bool
	key      bool // part of the primary key
}

// Tables describes the named tables that exist. If a name belongs to an object of another kind,
// such as a view, the result has an entry for the object, without columns.
func (s *fileSession) Tables(ctx context.Context, names []string) ([]*sqlsink.RealTable, error) {
	if err := s.openIfCreated(ctx); err != nil {
		return nil, err
	}
	var found []*sqlsink.RealTable
	err := s.db.Within(ctx, func() error {
		for _, name := range names {
			t, err := s.table(name)
			if err != nil {
				return fmt.Errorf("describe table %q: %w", name, err)
			}
			if t != nil {
				found = append(found, t)
			}
		}
		return nil
	})
	return found, err
}

// Objects describes the named objects that exist. It returns no ids, because objects in SQLite have
// none.
func (s *fileSession) Objects(ctx context.Context, names []string) ([]sqlsink.Object, error) {
	if err := s.openIfCreated(ctx); err != nil {
		return nil, err
	}
	var found []sqlsink.Object
	err := s.db.Within(ctx, func() error {
		for _, name := range names {
			o, err := s.object(name)
			if err != nil {
				return fmt.Errorf("find %q: %w", name, err)
			}
			if o != nil {
				found = append(found, *o)
			}
		}
		return nil
	})
	return found, err
}

// object describes the object with the given name. It ignores the case of the name, and returns nil
// if there is no such object.
func (s *fileSession) object(name string) (*sqlsink.Object, error) {
	var o *sqlsink.Object
	err := s.query(`SELECT s.type, l.type FROM sqlite_schema AS s LEFT JOIN pragma_table_list(s.name) AS l ON l.schema = 'main'
WHERE s.name = ? COLLATE NOCASE AND s.type <> 'trigger'`, []string{name}, func(row *capi.Stmt) {
		o = &sqlsink.Object{Name: name}
		switch kind, table := row.String(0), row.String(1); {
		case kind == "view":
			o.Other = "a view"
		case kind == "index":
			o.Other = "an index"
		case table != "table":
			o.Other = "a virtual table"
		}
	})
	return o, err
}

// Empty finds out which of the named tables have no rows. It returns the positions of their names
// in the slice names.
func (s *fileSession) Empty(ctx context.Context, names []string) ([]int, error) {
	if err := s.openIfCreated(ctx); err != nil {
		return nil, err
	}
	tables := make([]string, len(names))
	for i, name := range names {
		tables[i] = quote(name)
	}
	var indexes []int
	err := s.db.Within(ctx, func() error {
		return s.query(sqlsink.EmptyQuery(tables), nil, func(row *capi.Stmt) { indexes = append(indexes, int(row.Int(0))) })
	})
	return indexes, err
}

// table describes the table or other object with the given name. It ignores the case of the name,
// and returns nil if there is no such object.
func (s *fileSession) table(name string) (*sqlsink.RealTable, error) {
	o, err := s.object(name)
	if o == nil || err != nil {
		return nil, err
	}
	t := &sqlsink.RealTable{Name: name, Other: o.Other}
	if t.Other != "" {
		return t, nil
	}
	r := &relation{}
	t.Native = r
	found := false
	if err := s.query(`SELECT l.wr, l.strict, s.sql,
  EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = l.name COLLATE NOCASE)
FROM pragma_table_list(?) AS l JOIN sqlite_schema AS s ON s.type = 'table' AND s.name = l.name
WHERE l.schema = 'main' AND l.type = 'table'`, []string{name}, func(row *capi.Stmt) {
		found = true
		r.rowid, r.strict, r.sql, r.triggers = row.Int(0) == 0, row.Int(1) != 0, row.String(2), row.Int(3) != 0
	}); err != nil || !found {
		return nil, err
	}
	if err := s.columns(t, r); err != nil {
		return nil, err
	}
	return t, s.indexes(t, r)
}

func (s *fileSession) columns(t *sqlsink.RealTable, r *relation) error {
	keys := make(map[int64]string)
	const query = `SELECT name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?)`
	err := s.query(query, []string{t.Name}, func(row *capi.Stmt) {
		c := &attribute{declared: row.String(1), strict: r.strict, key: row.Int(4) > 0}
		c.affinity = affinityOf(c.declared)
		if r.strict && strings.EqualFold(c.declared, "ANY") {
			c.affinity = asIs
		}
		fallback := row.String(3)
		t.Columns = append(t.Columns, sqlsink.RealColumn{
			Name: row.String(0), Type: c.declared, Holds: holds(c),
			Nullable: row.Int(2) == 0, Filled: fallback != "" && !strings.EqualFold(fallback, "NULL"),
			Generated: row.Int(5) != 0, Native: c,
		})
		if c.key {
			keys[row.Int(4)] = row.String(0)
		}
	})
	for i := range len(keys) {
		t.Key = append(t.Key, keys[int64(i+1)])
	}
	return err
}

// holds returns the schema type whose values the column can store unchanged, or 0 for none. In a
// table that is not STRICT, every column can store any number, unless it has affinity TEXT.
func holds(c *attribute) schema.Type {
	declared := strings.ToUpper(c.declared)
	switch {
	case c.strict && c.affinity == asInteger:
		return schema.Integer
	case c.strict && declared == "BLOB":
		return 0
	case c.affinity == asText || c.affinity == asIs:
		return schema.String
	case strings.Contains(declared, "JSON"):
		return schema.Object
	case c.affinity == asNumeric && (strings.Contains(declared, "DATE") || strings.Contains(declared, "TIME")):
		return schema.DateTime
	default:
		return schema.Number
	}
}

// indexes sets r.uniques from the table's unique indexes. It leaves out partial indexes, and
// indexes that do not compare plain columns byte by byte.
func (s *fileSession) indexes(t *sqlsink.RealTable, r *relation) error {
	if r.rowid && len(t.Key) == 1 && s.isRowid(t) {
		r.uniques = append(r.uniques, t.Key)
	}
	byIndex := make(map[string][]string)
	odd := make(map[string]bool) // indexes with expressions or a collation other than BINARY
	err := s.query(`SELECT l.name, x.name, x.coll FROM pragma_index_list(?) AS l, pragma_index_xinfo(l.name) AS x
WHERE l."unique" AND NOT l.partial AND x.key ORDER BY l.seq, x.seqno`, []string{t.Name}, func(row *capi.Stmt) {
		index := row.String(0)
		byIndex[index] = append(byIndex[index], row.String(1))
		odd[index] = odd[index] || row.Kind(1) == capi.Null || !strings.EqualFold(row.String(2), "BINARY")
	})
	for index, columns := range byIndex {
		if !odd[index] {
			r.uniques = append(r.uniques, columns)
		}
	}
	return err
}

// isRowid reports whether the table's single key column is the rowid. This is the case if the
// column's declared type is INTEGER. The column then has no index of its own.
func (s *fileSession) isRowid(t *sqlsink.RealTable) bool {
	for i := range t.Columns {
		if c := t.Columns[i].Native.(*attribute); c.key {
			return strings.EqualFold(c.declared, "INTEGER")
		}
	}
	return false
}
