package sqlsink

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/schema"
)

// metadata are the engine's columns in the order of their creation.
var metadata = []struct {
	meta Meta
	name string
	kind schema.Type
}{
	{MetaOp, "_eds_op", schema.String},
	{MetaVersion, "_eds_version", schema.String},
	{MetaSynced, "_eds_synced_at", schema.DateTime},
	{MetaDeleted, "_eds_deleted", schema.Boolean},
}

// Name returns the name of the metadata column.
func (m Meta) Name() string { return metadata[m-1].name }

// metaColumns returns the metadata columns that t's real table should have.
func (s *Sink) metaColumns(t *schema.Table) []NewColumn {
	if s.isOwn(t) {
		return nil
	}
	var columns []NewColumn
	for _, m := range metadata {
		wanted := s.options.Metadata
		switch m.meta {
		case MetaVersion:
			wanted = wanted || s.env.After
		case MetaDeleted:
			wanted = s.options.SoftDelete
		}
		if wanted {
			columns = append(columns, NewColumn{Name: m.name, Type: m.kind, Meta: m.meta})
		}
	}
	return columns
}

// columns returns the columns that the destination should have for t, with the key's columns
// first. It also returns the slot of each column, or -1 for a metadata column. It returns an
// error if the database ignores case and two names differ only in case.
func (s *Sink) columns(t *schema.Table) ([]NewColumn, []int, error) {
	columns := make([]NewColumn, 0, len(t.Columns)+len(metadata))
	slots := make([]int, 0, cap(columns))
	for slot, c := range t.Columns {
		columns = append(columns, NewColumn{Name: s.dialect.Name(c.Name), Type: c.Type, Key: slot < t.Keys})
		slots = append(slots, slot)
	}
	for _, m := range s.metaColumns(t) {
		columns = append(columns, m)
		slots = append(slots, -1)
	}
	seen := make(map[string]string, len(columns))
	for i, c := range columns {
		source := c.Name
		if slots[i] >= 0 {
			source = t.Columns[slots[i]].Name
		}
		folded := s.fold(c.Name)
		if other, twice := seen[folded]; twice {
			err := fmt.Errorf("columns %q and %q would be one column, because the database ignores case", other, source)
			return nil, nil, refused(t.Name, err)
		}
		seen[folded] = source
	}
	return columns, slots, nil
}

// fold returns the form of a column name that the engine uses to compare names.
func (s *Sink) fold(name string) string {
	if s.dialect.FoldsCase() {
		return strings.ToLower(name)
	}
	return name
}

// find returns the column of the real table that has the given name, or nil.
func (s *Sink) find(real *RealTable, name string) *RealColumn {
	name = s.fold(name)
	for i := range real.Columns {
		if s.fold(real.Columns[i].Name) == name {
			return &real.Columns[i]
		}
	}
	return nil
}

// newLayout maps the columns of t onto those of real. It returns an error if real is not a table,
// or lacks a column of the key.
func (s *Sink) newLayout(t *schema.Table, real *RealTable) (*Layout, error) {
	columns, slots, err := s.columns(t)
	if err != nil {
		return nil, err
	}
	if real.Other != "" {
		return nil, refused(t.Name, notTable(real))
	}
	l := &Layout{Table: t, Real: real, Keys: t.Keys}
	for i, c := range columns {
		column := s.find(real, c.Name)
		switch {
		case column == nil || column.Generated:
			if c.Key {
				return nil, lacksKey(t, c.Name)
			}
			continue
		case c.Meta == MetaVersion:
			l.Guard = true
		case c.Meta == MetaDeleted:
			l.Soft = true
		}
		l.Columns = append(l.Columns, Target{Slot: slots[i], Type: c.Type, Meta: c.Meta, Key: c.Key, Real: column})
	}
	return l, nil
}

// hasKey returns an error if the real table lacks a column of t's key.
func (s *Sink) hasKey(t *schema.Table, real *RealTable) error {
	for _, c := range t.Columns[:t.Keys] {
		if name := s.dialect.Name(c.Name); s.find(real, name) == nil && !s.isOwn(t) {
			return lacksKey(t, name)
		}
	}
	return nil
}

func lacksKey(t *schema.Table, column string) error {
	return refused(t.Name, fmt.Errorf(
		"it has no writable column %q, which is part of the key: drop or rename the table, then import it", column))
}

// All returns the indexes of all columns of the layout.
func (l *Layout) All() []int {
	indexes := make([]int, len(l.Columns))
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}

// KeyNames returns the names of the real columns of the key, in the key's order.
func (l *Layout) KeyNames() []string {
	names := make([]string, l.Keys)
	for i := range names {
		names[i] = l.Columns[i].Real.Name
	}
	return names
}

// Meta returns the index of a metadata column, or -1 if the layout has no such column.
func (l *Layout) Meta(m Meta) int {
	return slices.IndexFunc(l.Columns, func(t Target) bool { return t.Meta == m })
}

// DeleteExtras returns the indexes of the non-key columns that a delete needs. If deletes only mark
// rows, the result has all metadata columns. If the layout only has a Guard, the result has the
// version column.
func (l *Layout) DeleteExtras() []int {
	var indexes []int
	for i, t := range l.Columns {
		if l.Soft && t.Meta != 0 || l.Guard && t.Meta == MetaVersion {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// Covers reports whether the layout writes every column of a real table except generated columns.
// If so, a write can replace a row as a whole.
func (l *Layout) Covers(real *RealTable) bool {
	return !slices.ContainsFunc(real.Columns, func(c RealColumn) bool {
		return !c.Generated && !slices.ContainsFunc(l.Columns, func(t Target) bool { return t.Real.Name == c.Name })
	})
}

// ScopeTerms returns the SQL conditions that are all true for the rows in the layout's Scope. The
// function column returns the expression that reads a real column as text, and literal returns
// the expression for a constant.
func (l *Layout) ScopeTerms(column func(name string) string, literal func(text string) string) []string {
	var terms []string
	for _, w := range l.Scope {
		values := make([]string, len(w.Values))
		for i, v := range w.Values {
			values[i] = literal(v)
		}
		terms = append(terms, column(w.Column.Name)+" IN ("+strings.Join(values, ", ")+")")
	}
	return terms
}
