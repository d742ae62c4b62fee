package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// StatementError is the database's error for a statement about one table.
type StatementError struct {
	Table string // the source's name of the table
	Err   error
}

func (e *StatementError) Error() string { return e.Err.Error() }
func (e *StatementError) Unwrap() error { return e.Err }

// About returns err as a *StatementError about the layout's table, or nil if err is nil.
func About(l *Layout, err error) error {
	if err == nil {
		return nil
	}
	return &StatementError{l.Table.Name, err}
}

// refused returns err as a *sink.TableError with the class fatal.
func refused(table string, err error) error {
	return fault.Mark(fault.Fatal, &sink.TableError{Table: table, Err: err})
}

// isRefused reports whether the chain of err contains a *sink.TableError.
func isRefused(err error) bool { return errors.As(err, new(*sink.TableError)) }

// refuseStatement returns err as a *sink.TableError if the database permanently refuses
// statements about one table, but accepts statements about other tables. If again is true, the
// statement has already failed once and the catalogue has been read again; an error that blames a
// stale catalogue then also counts as permanent.
func (s *Sink) refuseStatement(ctx context.Context, conn Conn, err error, again bool) error {
	about := new(StatementError)
	if !errors.As(err, &about) || isRefused(err) || s.ownTables[about.Table] != nil {
		return err
	}
	v := s.verdict(err)
	if v.Lost || v.Class != fault.Fatal && !(again && v.Stale) || !s.othersWork(ctx, conn) {
		return err
	}
	return refused(about.Table, err)
}

// refuseStep is like refuseStatement, for an error of a step of t's migration. A missing
// permission to create tables affects all tables of the schema, so it is not a refusal of t
// alone.
func (s *Sink) refuseStep(ctx context.Context, conn Conn, t *schema.Table, step MigrationStep, err error) error {
	v := s.verdict(err)
	switch {
	case s.isOwn(t), v.Lost, v.Class == fault.Refused:
		return err
	case v.Class == fault.Fatal && step.Kind == CreateTable:
		return err
	case v.Class == fault.Transient && !v.Stale, !s.othersWork(ctx, conn):
		return err
	}
	return refused(t.Name, err)
}

// othersWork reports whether statements about other tables still work. It tries to read the
// checkpoint. Before this process has read a checkpoint, it returns true.
func (s *Sink) othersWork(ctx context.Context, conn Conn) bool {
	if !s.held {
		return true
	}
	l, err := s.readLayout(ctx, conn, s.ownTables[checkpointTable])
	if l == nil || err != nil {
		return false
	}
	_, err = readCheckpoints(ctx, conn, l)
	return err == nil
}

// obstacle returns the reason why t cannot be created or written, or nil. Either another object
// has the table's name, or real is nil although the table was imported before. Only an import
// recreates a table that has a snapshot.
func (s *Sink) obstacle(ctx context.Context, conn Conn, t *schema.Table, real *RealTable, imports bool) error {
	if s.isOwn(t) || real != nil && real.Other == "" {
		return nil
	}
	imported := false
	if !imports {
		var err error
		if imported, err = s.wasImported(ctx, conn, t.Name); err != nil {
			return err
		}
	}
	switch {
	case real == nil && !imported:
		return nil
	case real == nil:
		return refused(t.Name, sink.ErrMissing)
	case imported:
		return refused(t.Name, fmt.Errorf("%w: %w", sink.ErrMissing, notTable(real)))
	}
	return refused(t.Name, notTable(real))
}

func notTable(real *RealTable) error {
	return fmt.Errorf("%s has the name %q in the database: drop or rename it, then import the table", real.Other, real.Name)
}

// wasImported reports whether the destination has recorded a snapshot of the table.
func (s *Sink) wasImported(ctx context.Context, conn Conn, table string) (bool, error) {
	snapshots, err := s.storedSnapshots(ctx, conn)
	return slices.ContainsFunc(snapshots, func(snapshot sink.LoadRecord) bool { return snapshot.Table == table }), err
}
