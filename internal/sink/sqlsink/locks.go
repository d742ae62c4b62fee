package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

// ShortLockWait is the maximum time that a statement that blocks readers waits for a lock. While
// such a statement waits, new readers queue behind it.
const ShortLockWait = time.Second

// lockPause is the longest pause between two such waits. During the pause, readers can proceed.
const lockPause = 1500 * time.Millisecond

// LockReporter is a Conn that can identify the sessions that hold locks.
type LockReporter interface {
	// Blockers describes the other sessions that hold or wait for locks on the named tables. If
	// the parameter change is false, it describes only the sessions that block writers. It omits
	// the statements of the sessions, which may contain values. It returns "" if it finds no
	// session, or lacks the privileges to find any.
	Blockers(ctx context.Context, tables []string, change bool) (string, error)
}

// lockError is the error of a statement that did not get its locks in time.
type lockError struct {
	err      error
	blockers string // "" if unknown
}

func (e *lockError) Error() string {
	if e.blockers == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("%v; %s", e.err, e.blockers)
}

func (e *lockError) Unwrap() error { return e.err }

// Blocking formats descriptions of sessions as the result of LockReporter.Blockers.
func Blocking(tables, sessions []string) string {
	if len(sessions) == 0 {
		return ""
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = fmt.Sprintf("%q", t)
	}
	return fmt.Sprintf("locks on %s are held by %s", strings.Join(names, ", "), strings.Join(sessions, "; "))
}

// retryLocked calls the callback do, which changes tables. It repeats the call until the change
// gets its locks, or until the time of the option lock_timeout has passed. Each call waits at most
// ShortLockWait and is a separate transaction, so that readers can proceed between two calls.
func (s *Sink) retryLocked(ctx context.Context, conn Conn, what string, tables []string, do func() error) error {
	reported := false
	var last error // of do; retry.Do returns the cause of a context that has ended instead
	err := retry.Do(ctx, retry.Policy{
		Backoff: retry.Backoff{Min: lockPause, Max: lockPause}, Patience: max(s.options.LockTimeout, 1), Since: time.Now(),
		Retryable: s.locked,
		Failed: func(err error, _ time.Duration) {
			if !reported {
				reported = true
				err = s.blame(ctx, conn, tables, true, err)
				s.log.Info("waiting for a lock that another session holds", "action", what, "error", err)
			}
		},
	}, func() error {
		last = do()
		return last
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() == nil && s.locked(last):
		return s.blame(ctx, conn, tables, true, last)
	}
	return last
}

// locked reports whether err says that another session did not release a lock in time, and the
// session that waited is still usable.
func (s *Sink) locked(err error) bool {
	v := s.dialect.Classify(err)
	return v.Locked && !v.Lost && !errors.As(err, new(*lostError))
}

// blame adds to err a description of the sessions that hold locks on the tables.
func (s *Sink) blame(ctx context.Context, conn Conn, tables []string, change bool, err error) error {
	reporter, ok := conn.(LockReporter)
	if !ok {
		return err
	}
	blockers, failed := reporter.Blockers(ctx, tables, change)
	if failed != nil {
		s.log.Debug("find the sessions that hold locks", "error", failed)
	}
	return &lockError{err, blockers}
}

// blameWriters is like blame, for a statement that writes rows. If err names the table of its
// statement, blameWriters uses that table instead of the given tables.
func (s *Sink) blameWriters(ctx context.Context, conn Conn, err error, tables ...string) error {
	if !s.locked(err) || errors.As(err, new(*lockError)) {
		return err
	}
	if about := new(StatementError); errors.As(err, &about) {
		tables = []string{s.dialect.Name(about.Table)}
	}
	return s.blame(ctx, conn, tables, false, err)
}
