package sqlite

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// faulty is a dialect whose calls can be made to fail, either before or after they have taken
// effect.
type faulty struct {
	*dialect

	mu      sync.Mutex
	steps   int
	breakAt int // the step after which every call fails, or negative for none
	mode    sinktest.Mode
}

var errBroken = errors.New("the call was broken")

func (f *faulty) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

func (f *faulty) Break(n int, mode sinktest.Mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.breakAt, f.mode = f.steps+n, mode
}

func (f *faulty) Repair() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.breakAt = -1
}

// call runs do as one step.
func (f *faulty) call(do func() error) error {
	f.mu.Lock()
	f.steps++
	broken := f.breakAt >= 0 && f.steps > f.breakAt
	lost := broken && (f.mode == sinktest.Lost || f.steps > f.breakAt+1)
	f.mu.Unlock()
	if lost {
		return errBroken
	}
	err := do()
	if broken {
		return errBroken
	}
	return err
}

func (f *faulty) Classify(err error) sqlsink.Verdict {
	if errors.Is(err, errBroken) {
		return sqlsink.Verdict{Lost: true}
	}
	return f.dialect.Classify(err)
}

func (f *faulty) Connect(ctx context.Context) (sqlsink.Conn, error) {
	var c sqlsink.Conn
	err := f.call(func() (err error) {
		c, err = f.dialect.Connect(ctx)
		return err
	})
	if err != nil && c != nil {
		err = errors.Join(err, c.Close(ctx))
	}
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: c, f: f}, nil
}

type faultyConn struct {
	sqlsink.Conn // Close is never broken
	f            *faulty
}

func (c *faultyConn) Tables(ctx context.Context, names []string) (found []*sqlsink.RealTable, err error) {
	err = c.f.call(func() error {
		found, err = c.Conn.Tables(ctx, names)
		return err
	})
	return found, err
}

func (c *faultyConn) Exec(ctx context.Context, statements []string) error {
	return c.f.call(func() error { return c.Conn.Exec(ctx, statements) })
}

func (c *faultyConn) Begin(ctx context.Context) (sqlsink.Tx, error) {
	var t sqlsink.Tx
	err := c.f.call(func() (err error) {
		t, err = c.Conn.Begin(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &faultyTx{Tx: t, f: c.f}, nil
}

func (c *faultyConn) Read(ctx context.Context, l *sqlsink.Layout) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		if err := c.f.call(func() error { return nil }); err != nil {
			yield(nil, err)
			return
		}
		c.Conn.Read(ctx, l)(yield)
	}
}

func (c *faultyConn) Stage(ctx context.Context, live *sqlsink.Layout, name string) error {
	return c.f.call(func() error { return c.Conn.Stage(ctx, live, name) })
}

func (c *faultyConn) Count(ctx context.Context, l *sqlsink.Layout) (n int64, err error) {
	err = c.f.call(func() error {
		n, err = c.Conn.Count(ctx, l)
		return err
	})
	return n, err
}

func (c *faultyConn) Seal(ctx context.Context, stage, live *sqlsink.Layout) error {
	return c.f.call(func() error { return c.Conn.Seal(ctx, stage, live) })
}

func (c *faultyConn) CanWrite(ctx context.Context) error {
	return c.f.call(func() error { return c.Conn.CanWrite(ctx) })
}

type faultyTx struct {
	sqlsink.Tx
	f *faulty
}

func (t *faultyTx) Write(ctx context.Context, w *sqlsink.Write) error {
	return t.f.call(func() error { return t.Tx.Write(ctx, w) })
}

func (t *faultyTx) Checkpoint(ctx context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	return t.f.call(func() error { return t.Tx.Checkpoint(ctx, l, from, c) })
}

func (t *faultyTx) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (n int64, err error) {
	err = t.f.call(func() error {
		n, err = t.Tx.Append(ctx, stage, rows)
		return err
	})
	return n, err
}

func (t *faultyTx) Place(ctx context.Context, stage, live *sqlsink.Layout, mode sink.LoadMode) error {
	return t.f.call(func() error { return t.Tx.Place(ctx, stage, live, mode) })
}

func (t *faultyTx) Drop(ctx context.Context, table string) error {
	return t.f.call(func() error { return t.Tx.Drop(ctx, table) })
}

func (t *faultyTx) Commit(ctx context.Context) error {
	return t.f.call(func() error { return t.Tx.Commit(ctx) })
}

func (t *faultyTx) Rollback(ctx context.Context) error {
	return t.f.call(func() error { return t.Tx.Rollback(ctx) })
}
