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

// session is one connection to the database file.
type session struct {
	dialect *dialect
	db      *capi.DB
	stands  bool // db is a stand-in for a file that does not exist yet
	ready   bool // to write: the file exists, in its journal mode
	// statements are those prepared already, by their text.
	statements map[string]*capi.Stmt
	args       capi.Args
	tx         *tx // the open transaction, or nil
}

// maxStatements bounds how many prepared statements a session keeps.
const maxStatements = 256

// Connect opens the database file if it exists. It makes none: the first write does, but
// never once the file was seen. One that has gone missing is for a person to bring back.
func (d *dialect) Connect(ctx context.Context) (sqlsink.Conn, error) {
	if _, err := d.existingDir(); err != nil {
		return nil, err
	}
	s := &session{dialect: d, statements: make(map[string]*capi.Stmt)}
	if d.missing() {
		if err := s.open(ctx, standIn, false); err != nil {
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

// standIn is an empty database in memory, for reading while there is no file.
const standIn = ":memory:"

// missing reports whether the database file has yet to be made.
func (d *dialect) missing() bool {
	_, err := os.Stat(d.path)
	return errors.Is(err, fs.ErrNotExist) && !d.seen.Load()
}

// open opens a database in the place of the one that is open, which stays if that fails.
func (s *session) open(ctx context.Context, path string, create bool) error {
	d := s.dialect
	db, err := capi.Open(path, capi.Options{Create: create, BusyTimeout: d.busyTimeout, Waiting: d.waiting})
	if err != nil {
		return d.explain(err)
	}
	s.forgetStatements()
	old, stood := s.db, s.stands
	s.db, s.stands = db, path == standIn
	if err := db.Within(ctx, s.prepareSession); err != nil {
		s.db, s.stands = old, stood
		return errors.Join(d.explain(err), db.Close())
	}
	if old == nil {
		return nil
	}
	return old.Close()
}

// look opens the database file if it was made since the session began.
func (s *session) look(ctx context.Context) error {
	if !s.stands || s.dialect.missing() {
		return nil
	}
	if err := s.open(ctx, s.dialect.path, false); err != nil {
		return err
	}
	s.dialect.seen.Store(true)
	return nil
}

// readyToWrite makes the database file, and its directory, if there is none, and sets
// the file's journal mode.
func (s *session) readyToWrite(ctx context.Context) error {
	if s.ready {
		return nil
	}
	if s.stands {
		if err := os.MkdirAll(filepath.Dir(s.dialect.path), 0o755); err != nil {
			return fault.Mark(fault.Fatal, fmt.Errorf("make the directory of the database file: %w", err))
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

// prepareSession sets what holds for the connection.
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
	return s.db.Exec(fmt.Sprintf("PRAGMA synchronous=%s; PRAGMA cache_size=-%d; PRAGMA wal_autocheckpoint=%d; PRAGMA journal_size_limit=%d; PRAGMA foreign_keys=OFF",
		d.synchronous, cacheKiB, autoCheckpointPages, walKept))
}

// setJournalMode sets what holds for the file.
func (s *session) setJournalMode() error {
	d := s.dialect
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

// CanWrite makes a table in a transaction that is undone: if there is no file yet, in one
// of its own where that would be made.
func (s *session) CanWrite(ctx context.Context) error {
	if !s.stands {
		return s.canWriteHere(ctx)
	}
	place, err := s.dialect.existingDir()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(place, ".eds-probe-*")
	if err != nil {
		return fault.Mark(fault.Fatal, fmt.Errorf("make the database file in %s: %w", place, err))
	}
	if err = s.open(ctx, filepath.Join(dir, "probe.db"), true); err == nil {
		err = errors.Join(s.canWriteHere(ctx), s.open(ctx, standIn, false))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// canWriteHere is CanWrite in the database that is open, which keeps its journal mode.
func (s *session) canWriteHere(ctx context.Context) error {
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
