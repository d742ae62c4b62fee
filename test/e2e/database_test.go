package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// database is a PostgreSQL database of the shared test server.
type database struct {
	t      *testing.T
	url    string
	name   string
	server string // URL of another database, for statements about this one
	copies int
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	return databaseAt(t, peers.Postgres(t))
}

func databaseAt(t *testing.T, target string) *database {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, url: target, name: strings.TrimPrefix(u.Path, "/")}
	u.Path = "/postgres"
	d.server = u.String()
	return d
}

// as returns the database's URL for another user.
func (d *database) as(user string) string {
	u, err := url.Parse(d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}

// newRole returns the name of a new role that owns nothing. Databases that the test
// creates afterwards are dropped before the role.
func newRole(t *testing.T) string {
	t.Helper()
	d := newDatabase(t)
	role := d.name + "_role"
	d.administer("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() { d.administer("DROP ROLE " + role) })
	return role
}

// execute executes statements in the database.
func (d *database) execute(statements string) {
	d.t.Helper()
	if err := execute(d.url, statements); err != nil {
		d.t.Fatal(err)
	}
}

// administer executes statements about databases, one by one.
func (d *database) administer(statements ...string) {
	d.t.Helper()
	for _, statement := range statements {
		if err := execute(d.server, statement); err != nil {
			d.t.Fatal(err)
		}
	}
}

func execute(target, statements string) error {
	ctx := context.Background() // cleanups need it, too
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", statements, err)
	}
	return nil
}

// exclusively executes a statement that needs a database without connections.
func (d *database) exclusively(statement string) {
	d.t.Helper()
	var err error
	eventually(d.t, "the database has no connections", func() bool {
		d.administer(fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'", d.name))
		err = execute(d.server, statement)
		inUse := new(pgconn.PgError)
		return !errors.As(err, &inUse) || inUse.Code != "55006"
	}, func() string { return err.Error() })
	if err != nil {
		d.t.Fatal(err)
	}
}

// copy copies the database, like a backup or a standby. It ends all connections.
func (d *database) copy() *database {
	d.t.Helper()
	d.copies++
	name := fmt.Sprintf("%s_copy_%d", d.name, d.copies)
	d.exclusively(fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", name, d.name))
	d.t.Cleanup(func() { d.administer("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)") })
	return databaseAt(d.t, strings.Replace(d.url, "/"+d.name+"?", "/"+name+"?", 1))
}

// restore replaces the database by a copy. For a moment there is no database.
func (d *database) restore(from *database) {
	d.t.Helper()
	d.administer("DROP DATABASE "+d.name+" WITH (FORCE)", fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", d.name, from.name))
}

// failOver puts a copy in the database's place at once.
func (d *database) failOver(to *database) {
	d.t.Helper()
	d.copies++
	old := fmt.Sprintf("%s_old_%d", d.name, d.copies)
	d.exclusively(fmt.Sprintf("BEGIN; ALTER DATABASE %s RENAME TO %s; ALTER DATABASE %s RENAME TO %[1]s; COMMIT", d.name, old, to.name))
	d.administer("DROP DATABASE " + old + " WITH (FORCE)")
}

// query returns the first value of a query's only row, as text; "" if it is null.
func (d *database) query(sql string, args ...any) string {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var value *string
	if err := conn.QueryRow(d.t.Context(), "SELECT ("+sql+")::text", args...).Scan(&value); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	if value == nil {
		return ""
	}
	return *value
}

// tables identifies the source's tables. A replaced table has another identity.
func (d *database) tables() string {
	d.t.Helper()
	return d.query(`SELECT string_agg(relname || ' ' || oid, ', ' ORDER BY relname) FROM pg_class
		WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname NOT LIKE '\_eds\_%'`)
}

// stages returns the staging tables.
func (d *database) stages() string {
	d.t.Helper()
	return d.query(`SELECT string_agg(tablename, ', ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public' AND ` +
		`tablename LIKE '\_eds\_load\_%'`)
}

// reaches waits until a checkpoint of the database is at a sequence or later.
func (d *database) reaches(p *process, sequence uint64) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("the checkpoint is at message %d", sequence), func() bool {
		return d.query(`SELECT coalesce(max(position), 0) >= $1::text::bigint FROM _eds_checkpoint`, fmt.Sprint(sequence)) == "true"
	}, p.output)
}

// lock begins a transaction that takes a lock, and returns a function that ends it.
func (d *database) lock(statement string) (release func()) {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, s := range []string{"BEGIN", statement} {
		if _, err := conn.Exec(d.t.Context(), s); err != nil {
			d.t.Fatal(err)
		}
	}
	return func() { _ = conn.Close(context.Background()) } // which rolls back
}
