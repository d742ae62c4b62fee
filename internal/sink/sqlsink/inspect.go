package sqlsink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Object is a table, view or other named object of the database.
type Object struct {
	Name string // the name as the caller spelled it
	// Other is the kind of an object that is not a writable table, such as "a view". It is "" for
	// a table.
	Other string
	// ID is unique. It stays the same as long as the object exists, even if the object's rows are
	// rewritten. It is "" if the database has no such ids.
	ID string
}

// Identifying is a Conn of a database whose objects have ids.
type Identifying interface {
	// PlacedID returns the ID that the live table has after Place.
	PlacedID(stage, live *Layout, mode sink.LoadMode) string
}

// Inspect compares the tables that have a snapshot with the catalogue, and checks whether they
// have rows.
func (s *Sink) Inspect(ctx context.Context) (findings []sink.Finding, err error) {
	err = s.withConn(ctx, "inspect the tables", func(conn Conn) error {
		snapshots, err := s.storedSnapshots(ctx, conn)
		if err != nil {
			return err
		}
		findings, err = s.inspect(ctx, conn, imports(current(snapshots)))
		return err
	})
	return findings, err
}

// storedSnapshots reads the snapshots. It returns none if the destination keeps no records, or if
// the user has no permission to read them.
func (s *Sink) storedSnapshots(ctx context.Context, conn Conn) ([]sink.LoadRecord, error) {
	l, err := s.readLayout(ctx, conn, s.ownTables[snapshotTable])
	if l == nil || err != nil {
		return nil, err
	}
	snapshots, _, err := readSnapshots(ctx, conn, l)
	if err != nil && s.denied(err) {
		return nil, nil
	}
	return snapshots, err
}

// imported summarizes the snapshots of one table.
type imported struct {
	latest sink.LoadRecord
	rows   bool // at least one snapshot had rows
}

// imports summarizes the snapshots of each table, by the table's name.
func imports(snapshots []sink.LoadRecord) map[string]imported {
	tables := make(map[string]imported)
	for _, snapshot := range snapshots {
		t := tables[snapshot.Table]
		if snapshot.Generation >= t.latest.Generation {
			t.latest = snapshot
		}
		t.rows = t.rows || snapshot.Rows > 0
		tables[snapshot.Table] = t
	}
	return tables
}

func (s *Sink) inspect(ctx context.Context, conn Conn, tables map[string]imported) ([]sink.Finding, error) {
	names := slices.Sorted(maps.Keys(tables))
	if len(names) == 0 {
		return nil, nil
	}
	objects, err := s.objects(ctx, conn, append(slices.Clone(names), checkpointTable))
	if err != nil {
		return nil, err
	}
	same, err := s.sameCheckpoints(ctx, conn, objects[s.dialect.Name(checkpointTable)])
	if err != nil {
		return nil, err
	}
	var findings []sink.Finding
	var filled []string // names of tables that should have rows
	for _, name := range names {
		t, object := tables[name], objects[s.dialect.Name(name)]
		switch {
		case object.Name == "" || object.Other != "":
			findings = append(findings, sink.Finding{Table: name, Kind: sink.FoundAbsent, Other: object.Other})
		case same && t.latest.Object != "" && object.ID != t.latest.Object:
			findings = append(findings, sink.Finding{Table: name, Kind: sink.FoundAnother})
		case t.rows:
			filled = append(filled, name)
		}
	}
	found, err := s.empty(ctx, conn, filled)
	findings = append(findings, found...)
	slices.SortFunc(findings, func(a, b sink.Finding) int { return strings.Compare(a.Table, b.Table) })
	return findings, err
}

// objects returns the objects of the tables that exist, by their names in the database.
func (s *Sink) objects(ctx context.Context, conn Conn, tables []string) (map[string]Object, error) {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = s.dialect.Name(t)
	}
	found, err := conn.Objects(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	objects := make(map[string]Object, len(found))
	for _, o := range found {
		objects[o.Name] = o
	}
	return objects, nil
}

// empty finds tables that have no row, and tables whose rows another session has locked. It skips
// tables that the user has no permission to read.
func (s *Sink) empty(ctx context.Context, conn Conn, tables []string) ([]sink.Finding, error) {
	var empty []sink.Finding
	for some := range slices.Chunk(tables, emptyAtOnce) {
		found, err := s.emptyOf(ctx, conn, some)
		if err != nil {
			return nil, fmt.Errorf("look for rows: %w", err)
		}
		empty = append(empty, found...)
	}
	return empty, nil
}

// emptyAtOnce is the maximum number of tables in one query.
const emptyAtOnce = 50

func (s *Sink) emptyOf(ctx context.Context, conn Conn, tables []string) ([]sink.Finding, error) {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = s.dialect.Name(t)
	}
	indexes, err := conn.Empty(ctx, names)
	locked := err != nil && s.locked(err)
	switch {
	case err == nil:
	case !locked && !s.denied(err):
		return nil, err
	case locked && len(tables) == 1:
		return []sink.Finding{{Table: tables[0], Kind: sink.FoundLocked}}, nil
	case len(tables) == 1:
		return nil, nil
	default:
		half := len(tables) / 2
		first, err := s.emptyOf(ctx, conn, tables[:half])
		if err != nil {
			return nil, err
		}
		second, err := s.emptyOf(ctx, conn, tables[half:])
		return append(first, second...), err
	}
	empty := make([]sink.Finding, 0, len(indexes))
	for _, i := range indexes {
		empty = append(empty, sink.Finding{Table: tables[i], Kind: sink.FoundEmpty})
	}
	return empty, nil
}

// EmptyQuery returns a query for the indexes of the tables that have no rows. The table names
// must be quoted.
func EmptyQuery(tables []string) string {
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = fmt.Sprintf("SELECT %d AS n FROM (SELECT 1 AS one) AS o WHERE NOT EXISTS (SELECT 1 FROM %s)", i, t)
	}
	return strings.Join(parts, " UNION ALL ")
}
