package sqlsink

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Migrate makes the destination able to hold rows of the tables. What the
// database can not take of it, as the widening of a column that a view reads,
// is logged and left as it is.
func (s *Sink) Migrate(ctx context.Context, tables []*schema.Table) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	err := s.attempt(ctx, "migrate", func(conn Conn) error {
		done, err := s.migrate(ctx, conn, tables)
		lines = append(lines, done...)
		return err
	})
	return lines, err
}

// migrate returns a line for each change that it made, also where it failed later.
func (s *Sink) migrate(ctx context.Context, conn Conn, tables []*schema.Table) ([]string, error) {
	if err := s.describe(ctx, conn, tables); err != nil {
		return nil, err
	}
	var lines []string
	for _, t := range tables {
		steps, err := s.plan(t, s.real(t))
		if err != nil {
			return lines, err
		}
		done, err := s.carryOut(ctx, conn, steps)
		lines = append(lines, done...)
		if len(done) > 0 {
			s.forgetTable(t.Name)
		}
		if err != nil {
			return lines, fmt.Errorf("migrate table %q: %w", t.Name, err)
		}
	}
	return lines, s.describe(ctx, conn, tables)
}

// carryOut executes steps, each by itself, so that what was done stays done.
func (s *Sink) carryOut(ctx context.Context, conn Conn, steps []Step) ([]string, error) {
	var lines []string
	for _, step := range steps {
		statements := s.dialect.DDL(step)
		if len(statements) == 0 || s.refused[step.String()] {
			continue
		}
		err := conn.Exec(ctx, statements)
		optional := step.Kind == WidenColumn || step.Kind == RelaxColumn
		if v := s.verdict(err); err != nil && optional && v.Class != fault.Transient && !v.Lost {
			s.refused[step.String()] = true
			s.log.Warn("the database refused a migration step; values that do not fit will be rejected one by one", "step", step.String(), "error", err)
			continue
		}
		if err != nil {
			return lines, err
		}
		s.log.Info("migrated", "step", step.String())
		lines = append(lines, step.String())
	}
	return lines, nil
}

// describe reads those of the tables from the database's catalogue that are not
// known yet.
func (s *Sink) describe(ctx context.Context, conn Conn, tables []*schema.Table) error {
	var names []string
	for _, t := range tables {
		name := s.dialect.Name(t.Name)
		if _, known := s.tables[name]; !known {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	found, err := conn.Tables(ctx, names)
	if err != nil {
		return fmt.Errorf("read the catalogue: %w", err)
	}
	for _, name := range names {
		s.tables[name] = nil
	}
	for _, t := range found {
		s.tables[t.Name] = t
	}
	return nil
}

// real returns the real table of t, which was described, or nil.
func (s *Sink) real(t *schema.Table) *Table { return s.tables[s.dialect.Name(t.Name)] }

// forgetTables makes the catalogue be read anew.
func (s *Sink) forgetTables() {
	clear(s.tables)
	clear(s.layouts)
	clear(s.refused)
}

// forgetTable makes one table be described anew.
func (s *Sink) forgetTable(name string) {
	delete(s.tables, s.dialect.Name(name))
	for t := range s.layouts {
		if t.Name == name {
			delete(s.layouts, t)
		}
	}
}

// inStep migrates those tables of the batch that have no layout yet.
func (s *Sink) inStep(ctx context.Context, conn Conn, b *change.Batch) error {
	var strange []*schema.Table
	for _, set := range b.Sets {
		if s.layouts[set.Table] == nil {
			strange = append(strange, set.Table)
		}
	}
	if strange == nil {
		return nil
	}
	_, err := s.migrate(ctx, conn, strange)
	return err
}

// layout returns the layout of t, whose real table is in step with it.
func (s *Sink) layout(ctx context.Context, conn Conn, t *schema.Table) (*Layout, error) {
	if l := s.layouts[t]; l != nil {
		return l, nil
	}
	if err := s.describe(ctx, conn, []*schema.Table{t}); err != nil {
		return nil, err
	}
	real := s.real(t)
	if real == nil {
		return nil, fmt.Errorf("table %q does not exist", t.Name)
	}
	l, err := s.newLayout(t, real)
	if err != nil {
		return nil, err
	}
	s.layouts[t] = l
	return l, nil
}
