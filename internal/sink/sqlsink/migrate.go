package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Migrate prepares the destination for rows of the tables. It migrates as many tables as
// possible: the error joins a *sink.TableError for each table that was not migrated. A table that
// was imported before is recreated only by an import, whose sink has no consumer. If the database
// refuses an optional step, such as widening a column that a view reads, Migrate logs the refusal
// and leaves the column unchanged.
func (s *Sink) Migrate(ctx context.Context, tables []*schema.Table) ([]string, error) {
	return s.migrateFor(ctx, tables, s.env.Consumer == "")
}

// migrateFor is like Migrate. The parameter imports is true if the caller is an import, and false
// if it is a server.
func (s *Sink) migrateFor(ctx context.Context, tables []*schema.Table, imports bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	err := s.attempt(ctx, "migrate", func(conn Conn) error {
		done, err := s.migrateAs(ctx, conn, tables, imports)
		lines = append(lines, done...)
		return err
	})
	return lines, err
}

// migrate migrates tables before changes are applied to them.
func (s *Sink) migrate(ctx context.Context, conn Conn, tables []*schema.Table) ([]string, error) {
	return s.migrateAs(ctx, conn, tables, false)
}

// migrateAs does the work of Migrate. It returns one line for each change that it has made, even
// if a later change fails.
func (s *Sink) migrateAs(ctx context.Context, conn Conn, tables []*schema.Table, imports bool) ([]string, error) {
	for _, t := range tables {
		if s.isOwn(t) {
			continue
		}
		if err := t.Check(); err != nil {
			return nil, err
		}
	}
	if err := s.describe(ctx, conn, tables); err != nil {
		return nil, err
	}
	var lines []string
	var migrated []*schema.Table
	var failed []error
	for _, t := range tables {
		done, err := s.migrateTable(ctx, conn, t, imports)
		lines = append(lines, done...)
		if err == nil {
			migrated = append(migrated, t)
			continue
		}
		if !isRefused(err) {
			return lines, fmt.Errorf("migrate table %q: %w", t.Name, err)
		}
		s.forgetTable(t.Name)
		failed = append(failed, err)
	}
	if err := s.describe(ctx, conn, migrated); err != nil {
		return lines, err
	}
	for _, t := range migrated {
		_, err := s.layout(ctx, conn, t)
		if err != nil && !isRefused(err) {
			return lines, err
		}
		if err != nil {
			s.forgetTable(t.Name)
			failed = append(failed, err)
		}
	}
	return lines, errors.Join(failed...)
}

// migrateTable migrates one table. It first reads the table's description again if the migration
// of another version of the table has just changed the real table.
func (s *Sink) migrateTable(ctx context.Context, conn Conn, t *schema.Table, imports bool) ([]string, error) {
	if err := s.describe(ctx, conn, []*schema.Table{t}); err != nil {
		return nil, err
	}
	real := s.real(t)
	if err := s.obstacle(ctx, conn, t, real, imports); err != nil {
		return nil, err
	}
	steps, err := s.plan(t, real)
	if err != nil {
		return nil, err
	}
	if !imports && real != nil {
		if err := s.hasKey(t, real); err != nil {
			return nil, err
		}
	}
	done, err := s.runSteps(ctx, conn, t, steps)
	if len(done) > 0 {
		s.forgetTable(t.Name)
	}
	return done, err
}

// runSteps runs the steps one by one. If a step fails, the completed steps are not undone.
func (s *Sink) runSteps(ctx context.Context, conn Conn, t *schema.Table, steps []MigrationStep) ([]string, error) {
	var lines []string
	for _, step := range steps {
		statements := s.dialect.DDL(step)
		if len(statements) == 0 || s.refused[step.String()] {
			continue
		}
		exec := func() error { return conn.Exec(ctx, statements) }
		err := s.retryLocked(ctx, conn, step.String(), []string{step.Table}, exec)
		optional := step.Kind == WidenColumn || step.Kind == RelaxColumn
		if err != nil && !optional && s.doneByAnother(ctx, conn, t, step) {
			continue
		}
		if err != nil && !optional {
			return lines, s.refuseStep(ctx, conn, t, step, err)
		}
		if v := s.verdict(err); err != nil && optional && v.Class != fault.Transient && !v.Lost {
			s.refused[step.String()] = true
			s.log.Warn("the database refused a migration step; values that do not fit will be rejected one by one",
				"step", step.String(), "error", err)
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

// doneByAnother reports whether a step failed only because another process has already completed
// it.
func (s *Sink) doneByAnother(ctx context.Context, conn Conn, t *schema.Table, step MigrationStep) bool {
	s.forgetTable(t.Name)
	if err := s.describe(ctx, conn, []*schema.Table{t}); err != nil {
		return false
	}
	steps, err := s.plan(t, s.real(t))
	return err == nil && !slices.ContainsFunc(steps, func(planned MigrationStep) bool { return planned.String() == step.String() })
}

// describe reads the descriptions of tables from the catalogue, unless they are already known.
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

// real returns the real table of t, or nil if it does not exist. It must be called after
// describe.
func (s *Sink) real(t *schema.Table) *RealTable { return s.tables[s.dialect.Name(t.Name)] }

// forgetTables forgets all descriptions, so that describe reads the catalogue again.
func (s *Sink) forgetTables() {
	clear(s.tables)
	clear(s.layouts)
	clear(s.refused)
}

// forgetTable forgets the description of one table.
func (s *Sink) forgetTable(name string) {
	delete(s.tables, s.dialect.Name(name))
	for t := range s.layouts {
		if t.Name == name {
			delete(s.layouts, t)
		}
	}
}

// ensureLayouts migrates the tables of the batch that do not have a layout yet.
func (s *Sink) ensureLayouts(ctx context.Context, conn Conn, b *change.Batch) error {
	var unmapped []*schema.Table
	for _, set := range b.Sets {
		if s.layouts[set.Table] == nil {
			unmapped = append(unmapped, set.Table)
		}
	}
	if unmapped == nil {
		return nil
	}
	_, err := s.migrate(ctx, conn, unmapped)
	return err
}

// layout returns the layout of t. The real table must exist and have the columns of t's key.
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
