package snowflake

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// CanWrite checks that the role can write: it creates a stage and a table, writes a row, and drops
// the table. If the schema does not exist, CanWrite creates a schema with another name for the
// check, and then drops that schema. If the role lacks a privilege, the error is fatal and says how
// to fix the problem.
func (s *sqlSession) CanWrite(ctx context.Context) error {
	if !s.lacksSchema {
		return s.canWriteHere(ctx)
	}
	// Another session may create the URL's schema during the check, so use a different name.
	own := quote(s.dialect.account.database) + "." + quote("_eds_probe_"+s.id)
	if err := s.enterSchema(ctx, "CREATE TRANSIENT SCHEMA "+own, own); err != nil {
		return err
	}
	err := s.canWriteHere(ctx)
	_, dropped := s.query(ctx, "drop the schema", "DROP SCHEMA IF EXISTS "+own)
	return errors.Join(err, dropped)
}

// canWriteHere does the checks of CanWrite in the session's current schema.
func (s *sqlSession) canWriteHere(ctx context.Context) error {
	if err := s.stage(ctx); err != nil {
		return err
	}
	probe := quote("_eds_probe_" + s.id)
	if _, err := s.query(ctx, "create a table", "CREATE OR REPLACE TRANSIENT TABLE "+probe+` ("a" STRING)`); err != nil {
		if e := new(serverError); errors.As(err, &e) && e.denied() {
			return s.missingPrivilege("create tables", "USAGE, CREATE TABLE", err)
		}
		return err
	}
	_, err := s.query(ctx, "write to a table", "INSERT INTO "+probe+" VALUES ('x')")
	_, dropped := s.query(ctx, "drop the table", "DROP TABLE IF EXISTS "+probe)
	if e := new(serverError); errors.As(err, &e) && (e.number == numberNoWarehouse || e.number == numberSuspended) {
		return fault.Mark(fault.Fatal, fmt.Errorf("warehouse %s does not run and role %q may not start it; "+
			"run: ALTER WAREHOUSE %[1]s SET AUTO_RESUME = TRUE, and: GRANT USAGE, OPERATE ON WAREHOUSE %[1]s TO ROLE %[3]s: %[4]w",
			quote(s.warehouse), s.role, quote(s.role), err))
	}
	return errors.Join(err, dropped)
}

// Own returns the statement that makes the session's role the owner of the table.
func (s *sqlSession) Own(table string) string {
	return fmt.Sprintf("GRANT OWNERSHIP ON TABLE %s TO ROLE %s COPY CURRENT GRANTS", s.dialect.table(table), quote(s.role))
}

// missingPrivilege returns a fatal error for an operation that failed with err because the role
// lacks privileges on the schema. The error contains the GRANT statement for the privileges.
func (s *sqlSession) missingPrivilege(what, privileges string, err error) error {
	schema := quote(s.dialect.account.database) + "." + quote(s.dialect.account.schema)
	return fault.Mark(fault.Fatal, fmt.Errorf("role %q may not %s in schema %s; run: GRANT %s ON SCHEMA %s TO ROLE %s: %w",
		s.role, what, schema, privileges, schema, quote(s.role), err))
}
