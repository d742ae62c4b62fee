package sqlserver

import (
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// lockWait returns a statement that sets d as the maximum time for which the session's statements
// wait for a lock.
func lockWait(d time.Duration) string { return fmt.Sprintf("SET LOCK_TIMEOUT %d;", d.Milliseconds()) }

// waitShortly calls the function do, and limits lock waits to sqlsink.ShortLockWait during the
// call. The limit is short because readers of a table have to wait behind a statement that waits to
// change the table.
func (s *sqlSession) waitShortly(ctx context.Context, do func() error) error {
	if err := s.exec(ctx, "set up the session", lockWait(sqlsink.ShortLockWait)); err != nil {
		return err
	}
	err := do()
	if s.broken {
		return err
	}
	if failed := s.exec(ctx, "set up the session", lockWait(s.dialect.timeouts.Lock)); failed != nil {
		return failed
	}
	return err
}

// working reports an active call if the server accepts another session. It cannot
// inspect the call itself, because only users with VIEW SERVER STATE can see the state of another
// session.
func (s *sqlSession) working(ctx context.Context) sqlsink.Work {
	other, err := s.dialect.connect(ctx)
	if err != nil {
		return sqlsink.Work{}
	}
	_ = other.Close(ctx)
	return sqlsink.Work{Active: true}
}
