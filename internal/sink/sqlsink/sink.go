package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// rollbackTimeout is the time limit for a rollback, and for closing a session cleanly. After the
// limit, the connection is abandoned.
const rollbackTimeout = 5 * time.Second

// Sink is a SQL destination.
type Sink struct {
	dialect Dialect
	options Options
	env     sink.Env
	log     *slog.Logger

	mu   sync.Mutex // guards all fields below it
	conn Conn       // nil if not connected

	tables  map[string]*RealTable // by real name; a nil value means that the table does not exist
	layouts map[*schema.Table]*Layout
	refused map[string]bool // widening and relaxing steps that the database does not support

	ownTables  map[string]*schema.Table // the engine's tables by name; never changed
	watchTicks func() (ticks <-chan time.Time, stop func())

	// If known is set, low is the position of the stored checkpoint, states are the stored
	// states, and position is the position that the tables without a state have reached.
	position cdc.Position
	low      cdc.Position
	states   states
	known    bool
	held     bool // this process owns the checkpoint, so another value in the database is an error
	// unavailable is the reason why the destination keeps no records, or nil if it keeps records.
	unavailable error
	begun       *engineRecords // the records that Records has read
	beginning   int64          // the epoch that Begin will use
	epoch       int64          // this process's epoch, or 0 before Begin
	generation  int64          // the stored checkpoint's generation
	placings    []placing      // pending placings that Records has found
	seen        int64          // the latest result of signOfLife
	attempted   cdc.Position   // the position of the latest transaction, whose outcome may be unknown

	// numbering is locked by a load from the time that the load gets its generation until the load
	// has committed.
	numbering sync.Mutex
	issued    atomic.Int64 // the latest generation of a load
}

var (
	_ sink.Sink         = (*Sink)(nil)
	_ sink.Recorder     = (*Sink)(nil)
	_ sink.FilterReader = (*Sink)(nil)
	_ sink.Migrator     = (*Sink)(nil)
	_ sink.Reader       = (*Sink)(nil)
	_ sink.Inspector    = (*Sink)(nil)
)

// Open connects to the destination.
func Open(ctx context.Context, d Dialect, options Options, env sink.Env) (*Sink, error) {
	env = env.Complete()
	s := &Sink{
		dialect: d, options: options, env: env, log: env.Logger,
		tables: make(map[string]*RealTable), layouts: make(map[*schema.Table]*Layout), refused: make(map[string]bool),
		ownTables: ownTables(), watchTicks: watchTicks,
	}
	if _, err := s.connection(ctx); err != nil {
		return nil, s.fail("connect", err)
	}
	return s, nil
}

// Close records that this process has stopped writing, and closes the connection.
func (s *Sink) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rollbackTimeout)
	defer cancel()
	err := errors.Join(s.release(ctx), s.conn.Close(ctx))
	s.conn = nil
	return err
}

// connection returns the open connection, or opens one.
func (s *Sink) connection(ctx context.Context) (Conn, error) {
	if s.conn != nil {
		return s.conn, nil
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return conn, nil
}

// connect opens a connection, and reports to Env.Access that the destination grants access.
func (s *Sink) connect(ctx context.Context) (Conn, error) {
	conn, err := s.dialect.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return conn, s.env.Access.Outcome(nil)
}

// Apply writes the batch and its checkpoint in one transaction. If the outcome of an earlier
// attempt is unknown, the stored checkpoint shows whether that attempt was durable.
func (s *Sink) Apply(ctx context.Context, b *change.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "apply the batch", func(conn Conn) error { return s.apply(ctx, conn, b, nil) })
}

// attempt runs the callback do on the connection. If the connection was lost while idle, or the
// catalogue is stale, attempt runs the callback a second time.
func (s *Sink) attempt(ctx context.Context, what string, do func(conn Conn) error) error {
	for again := false; ; again = true {
		kept := s.conn != nil
		conn, err := s.connection(ctx)
		if err != nil {
			return s.fail(what, err)
		}
		if err = do(conn); err == nil {
			return nil
		}
		v := s.recover(ctx, err)
		idle := v.Lost && kept && !errors.As(err, new(*SilentError))
		if !again && ctx.Err() == nil && (v.Stale || idle) {
			s.log.Info("retrying at once", "action", what, "reason", err)
			continue
		}
		if !v.Lost {
			err = s.refuseStatement(ctx, conn, s.blameWriters(ctx, conn, err, checkpointTable), again)
		}
		return s.fail(what, err)
	}
}

