package sqlsink

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Adopt returns sink.ErrForeign if the table has rows, and its key or columns differ from those
// that eds and the reference server create for t.
func (s *Sink) Adopt(ctx context.Context, t *schema.Table) error {
	return s.withConn(ctx, "examine the table", func(conn Conn) error {
		found, err := conn.Tables(ctx, []string{s.dialect.Name(t.Name)})
		if err != nil || len(found) == 0 {
			return err
		}
		if found[0].Other != "" {
			return fault.Mark(fault.Fatal, fmt.Errorf("%w: %w", sink.ErrForeign, notTable(found[0])))
		}
		why := s.foreign(t, found[0])
		if why == "" {
			return nil
		}
		rows, err := conn.Count(ctx, &Layout{Table: t, Real: found[0]})
		if err != nil || rows == 0 {
			return err
		}
		return fault.Mark(fault.Fatal, fmt.Errorf("%w: it has rows, and %s", sink.ErrForeign, why))
	})
}

// foreign returns the reason why the table described by real cannot have been created by eds for t.
// It returns "" if eds may have created the table. An older version of t may have had fewer columns
// than t, but at least half of t's columns.
func (s *Sink) foreign(t *schema.Table, real *RealTable) string {
	var want, key []string
	for _, c := range t.Columns[:t.Keys] {
		want = append(want, s.fold(s.dialect.Name(c.Name)))
	}
	for _, name := range real.Key {
		key = append(key, s.fold(name))
	}
	slices.Sort(want)
	slices.Sort(key)
	switch {
	case len(key) == 0:
		return "no primary key"
	case !slices.Equal(want, key):
		return fmt.Sprintf("its primary key is (%s) instead of (%s)", strings.Join(real.Key, ", "), strings.Join(want, ", "))
	}
	missing := 0
	for _, c := range t.Columns[t.Keys:] {
		if s.find(real, s.dialect.Name(c.Name)) != nil {
			continue
		}
		if c.Required {
			return fmt.Sprintf("no column %q", c.Name)
		}
		missing++
	}
	if 2*missing > len(t.Columns)-t.Keys {
		return fmt.Sprintf("it lacks %d of %d columns", missing, len(t.Columns)-t.Keys)
	}
	return ""
}
