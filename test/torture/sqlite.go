package torture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqlite is a database file. It is damaged only through SQLite itself, whose locks protect eds's
// transactions from interference.
type sqlite struct {
	reader
	path   string
	copies int
}

func newSQLite(_ *testing.T, dir string) Destination {
	path := filepath.Join(dir, "shop.db")
	return &sqlite{reader: reader{"sqlite://" + path}, path: path}
}

func (s *sqlite) URL() string { return s.url }

func (s *sqlite) Copy(ctx context.Context) (string, error) {
	s.copies++
	name := fmt.Sprintf("%s-copy-%d", s.path, s.copies)
	return name, s.execute(ctx, "VACUUM INTO '"+name+"'")
}

// Restore restores a copy in the same way as the command .restore of SQLite's shell.
func (s *sqlite) Restore(ctx context.Context, name string) error {
	return s.with(ctx, func(conn *sql.Conn) error {
		return conn.Raw(func(c any) error {
			backup, err := c.(interface {
				NewRestore(string) (*driver.Backup, error)
			}).NewRestore(name)
			if err != nil {
				return fmt.Errorf("restore %s: %w", name, err)
			}
			err = wait(ctx, 20*time.Millisecond, func() (bool, error) {
				more, err := backup.Step(-1)
				if e := new(driver.Error); errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY ||
					e.Code()&0xff == sqlite3.SQLITE_LOCKED) {
					return false, nil
				}
				return err != nil || !more, err
			})
			return errors.Join(err, backup.Finish())
		})
	})
}

func (s *sqlite) Empty(ctx context.Context) error {
	return s.forEach(ctx, `DROP TABLE "%w"`, "%")
}

func (s *sqlite) Drop(ctx context.Context, table string) error {
	return s.forEach(ctx, `DROP TABLE "%w"`, table)
}

func (s *sqlite) Truncate(ctx context.Context, table string) error {
	return s.forEach(ctx, `DELETE FROM "%w"`, table)
}

// forEach executes a statement for every table whose name matches the LIKE pattern, in one
// transaction.
func (s *sqlite) forEach(ctx context.Context, statement, pattern string) error {
	return s.with(ctx, func(conn *sql.Conn) error {
		const list = `SELECT coalesce(group_concat(format(?, name), ';'), '') FROM sqlite_schema WHERE type = 'table' AND name ` +
			`LIKE ? AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`
		var statements string
		err := conn.QueryRowContext(ctx, list, statement, pattern).Scan(&statements)
		if err == nil {
			_, err = conn.ExecContext(ctx, "BEGIN IMMEDIATE; "+statements+"; COMMIT")
		}
		if err != nil {
			return fmt.Errorf("%s for tables like %s: %w", statement, pattern, err)
		}
		return nil
	})
}

func (s *sqlite) execute(ctx context.Context, statement string) error {
	return s.with(ctx, func(conn *sql.Conn) error {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
		return nil
	})
}

// with opens the database file and calls f with a connection. Statements on the connection wait up
// to 30 s for locks.
func (s *sqlite) with(ctx context.Context, f func(*sql.Conn) error) error {
	db, err := sql.Open("sqlite", "file:"+s.path+"?_pragma=busy_timeout(30000)")
	if err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	return errors.Join(f(conn), conn.Close())
}
