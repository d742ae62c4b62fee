package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// ShortLockWait is how long a statement that keeps readers out waits for its lock at a
// time: while it waits, later readers wait behind it.
const ShortLockWait = time.Second

// lockPause is how long readers have between two such waits, on average.
const lockPause = time.Second

// LockReporter is a Conn that can tell who has locks.
type LockReporter interface {
	// Blockers says which other sessions have, or wait for, locks on the named tables that
	// keep writers out, or any locks if the tables were to be changed. It says nothing of their
	// statements, which may hold values. It returns "" if it finds none, or may not know.
	Blockers(ctx context.Context, tables []string, change bool) (string, error)
}

// lockError is an error of a statement that did not get its locks in time.
type lockError struct {
	err      error
	blockers string // "": not known
}

func (e *lockError) Error() string {
	if e.blockers == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("%v; %s", e.err, e.blockers)
}

func (e *lockError) Unwrap() error { return e.err }

// Blocking is the text of LockReporter about sessions with locks on tables, each of which is
// described.
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

// retryLocked calls do, which changes tables, until it gets its locks, for as long as the
// option lock_timeout says. Each attempt waits for ShortLockWait at most and is a transaction
// of its own, so that readers get their turn in between.
func (s *Sink) retryLocked(ctx context.Context, conn Conn, what string, tables []string, do func() error) error {
	end := time.Now().Add(s.options.LockTimeout)
	for first := true; ; first = false {
		err := do()
		if err == nil || !s.locked(err) {
			return err
		}
		pause := lockPause/2 + rand.N(lockPause)
		last := time.Now().Add(pause).After(end)
		if first || last {
			err = s.blame(ctx, conn, tables, true, err)
		}
		if last {
			return err
		}
		if first {
			s.log.Info("waiting for a lock that another session holds", "action", what, "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// locked reports whether err says that a lock was not to be had in time, and the session is
// of use.
func (s *Sink) locked(err error) bool {
	v := s.dialect.Classify(err)
	return v.Locked && !v.Lost && !errors.As(err, new(*lostError))
}

// blame returns err with who has locks on the tables.
func (s *Sink) blame(ctx context.Context, conn Conn, tables []string, change bool, err error) error {
	reporter, ok := conn.(LockReporter)
	if !ok {
		return err
	}
	blockers, failed := reporter.Blockers(ctx, tables, change)
	if failed != nil {
		s.log.Debug("asking who holds locks", "error", failed)
	}
	return &lockError{err, blockers}
}

// blameWriters is blame of a statement that writes rows of a table, of the given ones if the
// error names none.
func (s *Sink) blameWriters(ctx context.Context, conn Conn, err error, tables ...string) error {
	if !s.locked(err) || errors.As(err, new(*lockError)) {
		return err
	}
	if about := new(StatementError); errors.As(err, &about) {
		tables = []string{s.dialect.Name(about.Table)}
	}
	return s.blame(ctx, conn, tables, false, err)
}
