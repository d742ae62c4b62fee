package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// session is one connection to the database file.
type session struct {
	dialect *dialect
	db      *capi.DB
	// statements are those prepared already, by their text.
	statements map[string]*capi.Stmt
	args       capi.Args
	tx         *tx // the open transaction, or nil
}

// maxStatements bounds how many prepared statements a session keeps.
const maxStatements = 256

// Connect opens the database file. It makes one, and the directory for it, where
// there is none, but never once it has seen one: a file that has gone missing is
// for a person to bring back.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) {
	if err := d.place(); err != nil {
		return nil, err
	}
	db, err := capi.Open(d.path, capi.Options{Create: !d.seen.Load(), BusyTimeout: d.busyTimeout, Waiting: d.waiting})
	if err != nil {
		return nil, d.explain(err)
	}
	s := &session{dialect: d, db: db, statements: make(map[string]*capi.Stmt)}
	if err := db.Within(ctx, s.prepareSession); err != nil {
		return nil, errors.Join(d.explain(err), db.Close())
	}
	d.seen.Store(true)
	return s, nil
}

func (d *dialect) waiting() { d.log.Debug("waiting for a lock on the database file", "file", d.path) }

// prepareSession sets what holds for the connection, and what holds for the file.
func (s *session) prepareSession() error {
	d := s.dialect
	for _, f := range []struct {
		name string
		args int
		do   func([]string) (string, error)
	}{
		{"eds_retype", 3, func(args []string) (string, error) { return retype(args[0], args[1], args[2]) }},
		{"eds_shortest", 1, shortest},
	} {
		if err := s.db.Function(f.name, f.args, f.do); err != nil {
			return err
		}
	}
	if err := s.db.Exec(fmt.Sprintf("PRAGMA synchronous=%s; PRAGMA cache_size=-%d; PRAGMA wal_autocheckpoint=%d; PRAGMA journal_size_limit=%d; PRAGMA foreign_keys=OFF",
		d.synchronous, cacheKiB, autoCheckpointPages, walKept)); err != nil {
		return err
	}
	return s.query("PRAGMA journal_mode="+d.journalMode, nil, func(row *capi.Stmt) {
		if mode := row.String(0); mode != d.journalMode {
			d.log.Warn("the database file does not take the journal mode", "file", d.path, "wanted", d.journalMode, "has", mode)
		}
	})
}

const (
	cacheKiB            = 16 << 10
	autoCheckpointPages = 8192     // 32 MiB of the usual 4 KiB
	walKept             = 64 << 20 // how much of the log's file stays once its content is in the database
)

// prepare returns the prepared statement of the given text, ready to be executed.
func (s *session) prepare(sql string) (*capi.Stmt, error) {
	if st := s.statements[sql]; st != nil {
		return st, nil
	}
	if len(s.statements) >= maxStatements {
		s.forgetStatements()
	}
	st, err := s.db.Prepare(sql)
	if err != nil {
		return nil, err
	}
	s.statements[sql] = st
	return st, nil
}

func (s *session) forgetStatements() {
	for sql, st := range s.statements {
		st.Finalize()
		delete(s.statements, sql)
	}
}

// query calls each with every row of the answer.
func (s *session) query(sql string, args []string, each func(row *capi.Stmt)) error {
	st, err := s.prepare(sql)
	if err != nil {
		return err
	}
	defer st.Reset()
	s.args.Reset()
	for _, a := range args {
		s.args.String(a)
	}
	if err := st.Bind(&s.args); err != nil {
		return err
	}
	for {
		more, err := st.Step()
		if err != nil || !more {
			return err
		}
		each(st)
	}
}

// Exec executes DDL statements in one transaction.
func (s *session) Exec(ctx context.Context, statements []string) error {
	return s.write(ctx, func() error {
		for _, sql := range statements {
			if err := s.db.Exec(sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// write runs do in a transaction of its own, or in the one that is open.
func (s *session) write(ctx context.Context, do func() error) error {
	if s.tx != nil {
		return s.tx.within(ctx, do)
	}
	t, err := s.begin()
	if err != nil {
		return err
	}
	if err = t.within(ctx, do); err == nil {
		err = t.Commit(ctx)
	}
	if err == nil {
		return nil
	}
	if failed := t.Rollback(context.WithoutCancel(ctx)); failed != nil {
		return errors.Join(err, failed)
	}
	// What an interrupted edit of the schema has left behind.
	return errors.Join(err, s.db.Exec("PRAGMA writable_schema=RESET"))
}

// CanWrite makes a table in a transaction that is undone.
func (s *session) CanWrite(ctx context.Context) error {
	t, err := s.begin()
	if err != nil {
		return err
	}
	err = t.within(ctx, func() error { return s.db.Exec(`CREATE TABLE "_eds_probe" (x)`) })
	if undo := t.Rollback(context.WithoutCancel(ctx)); err == nil {
		err = undo
	}
	return s.dialect.explain(err)
}

// Close closes the connection. The last one to close copies what is left in the
// log into the database.
func (s *session) Close(ctx context.Context) error {
	var err error
	if s.tx != nil {
		err = s.tx.Rollback(ctx)
	}
	s.forgetStatements()
	return errors.Join(err, s.db.Close())
}

// errMoved says that the path leads to another file than the one that is open.
var errMoved = errors.New("the database file was moved, removed or replaced while it was in use")

// walSize returns the size of the write-ahead log.
func (d *dialect) walSize() int64 {
	// Looked at, not opened: closing any descriptor of a database's files would
	// give up the process's locks on them.
	info, err := os.Stat(d.path + "-wal")
	if err != nil {
		return 0
	}
	return info.Size()
}
