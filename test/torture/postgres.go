package torture

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// postgres is a database on the shared test server. Its copies are other databases on that server.
// They have the same object ids, as in a physical standby.
type postgres struct {
	reader
	name   string
	server string // URL of another database, for statements that affect this database
	copies int
}

func newPostgres(t *testing.T, _ string) Destination {
	t.Helper()
	target := peers.Postgres(t)
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &postgres{reader: reader{target}, name: strings.TrimPrefix(u.Path, "/")}
	u.Path = "/postgres"
	p.server = u.String()
	t.Cleanup(func() {
		for i := range p.copies {
			if err := p.execute(context.Background(), p.server, "DROP DATABASE IF EXISTS "+p.copyName(i+1)+" WITH (FORCE)"); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

func (p *postgres) URL() string { return p.url }

func (p *postgres) copyName(n int) string { return fmt.Sprintf("%s_copy_%d", p.name, n) }

// Copy disconnects eds, because PostgreSQL copies a database only while it has no connections.
func (p *postgres) Copy(ctx context.Context) (string, error) {
	p.copies++
	name := p.copyName(p.copies)
	return name, p.clone(ctx, p.name, name)
}

func (p *postgres) clone(ctx context.Context, from, to string) error {
	return p.exclusive(ctx, from, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", to, from))
}

// Restore swaps the databases in one transaction, so that a database with the name always exists.
func (p *postgres) Restore(ctx context.Context, name string) error {
	p.copies++
	restored := p.copyName(p.copies)
	p.copies++
	old := p.copyName(p.copies)
	if err := p.clone(ctx, name, restored); err != nil {
		return err
	}
	swap := fmt.Sprintf("BEGIN; ALTER DATABASE %s RENAME TO %s; ALTER DATABASE %s RENAME TO %[1]s; COMMIT", p.name, old, restored)
	if err := p.exclusive(ctx, p.name, swap); err != nil {
		return err
	}
	return p.execute(ctx, p.server, "DROP DATABASE "+old+" WITH (FORCE)")
}

func (p *postgres) Empty(ctx context.Context) error {
	return p.execute(ctx, p.url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
}

func (p *postgres) Drop(ctx context.Context, table string) error {
	return p.execute(ctx, p.url, "DROP TABLE IF EXISTS "+pgx.Identifier{table}.Sanitize())
}

func (p *postgres) Truncate(ctx context.Context, table string) error {
	err := p.execute(ctx, p.url, "DELETE FROM "+pgx.Identifier{table}.Sanitize())
	if e := new(pgconn.PgError); errors.As(err, &e) && e.Code == "42P01" { // the table does not exist
		return nil
	}
	return err
}

// exclusive executes statements that require a database without connections. It terminates all
// connections first, and retries if a client reconnects before the statements run.
func (p *postgres) exclusive(ctx context.Context, database, statements string) error {
	return retryOn(ctx, "55006", func() error {
		return p.execute(ctx, p.server, fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'",
			database), statements)
	})
}

// execute runs each of the texts on one new connection. It retries if the server resolves a
// deadlock with eds by aborting a text.
func (p *postgres) execute(ctx context.Context, database string, texts ...string) error {
	return retryOn(ctx, "40P01", func() error {
		conn, err := pgx.Connect(ctx, database)
		if err != nil {
			return fmt.Errorf("connect to the test server: %w", err)
		}
		defer conn.Close(ctx)
		for _, text := range texts {
			if _, err := conn.PgConn().Exec(ctx, text).ReadAll(); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
}

// retryOn calls f again while f returns an error with the given SQLSTATE code and ctx is not done.
func retryOn(ctx context.Context, code string, f func() error) error {
	for {
		err := f()
		if e := new(pgconn.PgError); !errors.As(err, &e) || e.Code != code {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
