package mysql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// lockWait is how many seconds a statement waits for a lock.
func (s *session) lockWait() int { return int(s.dialect.timeouts.Lock.Seconds()) }

// waitShortly calls do, whose statements wait for locks on whole tables for ShortLockWait at
// most: readers wait behind a statement that waits to change one.
func (s *session) waitShortly(ctx context.Context, do func() error) error {
	set := func(seconds int) error {
		return s.exec(ctx, "set up the session", fmt.Sprintf("SET SESSION lock_wait_timeout = %d", seconds))
	}
	if err := set(int(sqlsink.ShortLockWait / time.Second)); err != nil {
		return err
	}
	err := do()
	if lost := new(connectionError); errors.As(err, &lost) {
		return err
	}
	if failed := set(s.lockWait()); failed != nil {
		return failed
	}
	return err
}

// working asks by another session whether the server is at work on the call.
func (s *session) working(ctx context.Context) sqlsink.Work {
	other, err := s.dialect.connect(ctx)
	if err != nil {
		return sqlsink.Work{}
	}
	defer other.Close(ctx)
	rows, err := other.query(ctx, "ask whether the server is at work", "SELECT COUNT(*) FROM information_schema.processlist WHERE id = "+s.id+" AND command <> 'Sleep'")
	return sqlsink.Work{Active: err == nil && len(rows) == 1 && rows[0][0] == "1"}
}

// kill ends the session at the server, which does not notice that a client is gone while it
// is at work for it.
func (s *session) kill(ctx context.Context) {
	other, err := s.dialect.connect(ctx)
	if err == nil {
		err = other.exec(ctx, "end a session", "KILL "+s.id)
		_ = other.Close(ctx)
	}
	if err != nil {
		s.dialect.env.Logger.Debug("ending a session that does not answer", "error", err)
	}
}

// asked reads the rows that LOAD DATA LOCAL INFILE asks for. Meanwhile the server waits.
type asked struct{ s *session }

func (a asked) Read(p []byte) (int, error) {
	a.s.call.Pause()
	defer a.s.call.Resume()
	return a.s.source.Read(p)
}

// metadataLocksQuery lists the sessions that have or await locks on tables. Every
// transaction that has read or written a table has one until its end. Of those that only
// read, the types are left out unless they count.
const metadataLocksQuery = `SELECT DISTINCT t.processlist_id, t.processlist_user, t.processlist_command, t.processlist_time
FROM performance_schema.metadata_locks AS m JOIN performance_schema.threads AS t ON t.thread_id = m.owner_thread_id
WHERE m.object_type = 'TABLE' AND m.object_schema = DATABASE() AND m.object_name IN (%s) AND t.processlist_id <> CONNECTION_ID()%s
ORDER BY t.processlist_time DESC LIMIT 3`

const noReaders = " AND m.lock_type NOT IN ('SHARED', 'SHARED_HIGH_PRIO', 'SHARED_READ')"

// transactionsQuery lists open transactions, whose tables are not told.
const transactionsQuery = `SELECT p.id, p.user, p.command, p.time
FROM information_schema.innodb_trx AS t JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id
WHERE p.id <> CONNECTION_ID() ORDER BY p.time DESC LIMIT 3`

// Blockers describes the sessions that have locks on tables. If the server does not keep
// account of those, as MariaDB does not unless it is told to, or the user may not read it, it
// describes open transactions. For these the user needs the privilege PROCESS.
func (s *session) Blockers(ctx context.Context, tables []string, change bool) (string, error) {
	names, readers := make([]string, len(tables)), noReaders
	for i, t := range tables {
		names[i] = literal(t)
	}
	if change {
		readers = ""
	}
	sessions, err := s.describeSessions(ctx, fmt.Sprintf(metadataLocksQuery, strings.Join(names, ", "), readers))
	if err == nil && len(sessions) > 0 {
		return sqlsink.Blocking(tables, sessions), nil
	}
	if sessions, err = s.describeSessions(ctx, transactionsQuery); err != nil || len(sessions) == 0 {
		return "", err
	}
	return "open transactions: " + strings.Join(sessions, "; "), nil
}

func (s *session) describeSessions(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.query(ctx, "ask who has locks", sql)
	sessions := make([]string, len(rows))
	for i, row := range rows {
		sessions[i] = fmt.Sprintf("connection %s (user %q, %s for %s s)", row[0], row[1], row[2], row[3])
	}
	return sessions, err
}
