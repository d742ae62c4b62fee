package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// CanWrite checks that the user can write: it creates the schema if necessary, creates a table,
// writes a row, and rolls everything back. If the user lacks a permission or the server is
// read-only, the error is fatal and says how to fix the problem.
func (s *sqlSession) CanWrite(ctx context.Context) error {
	probe := s.qualify(fmt.Sprintf("_eds_probe_%d", s.pg.PID()))
	write := fmt.Sprintf("CREATE TABLE %[1]s (a text); INSERT INTO %[1]s VALUES ('x'); DROP TABLE %[1]s", probe)
	err := s.exec(ctx, "create a table", "BEGIN; "+s.makeSchema()+write)
	rollback := s.exec(ctx, "roll back", "ROLLBACK")
	if e := new(serverError); errors.As(err, &e) {
		user, namespace := s.dialect.config.User, s.namespace
		switch e.code {
		case "42501":
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q may not create tables in schema %q; "+
				"run: GRANT USAGE, CREATE ON SCHEMA %s TO %s: %w", user, namespace, quote(namespace), quote(user), err))
		case "25006":
			return fault.Mark(fault.Fatal, fmt.Errorf("the server is read-only or a replica; "+
				"name the primary, or add target_session_attrs=read-write to the url: %w", err))
		}
	}
	return errors.Join(err, rollback)
}

// Own returns the statement that makes the session's user the owner of the table.
func (s *sqlSession) Own(table string) string {
	return fmt.Sprintf("ALTER TABLE %s OWNER TO %s", s.qualify(table), quote(s.dialect.config.User))
}

// permanentDDLError marks err as poison if the DDL can never succeed, for example because another
// object depends on the object to be changed. It returns other errors unchanged.
func permanentDDLError(err error) error {
	if e := new(serverError); errors.As(err, &e) {
		switch e.code {
		case "0A000", "2BP01", "42804", "42846", "42P16", "42809":
			return fault.Mark(fault.Poison, err)
		}
	}
	return err
}
