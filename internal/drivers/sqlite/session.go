package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// fileSession is one connection to the database file. It implements sqlsink.Conn.
type fileSession struct {
	dialect     *dialect
	db          *capi.DB
	placeholder bool                  // db is a database in memory, because the file does not exist yet
	ready       bool                  // the file exists and has the configured journal mode
	statements  map[string]*capi.Stmt // prepared statements, by SQL text
	args        capi.Args
	tx          *transaction // the open transaction, or nil
}

// maxStatements is the maximum number of prepared statements that a session keeps.
const maxStatements = 256

// Connect opens the database file if it exists. If the file is missing and eds has never opened it,
// the first write creates the file. If eds has opened the file before, Connect returns an error,
// because the operator must restore the file.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) {
	if _, err := d.existingDir(); err != nil {
		return nil, err
	}
	s := &fileSession{dialect: d, statements: make(map[string]*capi.Stmt)}
	if d.missing() {
		if err := s.open(ctx, inMemory, false); err != nil {
			return nil, err
		}
		return s, nil
	}
	if err := s.open(ctx, d.path, false); err != nil {
		return nil, err
	}
	d.seen.Store(true)
	return s, nil
}

// inMemory is the path of an empty database in memory, which a session reads until the database
// file exists.
const inMemory = ":memory:"

// The method named missing reports whether the database file does not exist and eds has never
// opened it.
func (d *dialect) missing() bool {
	_, err := os.Stat(d.path)
	return errors.Is(err, fs.ErrNotExist) && !d.seen.Load()
}

// open opens the database at path and closes the session's previous database. If opening fails, the
// previous database stays open. If the parameter create is true, open creates a missing file.
func (s *fileSession) open(ctx context.Context, path string, create bool) error {
	d := s.dialect
	db, err := capi.Open(path, capi.Options{Create: create, BusyTimeout: d.busyTimeout, Waiting: d.waiting})
	if err != nil {
		return d.withHint(err)
	}
	s.forgetStatements()
	old, wasPlaceholder := s.db, s.placeholder
	s.db, s.placeholder = db, path == inMemory
	if err := db.Within(ctx, s.prepareSession); err != nil {
		s.db, s.placeholder = old, wasPlaceholder
		return errors.Join(d.withHint(err), db.Close())
	}
	if old == nil {
		return nil
	}
	return old.Close()
}

// openIfCreated opens the database file if the file has been created since the session connected.
func (s *fileSession) openIfCreated(ctx context.Context) error {
	if !s.placeholder || s.dialect.missing() {
		return nil
	}
	if err := s.open(ctx, s.dialect.path, false); err != nil {
		return err
	}
	s.dialect.seen.Store(true)
	return nil
}

// readyToWrite creates the database file and its directory if necessary, and sets the file's
// journal mode.
func (s *fileSession) readyToWrite(ctx context.Context) error {
	if s.ready {
		return nil
	}
	if s.placeholder {
		if err := os.MkdirAll(filepath.Dir(s.dialect.path), 0o755); err != nil {
			return fault.Mark(fault.Fatal, fmt.Errorf("create the directory of the database file: %w", err))
		}
		if err := s.open(ctx, s.dialect.path, !s.dialect.seen.Load()); err != nil {
			return err
		}
		s.dialect.seen.Store(true)
	}
	if err := s.db.Within(ctx, s.setJournalMode); err != nil {
		return err
	}
	s.ready = true
	return nil
}

func (d *dialect) waiting() { d.log.Debug("waiting for a lock on the database file", "file", d.path) }

// prepareSession registers the SQL functions of eds and sets the connection's settings.
func (s *fileSession) prepareSession() error {
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
	return s.db.Exec(fmt.Sprintf("PRAGMA synchronous=%s; PRAGMA cache_size=-%d; PRAGMA wal_autocheckpoint=%d;"+
		" PRAGMA journal_size_limit=%d; PRAGMA foreign_keys=OFF", d.synchronous, cacheKiB, autoCheckpointPages, walKept))
}

