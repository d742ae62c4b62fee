package sqlite

import (
	"context"
	"errors"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// tx is a transaction. It takes the process's turn to write, and begins in the
// database, with its first statement.
type tx struct {
	s     *session
	begun bool
}

// Begin begins a transaction.
func (s *session) Begin(context.Context) (sqlsink.Tx, error) { return s.begin() }

func (s *session) begin() (*tx, error) {
	if s.tx != nil {
		return nil, errors.New("a transaction is open already")
	}
	s.tx = &tx{s: s}
	return s.tx, nil
}

// within runs do in the transaction. SQLite has one writer at a time: the
// sessions of this process take turns here, in order and without its time-out,
// before the database's own lock is asked for, which other processes hold too.
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
func (s *session) lock() error {
	if s.db.Moved() {
		return errMoved
	}
	return s.run("BEGIN IMMEDIATE")
}

// run executes a statement without parameters.
func (s *session) run(sql string) error {
	st, err := s.prepare(sql)
	if err == nil {
		_, err = st.Exec(new(capi.Args))
	}
	return err
}

// end gives the turn to the next.
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

// Rollback undoes the transaction, unless SQLite has already.
func (t *tx) Rollback(context.Context) error {
	defer t.end()
	if !t.begun || !t.s.db.InTransaction() {
		return nil
	}
	return t.s.db.Exec("ROLLBACK")
}

// boundLog begins the log anew where it has become too large. Where readers stay
// longer than a lock is waited for, it may grow by half before the next attempt.
func (s *session) boundLog(ctx context.Context) {
	d := s.dialect
	size := d.walSize()
	if size < max(d.maxLog, d.logTolerated) {
		return
	}
	err := s.db.Within(ctx, func() error { return s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)") })
	if d.logTolerated = 0; err != nil || d.walSize() >= d.maxLog {
		d.logTolerated = size + size/2
		d.log.Warn("readers keep the write-ahead log from being begun anew", "bytes", size, "error", err)
	}
}
