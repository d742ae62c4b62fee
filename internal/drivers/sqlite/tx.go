package sqlite

import (
	"context"
	"errors"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// tx is a transaction. It takes the process's turn to write with its first statement, and begins in
// the database then.
type tx struct {
	s     *fileSession
	begun bool
}

// Begin begins a transaction.
func (s *fileSession) Begin(context.Context) (sqlsink.Tx, error) { return s.begin() }

func (s *fileSession) begin() (*tx, error) {
	if s.tx != nil {
		return nil, errors.New("a transaction is open already")
	}
	s.tx = &tx{s: s}
	return s.tx, nil
}

// within runs do in the transaction. SQLite allows one writer at a time. The sessions of this
// process take turns, in order and without a timeout, before they wait for the database's lock,
// which other processes may hold.
func (t *tx) within(ctx context.Context, do func() error) error {
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

// end passes the turn to the next session.
func (t *tx) end() {
	if t.begun {
		t.begun = false
		<-t.s.dialect.turn
	}
	t.s.tx = nil
}

// Commit makes the transaction durable.
func (t *tx) Commit(ctx context.Context) error {
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
func (t *tx) Rollback(context.Context) error {
	defer t.end()
	if !t.begun || !t.s.db.InTransaction() {
		return nil
	}
	return t.s.db.Exec("ROLLBACK")
}

// boundLog truncates the log if it is too large. If readers block that, the log may grow by half
// before the next attempt.
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
