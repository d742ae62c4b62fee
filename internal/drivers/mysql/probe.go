package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// privileges are the privileges that eds needs on the destination's database.
const privileges = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, TRIGGER, REFERENCES, CREATE TEMPORARY TABLES"

// CanWrite checks that the user can write: it creates a table, changes the table, writes, updates
// and deletes a row, and drops the table. If the user lacks a privilege or the server is read-only,
// the error is fatal and says how to fix the problem.
func (s *sqlSession) CanWrite(ctx context.Context) error {
	probe := quote("_eds_probe_" + s.id)
	steps := []struct{ what, sql string }{
		{"create a table", "CREATE TABLE " + probe + " (a INT PRIMARY KEY) ENGINE=InnoDB"},
		{"change a table", "ALTER TABLE " + probe + " ADD COLUMN b INT"},
		{"write a row", "INSERT INTO " + probe + " VALUES (1, 1)"},
		{"change a row", "UPDATE " + probe + " SET b = 2 WHERE a = 1"},
		{"delete a row", "DELETE FROM " + probe + " WHERE a = 1"},
	}
	var failed error
	for _, step := range steps {
		if failed = s.exec(ctx, step.what, step.sql); failed != nil {
			break
		}
	}
	dropped := s.exec(ctx, "drop a table", "DROP TABLE IF EXISTS "+probe)
	if failed == nil {
		failed = dropped
	}
	if e := new(serverError); errors.As(failed, &e) {
		config := s.dialect.config
		switch e.number {
		case 1044, 1142, 1143:
			return fault.Mark(fault.Fatal, fmt.Errorf("user %q lacks privileges on database %q; run: GRANT %s ON %s.* TO %s: %w",
				config.User, config.DBName, privileges, quote(config.DBName), literal(config.User), failed))
		case 1290, 1792, 1836:
			return fault.Mark(fault.Fatal, fmt.Errorf("the server is read-only or a replica; name the primary: %w", failed))
		}
	}
	return failed
}
