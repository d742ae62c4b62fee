package sqlserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// CanWrite checks that the user can write: it creates the schema if necessary, creates a table,
// writes a row, and rolls everything back. If the user lacks a permission or the database is
// read-only, the error is fatal and says how to fix the problem.
func (s *sqlSession) CanWrite(ctx context.Context) error {
	tx := &transaction{sqlSession: s}
	err := tx.open(ctx)
	if err == nil {
		err = s.makeSchema(ctx)
	}
	probe := s.qualify(fmt.Sprintf("_eds_probe_%d", s.number))
	for _, statement := range []string{
		"CREATE TABLE " + probe + " (a INT NOT NULL)", "INSERT INTO " + probe + " (a) VALUES (1)", "DROP TABLE " + probe,
	} {
		if err == nil {
			err = s.exec(ctx, "create a table", statement)
		}
	}
	rollback := tx.Rollback(ctx)
	if e := new(serverError); errors.As(err, &e) {
		user, namespace := s.dialect.config.User, s.namespace
		switch e.number {
		case 262:
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q may not create tables; run in database %q: GRANT CREATE TABLE TO %s: %w",
				user, s.dialect.config.Database, quote(user), err))
		case 229, 230, 2760, 1088:
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q may not create or write tables in schema %q; "+
				"run: GRANT SELECT, INSERT, UPDATE, DELETE, ALTER, REFERENCES ON SCHEMA::%s TO %s: %w",
				user, namespace, quote(namespace), quote(user), err))
		case 3906:
			return fault.Mark(fault.Fatal, fmt.Errorf("the database is read-only or a replica; name the primary: %w", err))
		}
	}
	return errors.Join(err, rollback)
}
