package mysql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// lockWait returns the maximum time, in seconds, that a statement waits for a lock.
func (s *sqlSession) lockWait() int { return int(s.dialect.timeouts.Lock.Seconds()) }

// waitShortly calls the function do, and limits lock waits on tables to sqlsink.ShortLockWait
// during the call. The limit is short because readers of a table have to wait behind a statement
// that waits to change the table.
func (s *sqlSession) waitShortly(ctx context.Context, do func() error) error {
	set := func(seconds int) error {
		return s.exec(ctx, "set up the session", fmt.Sprintf("SET SESSION lock_wait_timeout = %d", seconds))
	}
	if err := set(int(sqlsink.ShortLockWait / time.Second)); err != nil {
		return err
	}
	err := do()
	if lost := new(sqlsink.ConnectionError); errors.As(err, &lost) {
		return err
	}
	if failed := set(s.lockWait()); failed != nil {
		return failed
	}
	return err
}

// working uses another session to ask the server whether the server is still processing
// this session's call.
func (s *sqlSession) working(ctx context.Context) sqlsink.Work {
	other, err := s.dialect.connect(ctx)
	if err != nil {
		return sqlsink.Work{}
	}
	defer other.Close(ctx)
	rows, err := other.query(ctx, "ask whether the server still works on a call",
		"SELECT COUNT(*) FROM information_schema.processlist WHERE id = "+s.id+" AND command <> 'Sleep'")
	return sqlsink.Work{Active: err == nil && len(rows) == 1 && rows[0][0] == "1"}
}

// kill ends this session at the server, through another session. A server does not notice that its
// client is gone while it processes a statement.
func (s *sqlSession) kill(ctx context.Context) {
	other, err := s.dialect.connect(ctx)
	if err == nil {
		err = other.exec(ctx, "end a session", "KILL "+s.id)
		_ = other.Close(ctx)
	}
	if err != nil {
		s.dialect.env.Logger.Debug("cannot end a session that does not respond", "error", err)
	}
}

// pausingReader reads from the session's source for LOAD DATA LOCAL INFILE. It pauses the call's
// deadline while the source encodes rows.
type pausingReader struct{ s *sqlSession }

func (r pausingReader) Read(p []byte) (int, error) {
	r.s.call.Pause()
	defer r.s.call.Resume()
	return r.s.source.Read(p)
}

// metadataLocksQuery lists up to three sessions that hold or await metadata locks on tables. Every
// transaction that has read or written a table holds such a lock until the transaction ends.
const metadataLocksQuery = `SELECT DISTINCT t.processlist_id, t.processlist_user, t.processlist_command, t.processlist_time
FROM performance_schema.metadata_locks AS m JOIN performance_schema.threads AS t ON t.thread_id = m.owner_thread_id
WHERE m.object_type = 'TABLE' AND m.object_schema = DATABASE() AND m.object_name IN (%s) AND t.processlist_id <> CONNECTION_ID()%s
ORDER BY t.processlist_time DESC LIMIT 3`

// noReaders is a condition of metadataLocksQuery that leaves out sessions that only read the
// tables.
const noReaders = " AND m.lock_type NOT IN ('SHARED', 'SHARED_HIGH_PRIO', 'SHARED_READ')"

// transactionsQuery lists up to three sessions with open transactions. The server does not report
// which tables a transaction uses.
const transactionsQuery = `SELECT p.id, p.user, p.command, p.time
FROM information_schema.innodb_trx AS t JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id
WHERE p.id <> CONNECTION_ID() ORDER BY p.time DESC LIMIT 3`

// Blockers describes the sessions that hold or await locks on tables. If the parameter change is
// true, it includes sessions that only read, because readers block DDL. By default, MariaDB does
// not list locks. If the server does not list locks, or the user lacks permission to read the list,
// Blockers describes open transactions instead. Listing transactions needs the privilege PROCESS.
func (s *sqlSession) Blockers(ctx context.Context, tables []string, change bool) (string, error) {
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

func (s *sqlSession) describeSessions(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.query(ctx, "list the holders of locks", sql)
	sessions := make([]string, len(rows))
	for i, row := range rows {
		sessions[i] = fmt.Sprintf("connection %s (user %q, %s for %s s)", row[0], row[1], row[2], row[3])
	}
	return sessions, err
}