// recover prepares the sink for another attempt after err, and returns the meaning of err.
func (s *Sink) recover(ctx context.Context, err error) Verdict {
	v := s.verdict(err)
	s.known = false
	if v.Lost && s.conn != nil {
		s.abandon(ctx, s.conn)
		s.conn = nil
	}
	if v.Lost || v.Stale {
		// A restored database, or another one with the same address, looks like a lost
		// connection. It may have other tables.
		s.forgetTables()
	}
	return v
}

// abandon closes a connection whose server may no longer answer. It waits at most
// rollbackTimeout.
func (s *Sink) abandon(ctx context.Context, conn Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if err := conn.Close(ctx); err != nil {
		s.log.Debug("closing a lost connection", "error", err)
	}
}

// verdict classifies err with Dialect.Classify. A class that err already has takes precedence.
func (s *Sink) verdict(err error) Verdict {
	if isRefused(err) {
		return Verdict{Class: fault.Fatal}
	}
	v := s.dialect.Classify(err)
	if lost := new(lostError); errors.As(err, &lost) {
		v.Lost = true
	}
	if marked := new(fault.Error); errors.As(err, &marked) {
		v.Class, v.RetryAfter = marked.Class, marked.RetryAfter
	}
	return v
}

// fail returns err for the caller, with the name of the failed operation and with its class.
func (s *Sink) fail(what string, err error) error {
	v := s.verdict(err)
	return s.env.Access.Outcome(&fault.Error{Class: v.Class, RetryAfter: v.RetryAfter, Err: fmt.Errorf("%s: %w", what, err)})
}

func (s *Sink) apply(ctx context.Context, conn Conn, b *change.Batch, changed []sink.TableState) error {
	checkpoints, err := s.checkpoints(ctx, conn)
	if err != nil {
		return err
	}
	if len(changed) > 0 && (s.unavailable != nil || s.epoch == 0) {
		return fault.Mark(fault.Fatal, errNoStates)
	}
	if checkpoints != nil && s.position.Covers(b.Last) && len(changed) == 0 {
		return nil
	}
	next := s.position
	if !next.Covers(b.Last) {
		next = next.Advance(b.Last)
	}
	return s.store(ctx, conn, checkpoints, b, next, changed)
}

// writes maps the batch's sets onto real tables. It migrates tables that do not have a layout
// yet.
func (s *Sink) writes(ctx context.Context, conn Conn, b *change.Batch) ([]*Write, error) {
	if err := s.ensureLayouts(ctx, conn, b); err != nil {
		return nil, err
	}
	writes := make([]*Write, 0, len(b.Sets))
	now := time.Now().UTC()
	for _, set := range b.Sets {
		l, err := s.layout(ctx, conn, set.Table)
		if err != nil {
			return nil, err
		}
		writes = append(writes, &Write{Layout: l, Deletes: set.Deletes, Upserts: set.Upserts, Synced: now})
	}
	return writes, nil
}

// transact runs the callback do in a transaction, and commits the transaction. If the callback or
// the commit fails, transact rolls back.
func (s *Sink) transact(ctx context.Context, conn Conn, do func(tx Tx) error) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if err = do(tx); err == nil {
		err = tx.Commit(ctx)
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if failed := tx.Rollback(undo); failed != nil && !s.dialect.Classify(err).Lost { // a lost connection cannot roll back
		return &lostError{err, failed}
	}
	return err
}

// lostError says that a transaction failed with err and that its rollback failed, too, so the
// connection is unusable.
type lostError struct{ err, rollback error }

func (e *lostError) Error() string { return fmt.Sprintf("%v (and roll back: %v)", e.err, e.rollback) }
func (e *lostError) Unwrap() error { return e.err }
