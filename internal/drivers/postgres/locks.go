package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// lockWait returns a statement, ending in a semicolon, that limits how long the transaction waits
// for each lock. It returns "" for CockroachDB, which changes tables without blocking readers.
func (s *sqlSession) lockWait(d time.Duration) string {
	if s.features.Cockroach {
		return ""
	}
	return "SET LOCAL lock_timeout = " + milliseconds(d) + "; "
}

// working uses another session to ask the server whether the server is still processing
// this session's call. Behind a pooler, the server process of a session is unknown, so working
// reports an active call if the server answers at all.
func (s *sqlSession) working(ctx context.Context) sqlsink.Work {
	const what = "ask whether the server still works on a call"
	other, err := s.dialect.connect(ctx)
	if err != nil {
		return sqlsink.Work{}
	}
	defer other.Close(ctx)
	pid := fmt.Sprint(s.pg.PID())
	rows, err := other.query(ctx, what,
		"SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = $1::int AND state = 'active'", pid)
	work := sqlsink.Work{Active: err == nil && len(rows) == 1 && (!s.features.KeepsState || rows[0].text(0) == "1")}
	if !work.Active || !s.features.KeepsState {
		return work
	}
	rows, err = other.query(ctx, what, indexProgress, pid)
	if err == nil && len(rows) == 1 {
		work.Progress = rows[0].text(0)
	}
	return work
}

// indexProgress returns the progress of an index build in the session with the given process id.
// The query fails on versions before 12, which do not report the progress.
const indexProgress = `
SELECT concat_ws(' ', p.phase, p.blocks_done, p.tuples_done, p.lockers_done, p.index_relid, a.wait_event)
  FROM pg_catalog.pg_stat_progress_create_index p JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE pid = $1::int`

// blockersQuery lists up to three sessions that hold or await locks on tables. The session with the
// longest transaction comes first. The query's parameters are those of catalogueQuery, and a
// boolean that says whether to include sessions that have only readers' locks. Unless the user has
// the role pg_read_all_stats, the server hides the times of other users' sessions.
const blockersQuery = `
SELECT a.pid::text, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start)::bigint::text, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.query_start)::bigint::text, '')
  FROM pg_catalog.pg_stat_activity a
 WHERE a.pid <> pg_backend_pid()
   AND a.pid IN (SELECT l.pid
                   FROM pg_catalog.pg_locks l
                   JOIN pg_catalog.pg_class c ON c.oid = l.relation
                   JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
                   JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = current_database()
                  WHERE s.nspname = $1 AND c.relname IN (SELECT json_array_elements_text($2::json))
                    AND ($3::bool OR l.mode <> 'AccessShareLock'))
 ORDER BY a.xact_start NULLS LAST
 LIMIT 3`

// Blockers describes the sessions that hold or await locks on tables. It returns "" on CockroachDB.
// If the parameter change is true, it includes sessions that have only readers' locks, because such
// locks block DDL.
func (s *sqlSession) Blockers(ctx context.Context, tables []string, change bool) (string, error) {
	if s.features.Cockroach {
		return "", nil
	}
	list, err := json.Marshal(tables)
	if err != nil {
		return "", err
	}
	rows, err := s.query(ctx, "list the holders of locks", blockersQuery, s.namespace, string(list), fmt.Sprint(change))
	if err != nil {
		return "", err
	}
	blockers := make([]string, len(rows))
	for i, row := range rows {
		blockers[i] = describeBlocker(row)
	}
	return sqlsink.Blocking(tables, blockers), nil
}

// describeBlocker formats a row of blockersQuery for a message.
func describeBlocker(row resultRow) string {
	text := fmt.Sprintf("pid %s (user %q", row.text(0), row.text(1))
	if application := row.text(2); application != "" {
		text += fmt.Sprintf(", application %q", application)
	}
	if state := row.text(3); state != "" {
		text += ", " + state
	}
	if age := row.text(4); age != "" {
		text += fmt.Sprintf(", transaction for %s s", age)
	}
	switch age := row.text(5); {
	case age != "" && row.text(3) == "active":
		text += fmt.Sprintf(", statement for %s s", age)
	case age != "":
		text += fmt.Sprintf(", last statement began %s s ago", age)
	}
	return text + ")"
}
