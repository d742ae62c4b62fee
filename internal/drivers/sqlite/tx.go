package sqlite

import (
	"context"
	"errors"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// transaction implements sqlsink.Tx. The first statement of a transaction waits for this process's
// turn to write, and then begins the transaction in the database.
type transaction struct {
	s     *fileSession
	begun bool
}

// Begin returns a new transaction. It returns an error if a transaction is open.
func (s *fileSession) Begin(context.Context) (sqlsink.Tx, error) { return s.begin() }

func (s *fileSession) begin() (*transaction, error) {
	if s.tx != nil {
		return nil, errors.New("a transaction is open already")
	}
	s.tx = &transaction{s: s}
	return s.tx, nil
}

// within runs the function do in the transaction. The first call begins the transaction in the
// database. SQLite allows only one writer at a time, so a session of this process first waits,
// without a timeout, for its turn among the sessions of this process. Then it waits for the
// database's lock, which another process may hold.
func (t *transaction) within(ctx context.Context, do func() error) error {
	if !t.begun {
		select {
		case t.s.dialect.turn <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := t.s.readyToWrite(ctx)
		if err == nil {
			err = t.s.db.Within(ctx, t.s.lock)
		}
		if err != nil {
			<-t.s.dialect.turn
			return err
		}
		t.begun = true
	}
	return t.s.db.Within(ctx, do)
}

// lock begins the transaction in the database.
func (s *fileSession) lock() error {
	if s.db.Moved() {
		return errMoved
	}
	return s.run("BEGIN IMMEDIATE")
}

// run executes a statement without parameters.
func (s *fileSession) run(sql string) error {
	st, err := s.prepare(sql)
	if err == nil {
		_, err = st.Exec(new(capi.Args))
	}
	return err
}

// end ends the transaction for the session, and passes the turn to the next session.
func (t *transaction) end() {
	if t.begun {
		t.begun = false
		<-t.s.dialect.turn
	}
	t.s.tx = nil
}

// Commit commits the transaction, and truncates the write-ahead log if it is too large.
func (t *transaction) Commit(ctx context.Context) error {
	if !t.begun {
		t.end()
		return nil
	}
	err := t.s.db.Within(ctx, func() error { return t.s.run("COMMIT") })
	if err != nil {
		return err
	}
	t.s.boundLog(ctx)
	t.end()
	return nil
}

// Rollback undoes the transaction, unless SQLite has done so already.
func (t *transaction) Rollback(context.Context) error {
	defer t.end()
	if !t.begun || !t.s.db.InTransaction() {
		return nil
	}
	return t.s.db.Exec("ROLLBACK")
}

// boundLog truncates the write-ahead log if it is too large. If readers block the truncation, the
// log may grow by half before the next attempt.
func (s *fileSession) boundLog(ctx context.Context) {
	d := s.dialect
	size := d.walSize()
	if size < max(d.maxLog, d.logTolerated) {
		return
	}
	err := s.db.Within(ctx, func() error { return s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)") })
	if d.logTolerated = 0; err != nil || d.walSize() >= d.maxLog {
		d.logTolerated = size + size/2
		d.log.Warn("readers block the truncation of the write-ahead log", "bytes", size, "error", err)
	}
}
