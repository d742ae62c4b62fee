package snowflake

import (
	"context"
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// CanWrite creates a stage and a table, writes to it, and drops it. If the schema does not exist,
// it uses a temporary one.
func (s *session) CanWrite(ctx context.Context) error {
	if !s.lacksSchema {
		return s.canWriteHere(ctx)
	}
	// Not the URL's own name: another session may create that schema meanwhile.
	own := quote(s.dialect.account.database) + "." + quote("_eds_probe_"+s.id)
	if err := s.enterSchema(ctx, "CREATE TRANSIENT SCHEMA "+own, own); err != nil {
		return err
	}
	err := s.canWriteHere(ctx)
	_, dropped := s.query(ctx, "drop the schema", "DROP SCHEMA IF EXISTS "+own)
	return errors.Join(err, dropped)
}

// canWriteHere does the work of CanWrite in the session's schema.
func (s *session) canWriteHere(ctx context.Context) error {
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

// Own returns the statement that makes the session's role own the table.
func (s *session) Own(table string) string {
	return fmt.Sprintf("GRANT OWNERSHIP ON TABLE %s TO ROLE %s COPY CURRENT GRANTS", s.dialect.table(table), quote(s.role))
}

// missingPrivilege returns an error that names a missing privilege on the schema, and its grant.
func (s *session) missingPrivilege(what, privileges string, err error) error {
	schema := quote(s.dialect.account.database) + "." + quote(s.dialect.account.schema)
	return fault.Mark(fault.Fatal, fmt.Errorf("role %q may not %s in schema %s; run: GRANT %s ON SCHEMA %s TO ROLE %s: %w",
		s.role, what, schema, privileges, schema, quote(s.role), err))
}