// setJournalMode sets the journal mode of the database file.
func (s *fileSession) setJournalMode() error {
	d := s.dialect
	return s.query("PRAGMA journal_mode="+d.journalMode, nil, func(row *capi.Stmt) {
		if mode := row.String(0); mode != d.journalMode {
			d.log.Warn("the database file does not support the journal mode", "file", d.path, "wanted", d.journalMode, "has", mode)
		}
	})
}

const (
	cacheKiB            = 16 << 10
	autoCheckpointPages = 8192     // 32 MiB with the usual page size of 4 KiB
	walKept             = 64 << 20 // maximum size of the log file after a checkpoint, in bytes
)

// prepare returns the prepared statement with the given SQL text. It prepares the statement on
// first use.
func (s *fileSession) prepare(sql string) (*capi.Stmt, error) {
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

func (s *fileSession) forgetStatements() {
	for sql, st := range s.statements {
		st.Finalize()
		delete(s.statements, sql)
	}
}

// query runs one statement with text arguments and calls the function each for every row of the
// result.
func (s *fileSession) query(sql string, args []string, each func(row *capi.Stmt)) error {
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
func (s *fileSession) Exec(ctx context.Context, statements []string) error {
	return s.write(ctx, func() error {
		for _, sql := range statements {
			if err := s.db.Exec(sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// write runs the function do in the open transaction. If no transaction is open, write runs do in a
// new transaction and commits that transaction.
func (s *fileSession) write(ctx context.Context, do func() error) error {
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
	// An interrupted edit of the schema may have left writable_schema on.
	return errors.Join(err, s.db.Exec("PRAGMA writable_schema=RESET"))
}

// CanWrite checks that eds can write the database: it creates a table in a transaction and rolls
// the transaction back. If the database file does not exist yet, CanWrite uses a temporary file in
// the same directory or, if the directory does not exist, in the nearest existing parent.
func (s *fileSession) CanWrite(ctx context.Context) error {
	if !s.placeholder {
		return s.canWriteHere(ctx)
	}
	place, err := s.dialect.existingDir()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(place, ".eds-probe-*")
	if err != nil {
		return fault.Mark(fault.Fatal, fmt.Errorf("create the database file in %s: %w", place, err))
	}
	if err = s.open(ctx, filepath.Join(dir, "probe.db"), true); err == nil {
		err = errors.Join(s.canWriteHere(ctx), s.open(ctx, inMemory, false))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// canWriteHere does the check of CanWrite in the open database. It does not change the journal
// mode.
func (s *fileSession) canWriteHere(ctx context.Context) error {
	was := s.ready
	s.ready = true
	defer func() { s.ready = was }()
	t, err := s.begin()
	if err != nil {
		return err
	}
	err = t.within(ctx, func() error { return s.db.Exec(`CREATE TABLE "_eds_probe" (x)`) })
	if undo := t.Rollback(context.WithoutCancel(ctx)); err == nil {
		err = undo
	}
	return s.dialect.withHint(err)
}

// Close rolls back an open transaction and closes the connection. When the last connection closes,
// SQLite copies the rest of the write-ahead log into the database.
func (s *fileSession) Close(ctx context.Context) error {
	var err error
	if s.tx != nil {
		err = s.tx.Rollback(ctx)
	}
	s.forgetStatements()
	return errors.Join(err, s.db.Close())
}

// errMoved reports that the path no longer refers to the open database file.
var errMoved = errors.New("the database file was moved, removed or replaced while it was in use")

// walSize returns the size of the write-ahead log in bytes, or 0 if there is none.
func (d *dialect) walSize() int64 {
	// Do not open the file: closing a descriptor would release all of the process's locks on it.
	info, err := os.Stat(d.path + "-wal")
	if err != nil {
		return 0
	}
	return info.Size()
}
